"""Where the rows of tokens come from that a model lacks: the rule of mergekit 0.1.5.

As the recipe says of the token; else the row of the only model that has it, else the base's, else
the mean of those that have it, else 0.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvmerge.checkpoints.stored import Slot
from tvmerge.errors import MismatchError
from tvmerge.files.safetensors import FLOAT_DTYPES
from tvmerge.inputs.token_rows import Mean, TokenRows
from tvmerge.recipe.token_tensors import TokenTensors


@dataclass(frozen=True, slots=True)
class Filling:
    """Tells the rows of a vocabulary.

    `ids` are each model's own, `base` is the number of the base, `given` the rows that the recipe
    tells, by their numbers: a model's number and the row there, None for 0.
    """

    tensors: Sequence[TokenTensors]
    ids: Sequence[array[int]]
    base: int | None
    given: Mapping[int, tuple[int, int] | None]

    @property
    def keeps_all(self) -> bool:
        """Whether all models have every row where it is to be."""
        return all(own == array("q", range(len(own))) for own in self.ids)

    def tables(self, padding: int) -> list[list[TokenRows]]:
        """By model what has to be written of it; nothing where its rows stay as they are."""
        found: list[list[TokenRows]] = [[] for _ in self.tensors]
        changed = [number for number in range(len(found)) if self._changes(number, padding)]
        for name in dict.fromkeys(n for number in changed for n in self.tensors[number].names):
            slots = {n: slot for n, one in enumerate(self.tensors) if (slot := one.slot(name))}
            self._check(name, slots)
            rows = self._rows(name, slots)
            for number in changed:
                if name in self.tensors[number].names:
                    found[number].append(self._table(name, number, slots, rows, padding))
        return found

    def _check(self, name: str, slots: Mapping[int, Slot]) -> None:
        """Raise MismatchError where rows of one model cannot be another's."""
        kinds = {
            number: (list(slot.entry.shape[1:]), slot.entry.dtype in FLOAT_DTYPES)
            for number, slot in slots.items()
        }
        first = next(iter(kinds))
        for number, kind in kinds.items():
            if kind != kinds[first] or not kind[1]:
                entry = slots[number].entry
                raise MismatchError(
                    f"{name}: rows are {kind[0]}, {entry.dtype} in "
                    f"{self.tensors[number].model.reference}, expected floating-point "
                    f"{kinds[first][0]} as in {self.tensors[first].model.reference}. "
                    "Use models of one architecture and width"
                )

    def _changes(self, number: int, padding: int) -> bool:
        own = self.ids[number]
        same = self.tensors[number].rows == len(own) and own == array("q", range(len(own)))
        return padding > 0 or not same

    def _table(
        self,
        name: str,
        number: int,
        slots: Mapping[int, Slot],
        rows: Mapping[int, Mean],
        padding: int,
    ) -> TokenRows:
        own = self.ids[number]
        filled = {row: rows[row] for row, at in enumerate(own) if at < 0}
        return TokenRows(
            name, tuple(slots.values()), list(slots).index(number), own, filled, padding
        )

    def _rows(self, name: str, slots: Mapping[int, Slot]) -> dict[int, Mean]:
        """What every row is that some model lacks; sources are numbered as the slots come."""
        places = {number: place for place, number in enumerate(slots)}
        missing = {row for own in self.ids for row, at in enumerate(own) if at < 0}
        found: dict[int, Mean] = {}
        for row in sorted(missing):
            if row in self.given:
                found[row] = self._given(name, self.given[row], places)
                continue
            having = [number for number in slots if self.ids[number][row] >= 0]
            if self.base in having:
                having = [number for number in having if number == self.base]
            found[row] = tuple((places[number], self.ids[number][row]) for number in having)
        return found

    def _given(self, name: str, at: tuple[int, int] | None, places: Mapping[int, int]) -> Mean:
        if at is None:
            return ()
        if at[0] not in places:
            model = self.tensors[at[0]].model.reference
            raise MismatchError(f"{name}: a token's row is to come from {model}, which has none")
        return ((places[at[0]], at[1]),)
