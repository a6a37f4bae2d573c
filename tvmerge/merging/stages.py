"""Stages: models that are written before the merge that reads them, and kept while it does.

A recipe's earlier document is one where it cannot be folded into a later one. It is planned like
any merge when the recipe is opened, and is from then on an input whose tensors have their places;
its files come to lie there (files/kept.py) when the merge is run, and go with their last user. A
run that goes on after a crash finds those that were whole, and writes the same bytes again else.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tvmerge import _core
from tvmerge.checkpoints.stored import Origin, Stored, file_status
from tvmerge.engine.digest import file_digest
from tvmerge.engine.garbage import uncollected
from tvmerge.engine.matrices import torch_version
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import storage_errors
from tvmerge.files.kept import Kept, Left, forget, keep, key_of, place
from tvmerge.files.safetensors import Header
from tvmerge.merging.judging import judge
from tvmerge.merging.order import Order
from tvmerge.merging.running import Runner, Told, input_stats, local
from tvmerge.merging.stage_notes import StageNotes, is_intact, read_notes
from tvmerge.merging.unfinished import Unfinished
from tvmerge.plans.batches import cut
from tvmerge.plans.outcome import outcomes
from tvmerge.plans.plan import Plan
from tvmerge.plans.record import Record
from tvmerge.plans.sums import to_json
from tvmerge.receipts.making import read_records
from tvmerge.receipts.receipt import FileRecord
from tvmerge.version import __version__

# What is computed and how: raised when either changes.
_FORM = "stage 1"
_FOLDER = "model"


@dataclass(frozen=True, slots=True)
class Written:
    """What writing stages has moved, and what it knows of the files that were read, by path."""

    bytes_read: int = 0
    bytes_written: int = 0
    known: Mapping[Path, FileRecord] = field(default_factory=dict)

    def __add__(self, other: Written) -> Written:
        return Written(
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
            {**self.known, **other.known},
        )


class Stage:
    """What an Origin holds of a model that is to be written from `files`, as they were then."""

    def __init__(
        self, name: str, order: Order, plan: Plan, files: tuple[tuple[Path, int, int], ...]
    ) -> None:
        self.name, self.files = name, files
        (variant,) = order.variants
        heads = [shard.head for shard in plan.shards]
        summed = to_json(variant.weighting), plan.inputs, heads, torch_version(plan.jobs)
        self._key = key_of((_FORM, __version__, files, summed))
        self.folder = place() / self._key / _FOLDER
        self._todo: tuple[Order, Plan] | None = (order, plan)
        self._kept: Kept | None = None
        self._known: Mapping[Path, FileRecord] = {}

    @property
    def plan(self) -> Plan | None:
        """What is to be written; None: it is."""
        return self._todo and self._todo[1]

    def write(
        self,
        options: RunOptions,
        run: Runner | None,
        work: Unfinished | None,
        needed: Collection[Stage],
    ) -> Written:
        """Write the files, if need be, and before them those of the stages that it reads.

        Of these, such as are not `needed` for others go then.
        """
        if self._todo is None:
            return Written(known=self._known)
        order, plan = self._todo
        moved: list[Written] = []

        def make(folder: Path) -> None:
            before = write_stages(plan, options, run, work=work, needed=needed)
            moved.extend((before, self._make(folder, order, plan, options, run, before.known)))

        left = Left(work.folder, partial(is_intact, options=options)) if work else None
        self._kept = keep(self._key, _FOLDER, plan.output_bytes, make, left)
        notes = read_notes(self.folder)
        self._known = notes.known if notes else {}
        self._todo = None  # with what it alone was made of
        if work is not None:
            work.holds_stages = True
        for stage in _read_by(plan):
            if stage not in needed:
                forget(stage._key)
        return replace(sum(moved, Written()), known=self._known)

    def _make(
        self,
        folder: Path,
        order: Order,
        plan: Plan,
        options: RunOptions,
        run: Runner | None,
        known: Mapping[Path, FileRecord],
    ) -> Written:
        stats = input_stats(plan.inputs)
        places = [folder / shard.name for shard in plan.shards]
        for path, shard in zip(places, plan.shards, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            _core.allocate(os.fspath(path), shard.size_bytes)
        batches = cut(plan, places, batch_bytes=options.batch_bytes)
        told = Told(options.progress, sum(batch.bytes_to_move for batch in batches))
        done: dict[int, Record] = {}
        for record in (run or local(options, told))(batches):
            done[record.number] = record
            told.finished(record)
        with uncollected():
            (outcome,) = outcomes(plan, batches, done)
        judge(Path(f"stage {self.name}"), order, order.variants[0], outcome)
        Origin(self.files, None).check()
        changed_ns = self.files[0][2]
        for path, shard in zip(places, plan.shards, strict=True):
            with storage_errors(path), path.open("r+b") as file:
                file.write(shard.head)
            # A run that is interrupted finds its inputs as they were.
            os.utime(path, ns=(changed_ns, changed_ns))
        pairs = zip(plan.shards, outcome.output_states, strict=True)
        digests = {shard.name: file_digest(shard.head, state) for shard, state in pairs}
        records = read_records(plan, stats, outcome.input_states)
        StageNotes(digests, {**known, **records}).write(folder)
        read = sum(batch.bytes_read for batch in batches)
        return Written(read, sum(batch.bytes_written for batch in batches))


def planned(name: str, order: Order) -> Stored:
    """The model of an order, with one variant, as an input that lies where it will be written.

    Raises what planning it raises.
    """
    files = tuple(dict.fromkeys(one for leaf in order.inputs for one in _files(leaf)))
    with uncollected():
        plan = order.plan()
    stage = Stage(name, order, plan, files)
    shards = tuple(
        (stage.folder / shard.name, Header(shard.entries, {}, shard.size_bytes))
        for shard in plan.shards
    )
    return Stored(stage.folder, shards, name, Origin(files, stage, order.inputs))


def write_stages(
    plan: Plan,
    options: RunOptions,
    run: Runner | None = None,
    *,
    work: Unfinished | None = None,
    needed: Collection[Stage] = (),
) -> Written:
    """Write the stages that a plan reads, as `run` runs batches, by default here.

    They are left for a later run that goes on with `work`. Those that they are made of go when
    neither the plan reads them nor another stage, nor what they are `needed` for. Raises
    NothingChangedError where a stage is its donor again, StorageError where the disk fails, has no
    room, or an input was changed meanwhile.
    """
    own = list(_read_by(plan))
    found = Written()
    for number, stage in enumerate(own):
        later = (one.plan for one in own[number + 1 :])
        before = (one for other in later if other is not None for one in stages_before(other))
        found += stage.write(options, run, work, {*needed, *own, *before})
    return found


def stages_before(plan: Plan) -> dict[Stage, Plan]:
    """All stages that have to be written before a plan is run, in their order, and their plans."""
    found: dict[Stage, Plan] = {}
    _gather(plan, found)
    return found


def _gather(plan: Plan, found: dict[Stage, Plan]) -> None:
    for stage in _read_by(plan):
        if stage.plan is not None and stage not in found:
            _gather(stage.plan, found)
            found[stage] = stage.plan


def peak_bytes(plan: Plan) -> int:
    """What stages hold of the disk at most: each goes when those that read it are written."""
    before = stages_before(plan)
    last = dict.fromkeys(_read_by(plan), len(before))
    for number, own in enumerate(before.values()):
        for stage in _read_by(own):
            last[stage] = max(number, last.get(stage, 0))
    sizes = {stage: own.output_bytes for stage, own in before.items()}
    held = [
        sum(sizes[stage] for stage in list(before)[: number + 1] if last[stage] >= number)
        for number in range(len(before))
    ]
    return max(held, default=0)


def with_stand_ins(plan: Plan) -> Plan:
    """The plan with files that are there for those of stages: to be opened, not to be read."""
    unwritten = {stage.folder for stage in stages_before(plan)}
    there = files_there(plan)[0]
    inputs = (there if unwritten & {*path.parents} else path for path in plan.inputs)
    return replace(plan, inputs=tuple(inputs)) if unwritten else plan


def files_there(plan: Plan) -> list[Path]:
    """A plan's input files; for a stage those that it is made of."""
    found: dict[Path, None] = {}
    for stored in plan.stored:
        stage = stage_of(stored)
        files = stored.shards if stage is None else stage.files
        found |= dict.fromkeys(file for file, *_ in files)
    return list(found)


def stage_of(stored: Stored) -> Stage | None:
    """The stage that an input is."""
    kept = stored.origin and stored.origin.kept
    return kept if isinstance(kept, Stage) else None


def _read_by(plan: Plan) -> Iterator[Stage]:
    yield from filter(None, map(stage_of, plan.stored))


def _files(leaf: Stored) -> Iterable[tuple[Path, int, int]]:
    return leaf.origin.files if leaf.origin else (file_status(file) for file, _ in leaf.shards)
