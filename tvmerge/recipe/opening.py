"""Opens the checkpoints that a recipe names, and adapters on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from tvmerge.algebra.operands import Checkpoint
from tvmerge.checkpoints.stored import read_config
from tvmerge.errors import MismatchError
from tvmerge.inputs.lora import open_added, open_tuned
from tvmerge.plans.assembly import Model
from tvmerge.plans.sums import Operand, TensorSum, TensorSums

Find = Callable[[str], Path]  # the place of a model by what people call it


def open_model(reference: str, find: Find, threads: int | None = None) -> Model:
    """The checkpoint that a recipe names, of which only headers are read.

    A `base+adapter` (mergekit's words) is the base but for the tensors that the adapter changes,
    which `threads` compute (None: all).
    """
    named, adapter = _parts(reference)
    stored = replace(Checkpoint(find(named)).donor, given=named)
    entries = {name: slot.entry for name, slot in stored.slots.items()}
    model = Model(reference, stored, entries, read_config(stored.folder))
    if adapter is None:
        return model
    tuned = replace(open_tuned(find(adapter), stored, threads=threads), given=adapter)
    sums = {}
    for name in entries:
        operand = Operand(tuned if name in tuned.slots else stored, name)
        sums[name] = TensorSum(name, Operand(stored, name), {operand: Fraction(1)})
    return replace(model, sums=sums)


def open_vector(adapter: str, stage: Model, find: Find, threads: int | None = None) -> Model:
    """What an adapter adds to a stage, which `threads` compute (None: all)."""
    sums = TensorSums(tuple((stage.sums or {}).values()))
    if not sums.keeps_layout_of(stage.donor):
        raise MismatchError(
            f"{stage.reference} has not the tensors and shapes of {stage.donor.source}: whether "
            f"{adapter} fits it cannot be told. Add the adapter to what the stage is made of, or "
            "merge the stage first and name its folder"
        )
    stored = replace(open_added(find(adapter), stage.donor, threads=threads), given=adapter)
    entries = {name: slot.entry for name, slot in stored.slots.items()}
    return Model(adapter, stored, entries, {})


def _parts(reference: str) -> tuple[str, str | None]:
    """A model's name, and that of an adapter behind a `+`; a path may have one of its own."""
    base, plus, adapter = reference.partition("+")
    if not plus or Path(reference).exists():
        return reference, None
    ends = [n for n, letter in enumerate(reference) if letter == "+"]
    there = [n for n in ends if Path(reference[:n]).exists()]
    return (reference[: there[0]], reference[there[0] + 1 :]) if there else (base, adapter)
