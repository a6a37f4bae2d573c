"""Runs a merge: plans it, has its batches run, records them, judges and publishes the result.

A merge that was cut off is found again by the same command and goes on where it stopped; several
variants of one merge (a scale sweep) are written from one reading and appear together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvmerge import _core
from tvmerge.batches import Batch, Record, cut, read_back, run_batch
from tvmerge.card import model_card
from tvmerge.dtype import parse_dtype
from tvmerge.errors import NothingChangedError, StorageError
from tvmerge.outcome import COMBINED, Outcome, outcomes
from tvmerge.output import (
    check_destination,
    copy_companions,
    declare_dtype,
    storage_errors,
    write_index,
)
from tvmerge.plan import Coefficients, Plan, plan_checkpoint, plan_vector
from tvmerge.run_options import Progress as Progress
from tvmerge.run_options import RunOptions as RunOptions
from tvmerge.stored import Stored
from tvmerge.unfinished import InputChangedError, Unfinished, claimed
from tvmerge.version import __version__

MODEL = "model"
VECTOR = "vector"
# An edit of which rounding leaves less than this share of elements is as good as none.
_LOST_SHARE = 0.99

# Runs batches and gives the record of each when it is done, in any order.
Runner = Callable[[Sequence[Batch]], Iterator[Record]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One result of an order: its folder below the destination ("": the destination itself)."""

    coefficients: Coefficients
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be written: models or task vectors, all of one donor's layout."""

    kind: str  # MODEL or VECTOR, which also begins the names of the files
    donor: Stored
    variants: tuple[Variant, ...]
    dtype: str | None = None

    @property
    def inputs(self) -> tuple[Stored, ...]:
        """The donor and all inputs of all variants."""
        terms = (stored for variant in self.variants for stored in variant.coefficients)
        return tuple(dict.fromkeys((self.donor, *terms)))

    def plan(self) -> Plan:
        """The jobs; raises what `plan_checkpoint` and `plan_vector` raise."""
        planned = plan_checkpoint if self.kind == MODEL else plan_vector
        variants = [variant.coefficients for variant in self.variants]
        return planned(variants, self.donor, dtype=self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a merge did in all: one Outcome for every variant of the order."""

    order: Order
    plan: Plan
    # (size in bytes, time of the last change in ns) of every input file of the plan.
    input_stats: tuple[tuple[int, int], ...]
    outcomes: tuple[Outcome, ...]
    bytes_read: int
    bytes_written: int
    # Of both together: what an earlier, unfinished run had done.
    resumed_bytes: int
    seconds: float


# Called with the number of the variant and its folder, which is complete but for the index.
WriteReceipt = Callable[[Result, int, Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did.

    `changed_elements` differ from the donor's (a vector's: from zero). `intended_elements` are
    those that the exact sum changes; of them `lost_elements` were rounded back to what they were.
    `edit_cosine` is that between the intended and the realised edit, None where it is undefined.
    """

    out: str
    coefficients: Mapping[str, float]
    combined_tensors: int
    copied_tensors: int
    elements: int
    changed_elements: int
    intended_elements: int
    lost_elements: int
    edit_cosine: float | None
    differing_tensors: tuple[str, ...]
    bytes_moved: int
    resumed_bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def save_checkpoint(
    coefficients: Coefficients,
    donor: Stored,
    out: str | os.PathLike[str],
    *,
    dtype: str | None,
    options: RunOptions,
) -> MergeReport:
    """Write a model to the folder `out` in Hugging Face layout; see Checkpoint.save."""
    variant = Variant(coefficients=coefficients)
    return save(Order(kind=MODEL, donor=donor, variants=(variant,), dtype=dtype), out, options)[0]


def save_vector(
    coefficients: Coefficients,
    donor: Stored,
    out: str | os.PathLike[str],
    *,
    dtype: str | None,
    options: RunOptions,
) -> MergeReport:
    """Store a task vector in the folder `out`; see TaskVector.save."""
    variant = Variant(coefficients=coefficients)
    return save(Order(kind=VECTOR, donor=donor, variants=(variant,), dtype=dtype), out, options)[0]


def save(
    order: Order,
    out: str | os.PathLike[str],
    options: RunOptions,
    *,
    run: Runner | None = None,
    write_receipt: WriteReceipt | None = None,
) -> tuple[MergeReport, ...]:
    """Write every variant of `order` below the folder `out`, which appears whole or not at all.

    `run` is how batches are run: by default here, one after the other. Returns a report for every
    variant; raises as Checkpoint.save does.
    """
    started = time.monotonic()
    target = Path(out)
    check_destination(target, order.inputs)
    for variant in order.variants:
        if order.kind == VECTOR and not variant.coefficients:
            raise NothingChangedError(f"{out}: the task vector is zero: its terms cancel out")
    plan = order.plan()
    options.thread_count()  # refused before anything is made
    stats = _stats(plan)
    merge = _identity(order, plan, stats, options)
    with claimed(
        target.resolve(), merge, size_bytes=plan.output_bytes, restart=options.restart
    ) as work:
        batches, resumed = _run(order, plan, stats, work, options, run)
        result = Result(
            order=order,
            plan=plan,
            input_stats=stats,
            outcomes=tuple(outcomes(plan, batches, work.journal.records)),
            bytes_read=sum(batch.bytes_read for batch in batches),
            bytes_written=sum(batch.bytes_written for batch in batches),
            resumed_bytes=resumed,
            seconds=time.monotonic() - started,
        )
        for variant, outcome in zip(order.variants, result.outcomes, strict=True):
            _judge(target / variant.name, order, variant, outcome)
        with storage_errors(out):
            work.name_parts(iter(_names(order, plan)))
            for number in range(len(order.variants)):
                _complete(result, number, work.folder, target.name, write_receipt)
            work.publish(sync=options.sync)
    return tuple(_report(result, number, out, started) for number in range(len(order.variants)))


def _names(order: Order, plan: Plan) -> list[str]:
    """The output files in the order of their numbers, relative to the destination."""
    return [
        os.path.join(variant.name, shard.name)  # noqa: PTH118 (no "./" for an empty name)
        for variant in order.variants
        for shard in plan.shards
    ]


def _stats(plan: Plan) -> tuple[tuple[int, int], ...]:
    found = []
    for path in plan.inputs:
        try:
            stat = path.stat()
        except OSError as error:
            raise StorageError(f"{path}: cannot open for reading: {error.strerror}") from error
        found.append((stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def _identity(
    order: Order, plan: Plan, stats: Sequence[tuple[int, int]], options: RunOptions
) -> dict[str, Any]:
    """All that decides the bytes: only a run with the same may continue this one."""
    return {
        "tvmerge": __version__,
        "kind": order.kind,
        "dtype": None if order.dtype is None else parse_dtype(order.dtype),
        "donor": os.fspath(order.donor.source),
        "variants": [
            [v.name, [[os.fspath(s.source), c.hex()] for s, c in v.coefficients.items()]]
            for v in order.variants
        ],
        "inputs": [[os.fspath(p), *stat] for p, stat in zip(plan.inputs, stats, strict=True)],
        "batch_bytes": options.batch_bytes,
    }


def _run(
    order: Order,
    plan: Plan,
    stats: Sequence[tuple[int, int]],
    work: Unfinished,
    options: RunOptions,
    run: Runner | None,
) -> tuple[tuple[Batch, ...], int]:
    """Do what is not done yet; returns all batches, and the bytes that needed no moving again."""
    places = [_lay_out(work, name, plan, n) for n, name in enumerate(_names(order, plan))]
    batches = cut(plan, places, batch_bytes=options.batch_bytes)
    told = _Told(options.progress, sum(batch.bytes_to_move for batch in batches))
    intact = _intact(batches, work, options, told)
    resumed = told.moved
    run = run or _local(options, told)
    try:
        for record in run([batch for batch in batches if batch.number not in intact]):
            with storage_errors(work.folder):
                work.journal.add(record)
            told.finished(record)
    except StorageError:
        _refuse_changed(plan, stats)
        raise
    _refuse_changed(plan, stats)
    return batches, resumed


def _lay_out(work: Unfinished, name: str, plan: Plan, number: int) -> Path:
    """Make the file in full size, or keep what an unfinished run has made of it."""
    shard = plan.shards[number % len(plan.shards)]
    with storage_errors(work.target):
        path = work.reopen(name)
        if not path.exists() or path.stat().st_size != shard.size_bytes:
            _core.allocate(os.fspath(path), shard.size_bytes)
        with path.open("r+b") as file:
            file.write(shard.head)
    return path


def _intact(
    batches: Sequence[Batch], work: Unfinished, options: RunOptions, told: _Told
) -> set[int]:
    """The recorded batches whose output is there: a power failure may have taken what was not
    on the disk yet."""
    records = work.journal.records
    if not records:
        return set()
    workspace = options.workspace()
    intact = set()
    for batch in batches:
        record = records.get(batch.number)
        if record is not None and read_back(batch, workspace) == record.output_states:
            intact.add(batch.number)
            told.finished(record)
    return intact


def _local(options: RunOptions, told: _Told) -> Runner:
    """Runs batches in this process, one after the other."""

    def run(batches: Sequence[Batch]) -> Iterator[Record]:
        workspace = options.workspace(sum(batch.bytes_to_move for batch in batches))
        for batch in batches:
            yield run_batch(batch, workspace, told.in_batch if told.progress else None)

    return run


class _Told:
    """Tells the caller's callback about bytes of the whole merge."""

    def __init__(self, progress: Progress | None, whole: int) -> None:
        self.progress, self.whole, self.moved = progress, whole, 0

    def in_batch(self, moved: int) -> None:
        """So many bytes of the batch that runs are moved."""
        if self.progress:
            self.progress(self.moved + moved, self.whole)

    def finished(self, record: Record) -> None:
        """A batch is done."""
        self.moved += record.bytes_read + record.bytes_written
        if self.progress:
            self.progress(self.moved, self.whole)


def _refuse_changed(plan: Plan, stats: Sequence[tuple[int, int]]) -> None:
    for path, before, now in zip(plan.inputs, stats, _stats(plan), strict=True):
        if before != now:
            raise InputChangedError(
                f"{path}: was changed while it was read. Run the merge again when nothing writes "
                "to the inputs any more"
            )


def _judge(out: Path, order: Order, variant: Variant, outcome: Outcome) -> None:
    """Raise NothingChangedError where an edit was asked for and next to nothing came of it."""
    if variant.coefficients == {order.donor: 1.0} or not outcome.combined_elements:
        return
    edit = outcome.edit
    if order.kind == VECTOR:
        if edit.changed == 0:
            raise NothingChangedError(
                f"{out}: the task vector is zero everywhere: the checkpoints are the same. "
                "Was the fine-tune saved under another name?"
            )
        return
    advice = "raise the scale, or keep the result in float32 (--dtype F32)"
    if edit.changed == 0:
        raise NothingChangedError(
            f"{out}: the result is {order.donor.source} again, bit for bit: the edit is zero, or "
            f"too small for the dtype. Compare the inputs with `tvmerge diff`, {advice}"
        )
    if edit.intended and edit.lost_share >= _LOST_SHARE:
        raise NothingChangedError(
            f"{out}: rounding swallows the edit: of {edit.intended:,} elements that it should "
            f"change, {edit.lost:,} ({edit.lost_share:.2%}) stay as they are in "
            f"{order.donor.source}. The edit is too small for the dtype: {advice}"
        )


def _complete(
    result: Result, number: int, root: Path, name: str, write_receipt: WriteReceipt | None
) -> None:
    """Write all that lies beside the weights; the index last, since it makes them a model."""
    order, variant = result.order, result.order.variants[number]
    folder = root / variant.name
    if order.kind == MODEL:
        copy_companions(order.donor, folder)
        if order.dtype is not None:
            declare_dtype(folder / "config.json", parse_dtype(order.dtype))
        card = model_card(variant.name or name, variant.coefficients, order.donor)
        (folder / "README.md").write_text(card, encoding="utf-8", errors="replace")
    if write_receipt is not None:
        write_receipt(result, number, folder)
    write_index(result.plan.shards, folder, stem=order.kind)


def _report(
    result: Result, number: int, out: str | os.PathLike[str], started: float
) -> MergeReport:
    variant, outcome = result.order.variants[number], result.outcomes[number]
    edit = outcome.edit
    combined = sum(tensor.action == COMBINED for tensor in outcome.tensors)
    return MergeReport(
        out=os.path.join(out, variant.name) if variant.name else os.fspath(out),  # noqa: PTH118
        coefficients={os.fspath(stored.source): c for stored, c in variant.coefficients.items()},
        combined_tensors=combined,
        copied_tensors=len(outcome.tensors) - combined,
        elements=outcome.combined_elements,
        changed_elements=edit.changed,
        intended_elements=edit.intended,
        lost_elements=edit.lost,
        edit_cosine=edit.cosine,
        differing_tensors=tuple(tensor.name for tensor in outcome.tensors if tensor.differs),
        bytes_moved=result.bytes_read + result.bytes_written - result.resumed_bytes,
        resumed_bytes=result.resumed_bytes,
        seconds=time.monotonic() - started,
    )
