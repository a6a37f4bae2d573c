"""Opens the checkpoints that a recipe names, and adapters on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from tvmerge.algebra.operands import Checkpoint
from tvmerge.checkpoints.matching import check_match
from tvmerge.checkpoints.stored import Stored, open_stored, read_config
from tvmerge.errors import ConfigError, MismatchError
from tvmerge.inputs.adapter import adapter_folder
from tvmerge.inputs.lora import open_added, open_tuned
from tvmerge.inputs.opening import open_input
from tvmerge.plans.assembly import Model
from tvmerge.plans.sums import Operand, TensorSum, TensorSums
from tvmerge.recipe.layers import is_by_token

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


def carrier(reference: str, find: Find) -> str | None:
    """The model before the + of `model+vector`, the vector being a stored one.

    None where there is no +, or an adapter behind it. Raises ConfigError for anything else.
    """
    model, vector = _parts(reference)
    return model if vector is not None and _is_vector(_found(vector, find)) else None


def open_vector(reference: str, onto: Model, find: Find, threads: int | None = None) -> Model:
    """What the adapter or stored vector behind `onto` and a + adds to that: a stage, or a model.

    Computed by `threads` (None: all), where it does not lie there as it is.
    """
    vector = reference.removeprefix(f"{onto.reference}+")
    if onto.sums and not TensorSums(tuple(onto.sums.values())).keeps_layout_of(onto.donor):
        raise MismatchError(
            f"{onto.reference} has not the tensors and shapes of {onto.donor.source}: whether "
            f"{vector} fits it cannot be told. Add it to what the stage is made of, or merge the "
            "stage first and name its folder"
        )
    stored = replace(_added(_found(vector, find), onto.donor, threads), given=vector)
    check_match([stored], onto.donor)
    if onto.tokenizer is not None and any(map(is_by_token, stored.slots)):
        raise MismatchError(
            f"{onto.reference} may have another vocabulary than {onto.donor.source}, and {vector} "
            "changes the rows of tokens. Add it to what the stage is made of, or merge the stage "
            "first and name its folder"
        )
    entries = {name: slot.entry for name, slot in stored.slots.items()}
    return Model(vector, stored, entries, {})


def _found(vector: str, find: Find) -> Path:
    if "+" in vector and not Path(vector).exists():
        raise ConfigError(
            f"expected one adapter or vector behind a model, found {vector}. Put the first on in a "
            "stage of its own, and the next on that stage"
        )
    return find(vector)


def _is_vector(path: Path) -> bool:
    """Whether it is a stored task vector, not an adapter; ConfigError where it is neither."""
    if adapter_folder(path) is not None:
        return False
    if not open_stored(path).is_task_vector:
        raise ConfigError(
            f"{path}: is a checkpoint, expected an adapter or a stored task vector behind the +. "
            f"Subtract its base: `tvmerge vector BASE {path} OUT`"
        )
    return True


def _added(path: Path, layout: Stored, threads: int | None) -> Stored:
    if _is_vector(path):
        return open_input(path, layout, threads=threads)
    return open_added(path, layout, threads=threads)


def _parts(reference: str) -> tuple[str, str | None]:
    """A model's name, and that of an adapter behind a `+`; a path may have one of its own."""
    base, plus, adapter = reference.partition("+")
    if not plus or Path(reference).exists():
        return reference, None
    ends = [n for n, letter in enumerate(reference) if letter == "+"]
    there = [n for n in ends if Path(reference[:n]).exists()]
    return (reference[: there[0]], reference[there[0] + 1 :]) if there else (base, adapter)
