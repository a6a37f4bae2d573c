"""Each trait's level under every model, drawn as intervals on one axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from tvmerge.training.report.tables import (
    ShownModel,
    change_words,
    edited_models,
    has_many_kinds,
    start_models,
    together_models,
)
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import Outcome, OutcomeRow, Role, TraitInfo
from tvmerge.training.results.wording import number, with_interval
from tvmerge.training.settings.kinds import Kind

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
    # Of the control vectors, where there are too many to stand among the others.
    aside: tuple[TraitRow, ...]


def level_axis(index: ResultIndex) -> Axis:
    """An axis that holds every level of every trait."""
    neutral = NEUTRAL.get(index.results.primary_outcome, 0.0)
    edges = [neutral]
    for trait in index.results.traits:
        for _, row in _trait_rows(index, trait):
            edges += [v for v in (row.value, row.low, row.high) if v is not None]
    return Axis(low=min(edges), high=max(edges), neutral=neutral)


def trait_tables(index: ResultIndex, axis: Axis, *roles: Role) -> list[TraitTable]:
    """A table for each trait of these roles, all on one axis."""
    chosen = {choice.model: f"scale {choice.scale:g}" for choice in index.results.choices}
    many = has_many_kinds(index)
    tables = []
    for trait in index.results.traits:
        if trait.role not in roles:
            continue
        rows = [
            (model, _table_row(model, row, axis, note=chosen.get(row.model, ""), marked=not many))
            for model, row in _trait_rows(index, trait)
        ]
        tables.append(
            TraitTable(
                trait=trait,
                rows=tuple(row for model, row in rows if not (many and model.control)),
                aside=tuple(row for model, row in rows if many and model.control),
            )
        )
    return tables


def _table_row(
    model: ShownModel, row: OutcomeRow, axis: Axis, *, note: str, marked: bool
) -> TraitRow:
    return TraitRow(
        label=model.label,
        note=note,
        kind=model.kind,
        chosen=bool(note) and marked,
        value=with_interval(row.value, row.low, row.high, digits=2),
        change=change_words(row),
        bar=Bar(
            point=axis.place(row.value),
            low=axis.place(row.value if row.low is None else row.low),
            high=axis.place(row.value if row.high is None else row.high),
        ),
    )


def _trait_rows(index: ResultIndex, trait: TraitInfo) -> Iterator[tuple[ShownModel, OutcomeRow]]:
    """Composites are shown under every tuned model, other traits under their own."""
    tuned = [
        ShownModel(model.id, f"Tuned: {index.title(model.trait or '')}")
        if trait.role == "composite"
        else ShownModel(model.id, "Tuned to have it")
        for model in index.results.models
        if model.role == "tuned" and (trait.role == "composite" or model.trait == trait.name)
    ]
    together = together_models(index) if trait.role == "composite" else []
    for model in (*start_models(index), *tuned, *together, *edited_models(index)):
        row = index.row(model.id, trait.name, index.results.primary_outcome)
        if row is not None:
            yield model, row
