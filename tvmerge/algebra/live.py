"""Models in memory: filled from an expression without a file in between, and scaled in place.

    loaded = (base + 0.5 * v).load_into(model)   # into the model's own memory, rounded once
    loaded.rescale(0.3)                          # base + 0.3 * (0.5 * v), from the files again
    loaded.restore()                             # base

Alone among the engine's modules, this one, `fill` and `model_tensors` know torch, which they import
when it is first needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from tvmerge.algebra.fill import fill
from tvmerge.algebra.model_tensors import ModelTensors, match_model, torch_dtype
from tvmerge.algebra.scaled import weighting_at
from tvmerge.checkpoints.stored import Slot, Stored, open_stored
from tvmerge.engine.edit import Edit, is_swallowed
from tvmerge.engine.jobs import Copy, Range
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import (
    FormatError,
    MismatchError,
    NothingChangedError,
    TVMergeError,
)
from tvmerge.merging.stages import write_stages
from tvmerge.plans.batches import Batch, run_batch
from tvmerge.plans.plan import Plan, plan_checkpoint
from tvmerge.plans.sums import TensorSums, Weighting, inputs_of

if TYPE_CHECKING:
    import torch

    from tvmerge.algebra.assembled import Assembled
    from tvmerge.algebra.operands import Checkpoint


class LoadedModel:
    """A torch model that holds an expression's weights and can be given other scales of the edit.

    `scale` says what it holds: start + scale * (expression - start); None where a fill has failed
    midway. `edit` is the change from the donor's weights, and what rounding left of it.
    `differing_tensors` are integer tensors that inputs disagree about: they are the donor's.
    """

    __slots__ = (
        "_expression", "_options", "_start", "differing_tensors", "edit", "model", "scale",
    )  # fmt: skip

    def __init__(
        self,
        model: torch.nn.Module,
        expression: Checkpoint | Assembled,
        start: Checkpoint | None,
        options: RunOptions,
    ) -> None:
        self.model, self._expression, self._start = model, expression, start
        self._options = options
        weighting_at(expression, 1.0, start)  # which refuses a start that does not fit
        self.scale: float | None = None
        self.edit = Edit()
        self.differing_tensors: tuple[str, ...] = ()

    def fill(self) -> Edit:
        """Make the model the expression as it stands: scale 1."""
        return self._fill(self._expression.weighting, 1.0)

    def rescale(self, scale: float) -> Edit:
        """Make the model start + scale * (expression - start), read from the inputs again.

        Bit for bit what saving that expression gives, whatever the model held before: nothing
        drifts. Raises what `load_into` does.
        """
        return self._fill(weighting_at(self._expression, scale, self._start), float(scale))

    def restore(self) -> Edit:
        """Make the model the start again: rescale(0)."""
        return self.rescale(0.0)

    def _fill(self, weighting: Weighting, scale: float) -> Edit:
        self._options.open_cards()  # where there is none the model stays as it is
        donor = self._expression.donor
        inputs = list(dict.fromkeys([donor, *inputs_of(weighting)]))
        for stored in inputs:
            _refuse_changed(stored)
        plan = plan_checkpoint([weighting], donor)
        entries = {entry.name: entry for shard in plan.shards for entry in shard.entries}
        matched = match_model(self.model, entries, donor.source)
        write_stages(plan, self._options)
        _refuse_untied(matched, weighting, inputs, self._options)
        self.scale = None
        with _mixture_said():
            filled = fill(plan, matched.targets, self._options)
        self.edit, self.differing_tensors = filled.edit, filled.differing_tensors
        self.scale = scale
        if _is_edit_of(donor, weighting):
            _refuse_nothing(self.edit, donor)
        return self.edit

    def __repr__(self) -> str:
        held = "part" if self.scale is None else f"scale {self.scale:g}"
        return (
            f"<{type(self).__name__} {type(self.model).__name__}: {held} of {self._expression!r}>"
        )


def load_into(
    model: torch.nn.Module,
    expression: Checkpoint | Assembled,
    start: Checkpoint | None,
    options: RunOptions,
) -> LoadedModel:
    """Fill a model's parameters and buffers; see Model.load_into."""
    loaded = LoadedModel(model, expression, start, options)
    loaded.fill()
    return loaded


def tensors(plan: Plan, options: RunOptions) -> dict[str, torch.Tensor]:
    """The plan's only variant as CPU tensors by name; see Expression.state_dict."""
    import torch

    write_stages(plan, options)
    made = {
        entry.name: torch.empty(entry.shape, dtype=torch_dtype(entry.dtype))
        for shard in plan.shards
        for entry in shard.entries
    }
    fill(plan, made, options)
    return made


