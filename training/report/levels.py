"""Each trait's level under every model, drawn as intervals on one axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from tvmerge.training.config import Kind
from tvmerge.training.index import ResultIndex
from tvmerge.training.report.tables import change_words, shown_models
from tvmerge.training.results import Outcome, OutcomeRow, TraitInfo
from tvmerge.training.wording import number, with_interval

# 0.5 is a coin's AUC; a margin of 0 has no leaning.
NEUTRAL: dict[Outcome, float] = {"statement_auc": 0.5, "yes_no_auc": 0.5}


@dataclass(frozen=True, slots=True)
class Axis:
    """The common axis: where values lie, in percent of the width."""

    low: float
    high: float
    neutral: float

    def place(self, value: float) -> float:
        """The value's place, 2 to 98."""
        return round(2 + 96 * (value - self.low) / (self.high - self.low or 1.0), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """(place, label) of round values."""
        values = MaxNLocator(nbins=7, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        return [
            (self.place(value), number(value, digits=1))
            for value in values
            if self.low <= value <= self.high
        ]


@dataclass(frozen=True, slots=True)
class Bar:
    """An interval on a common axis: places in percent of the width."""

    point: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TraitRow:
    """One model's level on a trait, and its change from its reference."""

    label: str
    note: str
    kind: Kind | None
    chosen: bool
    value: str
    change: str
    bar: Bar


@dataclass(frozen=True, slots=True)
class TraitTable:
    """A trait and every model that was measured on it."""

    trait: TraitInfo
    rows: tuple[TraitRow, ...]


def level_axis(index: ResultIndex) -> Axis:
    """An axis that holds every level of every trait."""
    neutral = NEUTRAL.get(index.results.primary_outcome, 0.0)
    edges = [neutral]
    for trait in index.results.traits:
        for _, _, row in _trait_rows(index, trait.name):
            edges += [v for v in (row.value, row.low, row.high) if v is not None]
    return Axis(low=min(edges), high=max(edges), neutral=neutral)


def trait_tables(index: ResultIndex, axis: Axis) -> list[TraitTable]:
    """A table for each trait, all on one axis."""
    chosen = {choice.model: f"scale {choice.scale:g}" for choice in index.results.choices}
    tables = []
    for trait in index.results.traits:
        rows = tuple(
            TraitRow(
                label=label,
                note=chosen.get(row.model, ""),
                kind=kind,
                chosen=row.model in chosen,
                value=with_interval(row.value, row.low, row.high, digits=2),
                change=change_words(row),
                bar=Bar(
                    point=axis.place(row.value),
                    low=axis.place(row.value if row.low is None else row.low),
                    high=axis.place(row.value if row.high is None else row.high),
                ),
            )
            for label, kind, row in _trait_rows(index, trait.name)
        )
        tables.append(TraitTable(trait=trait, rows=rows))
    return tables


def _trait_rows(index: ResultIndex, trait: str) -> Iterator[tuple[str, Kind | None, OutcomeRow]]:
    models = list(shown_models(index))
    models.insert(1, (f"tuned.{trait}", "Tuned to have it", None))
    for model, label, kind in models:
        row = index.row(model, trait, index.results.primary_outcome)
        if row is not None:
            yield label, kind, row
