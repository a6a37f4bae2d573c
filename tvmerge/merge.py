"""Runs a plan: writes the files, lets the engine fill them, and says what changed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvmerge import _core
from tvmerge.card import model_card
from tvmerge.dtype import TORCH_NAMES, parse_dtype
from tvmerge.errors import ConfigError, FormatError, MemoryLimitError, NothingChangedError
from tvmerge.output import atomic_folder, check_destination, copy_companions, storage_errors
from tvmerge.plan import Plan, plan_checkpoint, plan_vector
from tvmerge.stored import INDEX_SUFFIX, Stored

# Called with (bytes moved so far, bytes to move in all), a few times a second.
Progress = Callable[[int, int], None]

_MIB = 1024 * 1024
# Threads' stacks, allocator slack and Python's own growth during a run.
_RESERVE_BYTES = 24 * _MIB
# Measured best on a 512 KiB second-level cache; 4 MiB was much slower (docs/results.md).
_SLICE_BYTES = 512 * 1024
_BYTES_PER_THREAD = 8 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a merge runs; none of it changes a byte of the result."""

    # What the whole process may hold; None: whatever it holds already, plus small buffers.
    memory_mib: int | None = None
    threads: int | None = None
    progress: Progress | None = None
    slice_bytes: int = _SLICE_BYTES
    isa: str = ""

    def thread_count(self) -> int:
        """The threads to run: as asked, or one for each processor this process may use."""
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads {self.threads}: expected at least 1")
        return self.threads or len(os.sched_getaffinity(0))

    def buffer_bytes(self) -> int:
        """What the memory limit leaves for buffers, given what the process holds already."""
        wanted = self.thread_count() * _BYTES_PER_THREAD
        if self.memory_mib is None:
            return wanted
        with Path("/proc/self/statm").open() as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        left = self.memory_mib * _MIB - resident - _RESERVE_BYTES
        if left <= 0:
            raise MemoryLimitError(
                f"memory limit of {self.memory_mib} MiB: the process holds "
                f"{resident // _MIB} MiB already. Give at least "
                f"{(resident + _RESERVE_BYTES) // _MIB + 1} MiB"
            )
        return min(left, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did. `changed_elements` is None where the donor is not one of the terms."""

    out: str
    coefficients: Mapping[str, float]
    combined_tensors: int
    copied_tensors: int
    elements: int
    changed_elements: int | None
    differing_tensors: tuple[str, ...]
    bytes_moved: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def save_checkpoint(
    coefficients: Mapping[Stored, float],
    donor: Stored,
    out: str | os.PathLike[str],
    *,
    dtype: str | None,
    options: RunOptions,
) -> MergeReport:
    """Write a model to the folder `out` in Hugging Face layout; see Checkpoint.save."""
    started = time.monotonic()
    target = Path(out)
    check_destination(target, [donor, *coefficients])
    plan = plan_checkpoint(coefficients, donor, dtype=dtype)
    with atomic_folder(target, size_bytes=plan.output_bytes) as folder:
        changed, different = _run(plan, folder, options)
        if plan.combines and plan.counts_changes and plan.elements and changed == 0:
            raise NothingChangedError(
                f"{out}: the result is {donor.source} again, bit for bit: the edit is zero, or too "
                "small for the dtype. Compare the inputs with `tvmerge diff`, raise the scale, or "
                "keep the result in float32 (--dtype F32)"
            )
        with storage_errors(out):
            _write_index(plan, folder, stem="model")
            copy_companions(donor, folder)
            if dtype is not None:
                _declare_dtype(folder / "config.json", parse_dtype(dtype))
            card = model_card(target.name, coefficients, donor)
            (folder / "README.md").write_text(card, encoding="utf-8", errors="replace")
    return _report(out, coefficients, plan, changed, different, started)


def save_vector(
    coefficients: Mapping[Stored, float],
    donor: Stored,
    out: str | os.PathLike[str],
    *,
    dtype: str | None,
    options: RunOptions,
) -> MergeReport:
    """Store a task vector in the folder `out`; see TaskVector.save."""
    started = time.monotonic()
    target = Path(out)
    check_destination(target, [donor, *coefficients])
    if not coefficients:
        raise NothingChangedError(f"{out}: the task vector is zero: its terms cancel out")
    plan = plan_vector(coefficients, donor, dtype=dtype)
    with atomic_folder(target, size_bytes=plan.output_bytes) as folder:
        changed, different = _run(plan, folder, options)
        if changed == 0:
            raise NothingChangedError(
                f"{out}: the task vector is zero everywhere: the checkpoints are the same. "
                "Was the fine-tune saved under another name?"
            )
        with storage_errors(out):
            _write_index(plan, folder, stem="vector")
    return _report(out, coefficients, plan, changed, different, started)


def _run(plan: Plan, folder: Path, options: RunOptions) -> tuple[int, tuple[str, ...]]:
    """Write the files; returns elements changed, and copied tensors that differ in some input."""
    for shard in plan.shards:
        path = folder / shard.name
        with storage_errors(path), path.open("wb") as file:
            file.write(shard.head)
            file.truncate(shard.size_bytes)
    told = options.progress
    changed, different = _core.merge(
        [os.fspath(path) for path in plan.inputs],
        [os.fspath(folder / shard.name) for shard in plan.shards],
        plan.combines,
        plan.copies,
        threads=options.thread_count(),
        slice_bytes=options.slice_bytes,
        buffer_bytes=options.buffer_bytes(),
        isa=options.isa,
        progress=(lambda done: told(done, plan.bytes_to_move)) if told else None,
    )
    differing = tuple(name for name, count in zip(plan.copied, different, strict=True) if count)
    return sum(changed), differing


def _write_index(plan: Plan, folder: Path, *, stem: str) -> None:
    """The index of a sharded output, as `save_pretrained` writes it."""
    if len(plan.shards) == 1:
        return
    entries = [(shard.name, entry) for shard in plan.shards for entry in shard.entries]
    index = {
        "metadata": {
            "total_parameters": sum(entry.elements for _, entry in entries),
            "total_size": sum(entry.size_bytes for _, entry in entries),
        },
        "weight_map": {entry.name: name for name, entry in entries},
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / (stem + INDEX_SUFFIX)).write_text(text)


def _declare_dtype(config: Path, dtype: str) -> None:
    """Keep a copied config true when the weights' dtype was changed."""
    if not config.is_file():
        return
    try:
        content = json.loads(config.read_bytes())
    except ValueError as error:
        raise FormatError(f"{config.name}: not JSON ({error}). Correct the base's own") from error
    for key in ("torch_dtype", "dtype"):
        if key in content:
            content[key] = TORCH_NAMES[dtype]
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _report(
    out: str | os.PathLike[str],
    coefficients: Mapping[Stored, float],
    plan: Plan,
    changed: int,
    different: tuple[str, ...],
    started: float,
) -> MergeReport:
    return MergeReport(
        out=os.fspath(out),
        coefficients={os.fspath(stored.source): c for stored, c in coefficients.items()},
        combined_tensors=len(plan.combined),
        copied_tensors=len(plan.copied),
        elements=plan.elements,
        changed_elements=changed if plan.counts_changes else None,
        differing_tensors=different,
        bytes_moved=plan.bytes_to_move,
        seconds=time.monotonic() - started,
    )
