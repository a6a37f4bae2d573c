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
from typing import TYPE_CHECKING

from tvmerge.batches import Batch, run_batch
from tvmerge.edit import Edit, is_swallowed
from tvmerge.errors import (
    FormatError,
    MismatchError,
    NothingChangedError,
    TVMergeError,
)
from tvmerge.fill import fill
from tvmerge.jobs import Copy, Range
from tvmerge.model_tensors import ModelTensors, match_model, torch_dtype
from tvmerge.plan import Plan, plan_checkpoint
from tvmerge.run_options import RunOptions
from tvmerge.scaled import at_scale, start_of
from tvmerge.stored import Slot, Stored, open_stored

if TYPE_CHECKING:
    import torch

    from tvmerge.algebra import Checkpoint


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
        expression: Checkpoint,
        start: Checkpoint | None,
        options: RunOptions,
    ) -> None:
        self.model, self._expression = model, expression
        self._start = start_of(expression, start)
        self._options = options
        self.scale: float | None = None
        self.edit = Edit()
        self.differing_tensors: tuple[str, ...] = ()

    def fill(self) -> Edit:
        """Make the model the expression as it stands: scale 1."""
        return self._fill(self._expression, 1.0)

    def rescale(self, scale: float) -> Edit:
        """Make the model start + scale * (expression - start), read from the inputs again.

        Bit for bit what saving that expression gives, whatever the model held before: nothing
        drifts. Raises what `Checkpoint.load_into` does.
        """
        return self._fill(at_scale(self._expression, scale, self._start), float(scale))

    def restore(self) -> Edit:
        """Make the model the start again: rescale(0)."""
        return self.rescale(0.0)

    def _fill(self, expression: Checkpoint, scale: float) -> Edit:
        self._options.open_cards()  # where there is none the model stays as it is
        coefficients, donor = expression.coefficients, expression.donor
        inputs = list(dict.fromkeys([donor, *coefficients]))
        for stored in inputs:
            _refuse_changed(stored)
        plan = plan_checkpoint([coefficients], donor)
        matched = match_model(self.model, donor)
        _refuse_untied(matched, inputs, self._options)
        self.scale = None
        with _mixture_said():
            filled = fill(plan, matched.targets, self._options)
        self.edit, self.differing_tensors = filled.edit, filled.differing_tensors
        self.scale = scale
        if coefficients != {donor: 1.0}:
            _refuse_nothing(self.edit, donor)
        return self.edit

    def __repr__(self) -> str:
        held = "part" if self.scale is None else f"scale {self.scale:g}"
        return (
            f"<{type(self).__name__} {type(self.model).__name__}: {held} of {self._expression!r}>"
        )


def load_into(
    model: torch.nn.Module, expression: Checkpoint, start: Checkpoint | None, options: RunOptions
) -> LoadedModel:
    """Fill a model's parameters and buffers; see Checkpoint.load_into."""
    loaded = LoadedModel(model, expression, start, options)
    loaded.fill()
    return loaded


def tensors(plan: Plan, options: RunOptions) -> dict[str, torch.Tensor]:
    """The plan's only variant as CPU tensors by name; see Checkpoint.state_dict."""
    import torch

    made = {
        entry.name: torch.empty(entry.shape, dtype=torch_dtype(entry.dtype))
        for shard in plan.shards
        for entry in shard.entries
    }
    fill(plan, made, options)
    return made


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
    if open_stored(stored.source).shards != stored.shards:
        raise FormatError(
            f"{stored.source}: is not the checkpoint that was opened; its files were replaced. "
            "Open it again"
        )


def _refuse_untied(matched: ModelTensors, inputs: Iterable[Stored], options: RunOptions) -> None:
    """What the model keeps once, every input must hold the same under each of its names."""
    pairs = [
        (stored, stored.slots[first], stored.slots[name])
        for stored in inputs
        for first, *rest in matched.ties
        for name in rest
        if first in stored.slots and name in stored.slots
    ]
    if not pairs:
        return
    for (stored, one, other), count in zip(pairs, _differing(pairs, options), strict=True):
        if count or one.entry.dtype != other.entry.dtype:
            raise MismatchError(
                f"{stored.source}: {other.entry.name} and {one.entry.name} differ, but are one "
                "tensor in the model, which is as it was. Load into a model that does not tie them "
                "(tie_word_embeddings=False)"
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
