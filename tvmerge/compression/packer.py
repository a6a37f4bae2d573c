"""Writes packed task vectors (docs/packed.md): lays out the parts of every tensor, then fills them.

Which elements are the largest is measured first, as it is for the methods that trim: the exact cut
of each tensor decides how many of its values there are, and so every part's place.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from tvmerge import _core
from tvmerge.checkpoints.stored import KIND_KEY, TASK_VECTOR, Slot, Stored
from tvmerge.engine.cuts import cuts_of
from tvmerge.engine.decisions import Consensus, Delta, Keep
from tvmerge.engine.devices import lent
from tvmerge.engine.jobs import Combine, Range
from tvmerge.engine.measuring import Engine
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError, storage_errors
from tvmerge.files.computed import Sources
from tvmerge.files.safetensors import DTYPE_BITS, FLOAT_DTYPES, Entry
from tvmerge.inputs.forms import INT8, TOP_K, Form
from tvmerge.inputs.packed import PACKED_KEY
from tvmerge.inputs.packed_tensor import Parts, int8_parts, top_k_parts
from tvmerge.merging.output import check_destination
from tvmerge.merging.unbatched import save_unbatched
from tvmerge.merging.unfinished import Unfinished
from tvmerge.plans.outcome import COMBINED, TensorOutcome
from tvmerge.plans.shards import OutFile, OutShard, lay_out
from tvmerge.receipts.receipt import VECTOR, Receipt, Recipe

if TYPE_CHECKING:
    from tvmerge.inputs.packing import Largest

_ZEROS = "F8_E4M3"  # the dtype of a file of zeros: narrow, and so read fast


def save_packed(
    stored: Stored, form: Form, out: str | os.PathLike[str], options: RunOptions
) -> Receipt:
    """Write the task vector in the form to the folder `out`; see `compress`."""
    if options.ray_address is not None:
        raise ConfigError(f"{form}: is written by one machine. Leave --ray-address away")
    check_destination(Path(out), [stored])
    options.buffer_bytes()  # which says whether the memory limit leaves room for blocks
    packer = _Packer(stored, form, options)
    recipe = Recipe(kind=VECTOR, donor=0, form=str(form))
    return save_unbatched(out, recipe, {stored: 1.0}, packer.shards, packer.write, options)


class _Packer:
    """Where everything goes, decided at once, and then its writing."""

    def __init__(self, stored: Stored, form: Form, options: RunOptions) -> None:
        self._options = options
        self._files = [
            [Slot(file, entry) for entry in header.entries if entry.dtype in FLOAT_DTYPES]
            for file, header in stored.shards
        ]
        slots = [slot for file in self._files for slot in file]
        self._size_bytes = sum(slot.entry.size_bytes for slot in slots)
        self._passes, self._read_bytes = 1, 0
        self._largest: dict[str, Largest] = {}
        if form.name == TOP_K:
            self._passes = 2
            self._largest = self._select(slots, form)
            self._read_bytes = self._size_bytes
        self.shards = lay_out(
            [self._out_file([slot.entry for slot in file], form) for file in self._files],
            {"format": "pt", KIND_KEY: TASK_VECTOR},
        )

    def write(self, work: Unfinished) -> list[TensorOutcome]:
        """Write the parts of all shards, and say what became of every tensor."""
        with ExitStack() as opened:
            sources = Sources(opened, self._options.thread_count())
            return [
                outcome
                for shard, slots in zip(self.shards, self._files, strict=True)
                for outcome in self._fill(work.part(shard.name), shard, slots, sources)
            ]

    def _fill(
        self, path: Path, shard: OutShard, slots: Sequence[Slot], sources: Sources
    ) -> Iterator[TensorOutcome]:
        from tvmerge.inputs.packing import reader, write_int8, write_largest  # which need numpy

        parts: dict[str, dict[str, Entry]] = defaultdict(dict)
        for entry in shard.entries:
            name, _, part = entry.name.rpartition(":")
            parts[name][part] = entry
        _core.allocate(os.fspath(path), shard.size_bytes)
        with storage_errors(path), path.open("r+b", buffering=0) as out:
            for slot in slots:
                name, elements, read = slot.entry.name, slot.entry.elements, reader(sources, slot)
                if name in self._largest:
                    edit = write_largest(out, parts[name], elements, read, self._largest[name])
                else:
                    edit = write_int8(out, parts[name], read, f"{slot.file}: {name}")
                self._read_bytes += slot.entry.size_bytes
                self._tell(self._read_bytes)
                yield TensorOutcome(name, "F32", elements, COMBINED, "in the sum", edit)

    def _out_file(self, entries: Sequence[Entry], form: Form) -> OutFile:
        """The parts of a file's tensors, the widest dtypes first, so that each is aligned."""
        tensors = [
            (f"{entry.name}:{part}", dtype, shape)
            for entry in entries
            for part, (dtype, shape) in self._parts(entry, form).items()
        ]
        tensors.sort(key=lambda tensor: -DTYPE_BITS[tensor[1]])
        shapes = json.dumps({entry.name: entry.shape for entry in entries}, separators=(",", ":"))
        return OutFile("vector", tensors, metadata={PACKED_KEY: shapes})

    def _parts(self, entry: Entry, form: Form) -> Parts:
        if form.name == INT8:
            return int8_parts(entry.shape)
        return top_k_parts(entry.elements, self._largest[entry.name].count, entry.dtype)

    def _select(self, slots: Sequence[Slot], form: Form) -> dict[str, Largest]:
        """What is kept of every tensor: the largest of its differences from a file of zeros."""
        from tvmerge.inputs.packing import Largest

        kept = {slot.entry.name: Largest(0, 0, 0) for slot in slots}
        slots = [slot for slot in slots if slot.entry.elements]
        paths = dict.fromkeys(slot.file for slot in slots)
        numbers = {path: number for number, path in enumerate(paths, 1)}
        largest = [form.largest(slot.entry.elements) for slot in slots]
        jobs = [_from_zeros(slot, numbers[slot.file]) for slot in slots]
        keeps = [Consensus(0, (Delta(1, 1.0, Keep(largest=count)),)) for count in largest]
        workspace = self._options.workspace(self._size_bytes)
        with NamedTemporaryFile() as zeros, lent(workspace.cards):
            # Nothing is written: such a file takes no space.
            zeros.truncate(max((job.elements for job in jobs), default=0))
            inputs = {0: zeros.name} | {n: os.fspath(path) for path, n in numbers.items()}
            engine = Engine(inputs, workspace, self._tell)
            cuts = [cuts.outer for (cuts,) in cuts_of(list(zip(jobs, keeps, strict=True)), engine)]
            # A cut at zero keeps fewer than were asked for: those that are not zero.
            few = [n for n, (key, _) in enumerate(cuts) if key == 0]
            counts = engine.run(
                _core.measure,
                [
                    _core.MeasureJob(
                        sources=engine.sources(jobs[n]), elements=jobs[n].elements, rows=()
                    )
                    for n in few
                ],
            )
        for n, (_, (changed,)) in zip(few, counts, strict=True):
            largest[n] = changed
        for slot, cut, count in zip(slots, cuts, largest, strict=True):
            kept[slot.entry.name] = Largest(*cut, count)
        return kept

    def _tell(self, read_bytes: int) -> None:
        if self._options.progress is not None:
            whole = self._passes * self._size_bytes
            self._options.progress(min(read_bytes, whole), whole)


def _from_zeros(slot: Slot, file: int) -> Combine:
    """Reads a tensor beside as many zeros."""
    entry = slot.entry
    zeros = Range(0, 0, _ZEROS, digested=False)
    held = Range(file, entry.begin, entry.dtype, digested=False)
    return Combine(entry.name, (zeros, held), entry.elements, ())
