"""Makes the receipt of a merge that is complete but for its index.

The digests come from the engine, which took them while it read and wrote: of large files, nothing
but the headers is read again.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmerge import _core
from tvmerge.engine.digest import bytes_digest
from tvmerge.engine.matrices import torch_version
from tvmerge.files.dtype import parse_dtype
from tvmerge.files.weight_files import is_weights
from tvmerge.files.weights import read_rest
from tvmerge.plans.sums import by_input, inputs_of, leaves
from tvmerge.receipts.file_records import data_states, other_record, weights_record
from tvmerge.receipts.floor_memory import share_of_floor
from tvmerge.receipts.receipt import (
    MODEL,
    RECEIPT_NAME,
    VECTOR,
    FileRecord,
    InputRecord,
    Receipt,
    Recipe,
)
from tvmerge.version import __version__

if TYPE_CHECKING:
    from tvmerge.checkpoints.stored import Origin, Stored
    from tvmerge.engine.run_options import RunOptions
    from tvmerge.merging.report import Result
    from tvmerge.plans.outcome import TensorOutcome
    from tvmerge.plans.plan import Plan


def make_receipt(
    result: Result,
    number: int,
    folder: Path,
    pending: Mapping[str, bytes],
    *,
    ignored: Collection[Path] = (),
) -> Receipt:
    """The receipt of a result's variant, which lies in `folder`.

    `pending` are files still to be written, `ignored` such as will not be there in the end.
    """
    order = result.order
    variant = order.variants[number]
    terms = by_input(variant.weighting)
    terms |= dict.fromkeys({order.donor} - terms.keys(), 0.0)
    terms |= dict.fromkeys(stored for stored in order.beside if stored not in terms)
    computed = [stored.origin for stored in terms if stored.origin is not None]
    states = result.outcomes[number].input_states
    read = {**result.known, **read_records(result.plan, result.input_stats, states)}
    read |= read_origins(computed, result.options, known=read)
    terms = leaves(terms)
    files = [*_weights(result, number), *_others(folder, result, pending, ignored)]
    return Receipt(
        version=__version__,
        recipe=Recipe(
            kind=MODEL if order.kind == MODEL else VECTOR,
            donor=list(terms).index(order.donor),
            dtype=None if order.dtype is None else parse_dtype(order.dtype),
            source=order.recipe,
            scale=variant.scale,
        ),
        inputs=tuple(input_record(*term, read) for term in terms.items()),
        files=tuple(sorted(files, key=lambda record: record.name)),
        tensors=_tensors(result, number),
        run=_run(result, folder),
    )


def _tensors(result: Result, number: int) -> tuple[TensorOutcome, ...]:
    """As in a merge of its own, where a variant that is the donor again has no other inputs."""
    tensors = result.outcomes[number].tensors
    if set(inputs_of(result.order.variants[number].weighting)) - {result.order.donor}:
        return tensors
    return tuple(tensor._replace(differs=False) for tensor in tensors)


def read_records(
    plan: Plan, stats: Sequence[tuple[int, int]], states: Mapping[int, bytes]
) -> dict[Path, FileRecord]:
    """What a plan's input files are, by path; `input_record` makes their names relative.

    `stats` are their sizes and times of change, `states` those of their digests.
    """
    found = {}
    for file, path in enumerate(plan.inputs):
        size_bytes, mtime_ns = stats[file]
        record = weights_record(path.name, read_rest(path), states[file], size_bytes)
        found[path] = replace(record, mtime_ns=mtime_ns)
    return found


def read_origins(
    origins: Sequence[Origin], options: RunOptions, *, known: Collection[Path] = ()
) -> dict[Path, FileRecord]:
    """The files that something was computed from and that are not `known`, by path."""
    found = {}
    for origin in origins:
        for path, size_bytes, mtime_ns in origin.files:
            if path in known:
                continue
            if is_weights(path):
                (state,) = data_states([path], replace(options, progress=None))
                record = weights_record(path.name, read_rest(path), state, size_bytes)
            else:
                record = other_record(path.parent, path.name)
            found[path] = replace(record, mtime_ns=mtime_ns)
        origin.check()
    return found


def input_record(
    stored: Stored, coefficient: float | None, read: Mapping[Path, FileRecord]
) -> InputRecord:
    """The record of an input whose files' records are among `read`, by path."""
    paths = [path for path, _ in stored.shards]
    if stored.origin is not None:
        paths = [path for path, *_ in stored.origin.files]
    files = tuple(
        replace(read[path], name=path.relative_to(stored.folder).as_posix()) for path in paths
    )
    return InputRecord(stored.given, os.fspath(stored.source), coefficient, files)


def _weights(result: Result, number: int) -> Iterator[FileRecord]:
    states = result.outcomes[number].output_states
    for shard, state in zip(result.plan.shards, states, strict=True):
        yield weights_record(shard.name, shard.head, state, shard.size_bytes)


def _others(
    folder: Path, result: Result, pending: Mapping[str, bytes], ignored: Collection[Path]
) -> Iterator[FileRecord]:
    """The files beside the weights, as they lie there or will."""
    known = {shard.name for shard in result.plan.shards} | {RECEIPT_NAME} | pending.keys()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name not in known and path not in ignored and path.is_file():
            yield other_record(folder, name)
    for name, content in pending.items():
        yield FileRecord(name, len(content), bytes_digest([content]))


def _run(result: Result, folder: Path) -> dict[str, Any]:
    """All that may differ from one run of the same merge to the next."""
    moved = result.bytes_read + result.bytes_written - result.resumed_bytes
    threads = result.options.thread_count()
    # Of several machines (ray_address) neither the floor is known nor all threads and cards.
    alone = result.options.ray_address is None
    return {
        "seconds": result.seconds,
        "bytes_read": result.bytes_read,
        "bytes_written": result.bytes_written,
        "direct_bytes": result.direct_bytes,
        "cloned_bytes": result.cloned_bytes,
        "resumed_bytes": result.resumed_bytes,
        "gb_per_second": moved / 1e9 / result.seconds if result.seconds else None,
        "io_floor_share": (
            share_of_floor(folder, threads, moved, result.seconds) if alone else None
        ),
        "threads": threads if alone else None,
        "device": _device(result.options) if alone else None,
        "torch": torch_version(result.plan.jobs),
        **machine(result.options),
    }


def machine(options: RunOptions) -> dict[str, Any]:
    """What every run says of where and when it was."""
    return {
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "isa": options.isa or _core.available_isas()[0],
        "host": platform.node(),
        "python": platform.python_version(),
    }


def _device(options: RunOptions) -> str:
    """The names of the cards, or of the processor as a device."""
    return ", ".join(card.name for card in options.open_cards()) or options.device
