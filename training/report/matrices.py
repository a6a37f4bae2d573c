"""Coloured matrices: what each tuning moved, and which way the vectors point."""

from __future__ import annotations

from dataclasses import dataclass

from tvmerge.training.config import Kind
from tvmerge.training.index import ResultIndex
from tvmerge.training.results import OutcomeRow
from tvmerge.training.wording import number, with_interval


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
    outcome, traits = index.results.primary_outcome, index.results.traits
    models = [
        (m.id, f"Tuned: {index.title(m.trait or '')}", m.trait)
        for m in index.results.models
        if m.role == "tuned"
    ]
    models += [(c.model, f"All negated, {c.kind}", None) for c in index.results.choices]
    found = {
        (model, trait.name): row
        for model, _, _ in models
        for trait in traits
        if (row := index.row(model, trait.name, outcome)) is not None and row.change is not None
    }
    largest = max((abs(row.change or 0.0) for row in found.values()), default=1.0) or 1.0
    rows: list[HeatRow] = []
    for model, label, own in models:
        cells = tuple(
            _heat_cell(found.get((model, trait.name)), largest, own=trait.name == own)
            for trait in traits
        )
        rule = own is None and bool(rows) and not any(row.rule for row in rows)
        rows.append(HeatRow(label=label, cells=cells, rule=rule))
    return Heat(columns=tuple(index.title(trait.name) for trait in traits), rows=tuple(rows))


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
