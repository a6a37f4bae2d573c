"""Coloured matrices: what each model moved on every trait, and which way the vectors point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvmerge.training.report.tables import removed_label, together_models
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import OutcomeRow, TraitInfo
from tvmerge.training.results.wording import number, with_interval
from tvmerge.training.settings.kinds import BASE, Kind

# Of a model: its id, its label, the trait that it is about, the group that it stands in.
_Row = tuple[str, str, str | None, int]


@dataclass(frozen=True, slots=True)
class HeatCell:
    """A number and how strongly it is coloured: -1 to 1."""

    text: str
    title: str
    strength: float
    own: bool = False


@dataclass(frozen=True, slots=True)
class HeatRow:
    """A row of a coloured matrix; `rule` draws a line above it."""

    label: str
    cells: tuple[HeatCell | None, ...]
    rule: bool = False


@dataclass(frozen=True, slots=True)
class Heat:
    """A coloured matrix."""

    columns: tuple[str, ...]
    rows: tuple[HeatRow, ...]


def tuned_matrix(index: ResultIndex) -> Heat:
    """Change of the primary outcome: what each fine-tune and each negation moved, everywhere."""
    models: list[_Row] = [
        (m.id, f"Tuned: {index.title(m.trait or '')}", m.trait, 0)
        for m in index.results.models
        if m.role == "tuned"
    ]
    models += [(m.id, m.label, None, 1) for m in together_models(index)]
    models += [(c.model, removed_label(c.kind), None, 2) for c in index.results.choices]
    columns = [trait for trait in index.results.traits if trait.role != "elicited"]
    return _changes(index, models, columns)


def aggregation_matrices(index: ResultIndex) -> list[tuple[Kind, Heat]]:
    """What each trait's vector does alone, what all but it do, and what all do at once."""
    found = []
    columns = [*index.traits("trait"), *index.traits("control"), *index.traits("composite")]
    for choice in index.results.choices:
        parts = [m for m in index.results.models if m.kind == choice.kind]
        models: list[_Row] = [
            (model.id, f"{words} {index.title(model.trait or '')}", model.trait, place)
            for place, (role, words) in enumerate((("single", "Only"), ("without", "All but")))
            for model in parts
            if model.role == role
        ]
        if models:
            models.append((choice.model, "All at once", None, 2))
            found.append((choice.kind, _changes(index, models, columns)))
    return found


def elicited_matrix(index: ResultIndex) -> Heat | None:
    """Levels and changes of the traits once examples of them were shown; None if not measured."""
    outcome, traits = index.results.primary_outcome, index.traits("elicited")
    base = {t.name: row for t in traits if (row := index.row(BASE, t.name, outcome)) is not None}
    if not base:
        return None
    level = HeatRow(
        label="Base, its level",
        cells=tuple(
            HeatCell(
                text=number(row.value),
                title=with_interval(row.value, row.low, row.high, sign=False),
                strength=0.0,
            )
            if (row := base.get(trait.name)) is not None
            else None
            for trait in traits
        ),
    )
    models: list[_Row] = [
        (choice.model, removed_label(choice.kind), None, 0) for choice in index.results.choices
    ]
    changes = _changes(index, models, traits)
    titles = tuple(column.partition(",")[0] for column in changes.columns)
    return Heat(columns=titles, rows=(level, *changes.rows))


def cosine_matrices(index: ResultIndex) -> list[tuple[Kind, Heat]]:
    """Cosines between a kind's vectors, their norms at the end of each row."""
    matrices = []
    for vectors in index.results.vectors:
        labels = [_vector_label(index, name) for name in vectors.names]
        rows = []
        for label, norm, cosines in zip(labels, vectors.norms, vectors.cosines, strict=True):
            cells = tuple(
                HeatCell(
                    text=number(value, digits=2),
                    title=f"{label} and {other}: {number(value, digits=4)}",
                    strength=value,
                    own=label == other,
                )
                for other, value in zip(labels, cosines, strict=True)
            )
            length = HeatCell(text=f"{norm:#.3g}", title=f"norm of {label}", strength=0.0)
            rows.append(HeatRow(label=label, cells=(*cells, length)))
        matrices.append((vectors.kind, Heat(columns=(*labels, "norm"), rows=tuple(rows))))
    return matrices


def _changes(index: ResultIndex, models: Sequence[_Row], traits: Sequence[TraitInfo]) -> Heat:
    """Changes of the primary outcome; a rule between rows of different groups."""
    found = {
        (model, trait.name): row
        for model, *_ in models
        for trait in traits
        if (row := index.row(model, trait.name, index.results.primary_outcome)) is not None
        and row.change is not None
    }
    largest = max((abs(row.change or 0.0) for row in found.values()), default=1.0) or 1.0
    before = models[0][3] if models else 0
    rows: list[HeatRow] = []
    for model, label, own, group in models:
        cells = tuple(
            _heat_cell(found.get((model, trait.name)), largest, own=trait.name == own)
            for trait in traits
        )
        rows.append(HeatRow(label=label, cells=cells, rule=group != before))
        before = group
    return Heat(columns=tuple(index.title(trait.name) for trait in traits), rows=tuple(rows))


def _heat_cell(row: OutcomeRow | None, largest: float, *, own: bool) -> HeatCell | None:
    if row is None or row.change is None:
        return None
    return HeatCell(
        text=number(row.change, sign=True),
        title=with_interval(row.change, row.change_low, row.change_high),
        strength=max(-1.0, min(1.0, row.change / largest)),
        own=own,
    )


def _vector_label(index: ResultIndex, name: str) -> str:
    trait, _, pole = name.partition(".")
    return f"{index.title(trait)}, {pole}" if pole else index.title(trait)
