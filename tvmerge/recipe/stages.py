"""The earlier stages of a recipe, as models that later ones name.

A stage is folded into a later one where that is a sum of it. Where it is not (a method that
measures or elects, whose inputs or whose result have to lie somewhere), the stage is written first.
A stage with an adapter or a stored task vector on it (`name+adapter`) is a stage too, the sum of
both, and so is a model with a vector on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Protocol

from tvmerge.checkpoints.stored import read_config
from tvmerge.files.safetensors import FLOAT_DTYPES
from tvmerge.merging.order import MODEL, Order, Variant
from tvmerge.merging.output import dtype_keys
from tvmerge.merging.stages import planned
from tvmerge.plans.assembly import AssembledInput, AssembledTensor, Assembly, Model
from tvmerge.plans.sums import Operand, TensorSum
from tvmerge.recipe.aligning import Open
from tvmerge.recipe.folding import cannot_fold, fold, sums_of
from tvmerge.recipe.stage_names import stage_of


class Opener(Protocol):
    """Opens what a document names that is no stage."""

    def model(self, reference: str) -> Model:
        """The stored model."""

    def carrier(self, reference: str) -> str | None:
        """The model of `model+vector`, where the vector is a stored one; else None."""

    def added(self, reference: str, onto: Model) -> Model:
        """What the vector, or the adapter, of `onto+vector` adds to that."""


class Stages:
    """Those resolved so far, by name."""

    def __init__(self) -> None:
        self._assemblies: dict[str, Assembly] = {}
        self._folded: dict[str, Model] = {}
        self._written: dict[str, Model] = {}
        self._named: list[str] = []  # those of documents

    def add(self, name: str, assembly: Assembly) -> None:
        """Give the stage to later documents."""
        self._named.append(name)
        self._add(name, assembly)

    def _add(self, name: str, assembly: Assembly) -> None:
        self._assemblies[name] = assembly
        self._folded[name] = _folded(name, assembly)

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called."""
        return tuple(self._named)

    def into(self, resolve: Callable[[Open], Assembly], opener: Opener) -> Assembly:
        """A later document, resolved with stages folded into it, or else from their files.

        `resolve` is told how to open a model; `opener` opens what is no stage. Raises what planning
        a stage that has to be written raises.
        """
        written: set[str] = set()

        def model(reference: str) -> Model:
            if reference not in self._assemblies:
                onto = stage_of(reference, self._named) or opener.carrier(reference)
                if onto is None:
                    return opener.model(reference)
                self._put_on(onto, reference, opener)
            return self._model(reference, written=reference in written)

        while True:
            assembly = resolve(model)
            more = cannot_fold(assembly) if self._assemblies else set()
            if more <= written:
                return assembly
            written |= more

    def _put_on(self, onto: str, reference: str, opener: Opener) -> None:
        """Make a stage of another, or of a model, with what is added to it."""
        own = self._folded.get(onto) or opener.model(onto)
        vector = opener.added(reference, own)
        self._add(reference, self.into(lambda of: _sum(of(onto), vector), opener))

    def _model(self, name: str, *, written: bool) -> Model:
        if not written:
            return self._folded[name]
        if name not in self._written:
            made = _written(name, self._assemblies[name], self._folded[name])
            if name not in self._named:
                made = _like(self._folded[name], made)
            self._written[name] = made
        return self._written[name]


def _sum(model: Model, vector: Model) -> Assembly:
    """The model with what the vector adds.

    Where it has to be written, that is in float32: what is added may be far below what the model's
    own dtype can tell apart.
    """

    def tensor(name: str) -> AssembledTensor:
        moved = name in vector.entries and model.entries[name].dtype in FLOAT_DTYPES
        held = (model, vector) if moved else (model,)
        inputs = tuple(AssembledInput(one, name, {"weight": 1.0}) for one in held)
        whole = {"normalize": False}
        return AssembledTensor(name, "linear", None, whole, inputs, None, model.like(name))

    dtype = "F64" if any(one.dtype == "F64" for one in model.entries.values()) else "F32"
    tensors = tuple(map(tensor, model.entries))
    return Assembly(model.donor, tensors, dtype, model.changes, model.tokenizer)


def _like(folded: Model, made: Model) -> Model:
    """A model that lies in other dtypes than its own, as if it had these."""
    assert folded.sums is not None and made.sums is not None
    sums = {name: replace(one, like=folded.sums[name].like) for name, one in made.sums.items()}
    return replace(made, sums=sums, changes=folded.changes)


def _folded(name: str, assembly: Assembly) -> Model:
    """What a stage makes as sums of what it is made of: nothing is rounded in between."""
    sums = {one.name: one for one in sums_of(assembly).tensors}
    entries = {one.name: one.like.slot.entry._replace(name=one.name) for one in sums.values()}
    config = dict(read_config(assembly.donor.folder))
    for path, value in assembly.config.items():
        if len(path) == 1:
            config[path[0]] = value
        else:
            config[path[0]] = _with(config.get(path[0], {}), path[1:], value)
    return Model(name, assembly.donor, entries, config, sums, assembly.config, assembly.tokenizer)


def _written(name: str, assembly: Assembly, folded: Model) -> Model:
    """What a stage makes as it will lie on the disk when the merge is run, in its own dtypes."""
    model = fold(assembly)
    order = Order(
        kind=MODEL,
        donor=assembly.donor,
        variants=(Variant(weighting=model.weighting),),
        dtype=assembly.dtype,
        tokenizer=assembly.tokenizer,
    )
    stored = planned(name, order)
    sums = {}
    for tensor in folded.entries:
        operand = Operand(stored, tensor)
        sums[tensor] = TensorSum(tensor, operand, {operand: Fraction(1)})
    entries = {tensor: one.like.slot.entry for tensor, one in sums.items()}
    changes = dict(folded.changes)
    if assembly.dtype is not None:
        changes |= dtype_keys(folded.config, assembly.dtype)
    return replace(folded, entries=entries, sums=sums, changes=changes)


def _with(content: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    below = value if len(path) == 1 else _with(content.get(path[0], {}), path[1:], value)
    return {**content, path[0]: below}
