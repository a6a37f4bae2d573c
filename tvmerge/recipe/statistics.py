"""The statistics that a recipe names beside a model: which tensor of them goes with which input."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tvmerge.checkpoints.stored import Stored, open_stored
from tvmerge.errors import did_you_mean
from tvmerge.files.safetensors import FLOAT_DTYPES
from tvmerge.files.yaml_file import Location
from tvmerge.methods import Method
from tvmerge.plans.assembly import AssembledInput
from tvmerge.plans.sums import Operand
from tvmerge.recipe.document import Module, Source
from tvmerge.recipe.opening import Find

_MOST_HINTS = 2_000  # of names to compare with one that is not there


class StatisticsFiles:
    """Those of one document; only headers are read."""

    def __init__(self, method: Method, find: Find) -> None:
        self._wanted, self._find = method.statistics, find
        self._opened: dict[str, Stored] = {}
        self._used: defaultdict[str, set[str]] = defaultdict(set)
        self._faults: dict[Location, str] = {}

    def given(
        self, inputs: Sequence[AssembledInput], sources: Sequence[Source]
    ) -> list[AssembledInput]:
        """A tensor's inputs with their statistics; raises FormatError where a file is not there."""
        found = list(map(self._given, inputs, sources))
        having = [one for one in found if one.statistics is not None]
        for one, source in zip(found, sources, strict=True):
            if having and one.statistics is None and one.parameters.get("weight") != 0:
                what = f"{having[0].model.reference} has statistics of {having[0].tensor}"
                if source.statistics is not None:  # the base has none
                    self._lacks(one, source, f"{what}. Compute them for all models")
        return found

    def _given(self, one: AssembledInput, source: Source) -> AssembledInput:
        if self._wanted is None or source.statistics is None:
            return one
        shape = self._wanted.shape(one)
        if shape is None or one.entry.dtype not in FLOAT_DTYPES:
            return one
        stored = self._open(source.statistics)
        slot = stored.slots.get(one.tensor)
        if slot is None:
            if self._wanted.everywhere:
                self._lacks(
                    one, source, f"expected shape {list(shape)}. Compute it of every tensor"
                )
            return one
        self._used[source.statistics].add(one.tensor)
        if one.parameters.get("weight") == 0:  # takes no part, and may have any shape
            return one
        if slot.entry.shape != shape or slot.entry.dtype not in FLOAT_DTYPES:
            self._faults.setdefault(
                (*source.at, "statistics"),
                f"{one.tensor}: shape {list(slot.entry.shape)}, {slot.entry.dtype} in "
                f"{source.statistics}, expected floating-point {list(shape)} for a tensor of "
                f"{list(one.entry.shape)}. Compute it again",
            )
        return replace(one, statistics=Operand(stored, one.tensor))

    def _lacks(self, one: AssembledInput, source: Source, advice: str) -> None:
        assert source.statistics is not None
        held = self._opened[source.statistics].slots
        odd = [name for name in held if name not in one.model.entries]
        near = did_you_mean(one.tensor, odd[:_MOST_HINTS])
        what = f"{source.statistics} has no {one.tensor}.{near} {advice}"
        self._faults.setdefault((*source.at, "statistics"), what)

    def faults(self, modules: Sequence[Module]) -> dict[Location, str]:
        """What was wrong with them, and what lies in them to no purpose."""
        found = dict(self._faults)
        for source in _sources(modules):
            if source.statistics is None or source.statistics not in self._opened:
                continue
            used = self._used[source.statistics]
            idle = [name for name in self._opened[source.statistics].slots if name not in used]
            if idle and (not used or source.layers is None):
                near = did_you_mean(idle[0], used)
                what = (
                    f"{source.statistics} has {idle[0]}, which goes with no tensor that is weighed"
                )
                advice = "Give it the name of the weight, or remove it"
                found.setdefault((*source.at, "statistics"), f"{what}.{near} {advice}")
        return found

    def _open(self, reference: str) -> Stored:
        if reference not in self._opened:
            found = open_stored(self._find(reference))
            self._opened[reference] = replace(found, given=reference)
        return self._opened[reference]


def _sources(modules: Sequence[Module]) -> Iterator[Source]:
    for module in modules:
        for part in module.slices:
            yield from part.sources