def _is_edit_of(donor: Stored, weighting: Weighting) -> bool:
    """Whether something was asked for that should show in the donor's tensors."""
    if not isinstance(weighting, TensorSums):
        return dict(weighting) != {donor: 1.0}
    alone = (one.decision is None and one.terms == {one.like: 1} for one in weighting.tensors)
    return weighting.keeps_layout_of(donor) and not all(alone)


def _refuse_nothing(edit: Edit, donor: Stored) -> None:
    """As a merge to files does, where an edit was asked for and next to nothing came of it."""
    if edit.changed and not is_swallowed(edit):
        return
    what = (
        f"the model now holds {donor.source} with {edit.lost:,} of {edit.intended:,} elements of "
        "the edit lost to rounding"
        if edit.changed
        else f"the model now holds {donor.source} again, bit for bit: the edit is too small or zero"
    )
    raise NothingChangedError(f"{what}. Raise the scale, or use a model in float32")


@contextmanager
def _mixture_said() -> Iterator[None]:
    """Add to an error that stops a fill what it means for the model."""
    try:
        yield
    except TVMergeError as error:
        raise type(error)(
            f"{error}. The model may now hold a mixture of old and new weights: "
            "load it again before use"
        ) from error


def _refuse_changed(stored: Stored) -> None:
    """The headers said where tensors lie: other files of the same names would be read as noise."""
    if stored.origin is not None:
        stored.origin.check()
    elif open_stored(stored.source).shards != stored.shards:
        raise FormatError(
            f"{stored.source}: is not the checkpoint that was opened; its files were replaced. "
            "Open it again"
        )


def _refuse_untied(
    matched: ModelTensors, weighting: Weighting, inputs: Iterable[Stored], options: RunOptions
) -> None:
    """What the model keeps once must come out the same under each of its names."""
    ties = [(first, name) for first, *rest in matched.ties for name in rest]
    pairs = [pair for tie in ties for pair in _same_when(*tie, weighting, inputs)]
    if not pairs:
        return
    for (stored, one, other), count in zip(pairs, _differing(pairs, options), strict=True):
        if count or one.entry.dtype != other.entry.dtype:
            _untied(stored, other.entry.name, one.entry.name)


def _same_when(
    first: str, name: str, weighting: Weighting, inputs: Iterable[Stored]
) -> Iterator[tuple[Stored, Slot, Slot]]:
    """What must be equal for two tensors to come out the same; raises where no values would do."""
    if not isinstance(weighting, TensorSums):
        for stored in inputs:
            if first in stored.slots and name in stored.slots:
                yield stored, stored.slots[first], stored.slots[name]
        return
    one, other = (weighting.by_name[tensor] for tensor in (first, name))
    pairs = list(zip(one.read, other.read, strict=False))
    alike = (
        one.decision == other.decision
        and len(one.read) == len(other.read)
        and [one.terms.get(a) for a, _ in pairs] == [other.terms.get(b) for _, b in pairs]
    )
    for a, b in pairs:
        if not alike or a.stored != b.stored:
            _untied(a.stored, name, first)
        if a != b:
            yield a.stored, a.slot, b.slot


def _untied(stored: Stored, name: str, first: str) -> NoReturn:
    raise MismatchError(
        f"{stored.source}: {name} and {first} differ, but are one tensor in the model, which is as "
        "it was. Load into a model that does not tie them (tie_word_embeddings=False)"
    )


def _differing(pairs: list[tuple[Stored, Slot, Slot]], options: RunOptions) -> list[int]:
    """For each pair the bytes that differ."""
    files = dict.fromkeys(slot.file for _, *both in pairs for slot in both)
    numbers = {file: number for number, file in enumerate(files)}

    def at(slot: Slot) -> Range:
        return Range(numbers[slot.file], slot.entry.begin, slot.entry.dtype, digested=False)

    jobs = tuple(
        Copy(
            one.entry.name,
            at(one),
            min(one.entry.size_bytes, other.entry.size_bytes),
            targets=(),
            same_as=(at(other),),
        )
        for _, one, other in pairs
    )
    inputs = {number: os.fspath(file) for file, number in numbers.items()}
    workspace = options.on_processor().workspace()
    return list(run_batch(Batch(0, inputs, {}, jobs), workspace).different)
