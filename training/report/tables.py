"""The page's tables as plain values: what each cell says, and how far its bar reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tvmerge.training.config import Kind
from tvmerge.training.index import ResultIndex
from tvmerge.training.results import (
    ALL_CONTROLS,
    ALL_TRAITS,
    Outcome,
    OutcomeRow,
    ScaleChoice,
)
from tvmerge.training.wording import OUTCOME_TITLES, percent, rise, with_interval

OTHER_OUTCOMES: tuple[Outcome, ...] = (
    "statement_margin",
    "statement_auc",
    "statement_shows",
    "statement_lacks",
    "yes_no_margin",
    "yes_no_auc",
    "pick_rate",
    "yes_bias",
    "valid_mass",
    "choice_margin",
    "choice_pick_rate",
)


@dataclass(frozen=True, slots=True)
class OtherRow:
    """All other outcomes of one model, pooled."""

    label: str
    kind: Kind | None
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class OtherTable:
    """Other outcomes, pooled over a role."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[OtherRow, ...]


def shown_models(index: ResultIndex) -> Iterator[tuple[str, str, Kind | None]]:
    """(id, label, kind) of the models that tables compare: from the base to the controls."""
    yield "base", "Base", None
    for kind in index.kinds():
        choice = index.choice(kind)
        if kind != "plain":
            yield f"start.{kind}", f"Start of {kind}", kind
        if choice is not None:
            yield choice.model, f"All negated, {kind}", kind
        for control in ("unrelated", "random"):
            yield f"{kind}.{control}", f"{control.capitalize()} vector, {kind}", kind


def other_outcomes(index: ResultIndex) -> list[OtherTable]:
    """Every outcome of the compared models, pooled over the traits and over the controls."""
    tables = []
    for title, group in (("All traits", ALL_TRAITS), ("All control traits", ALL_CONTROLS)):
        outcomes = [
            outcome for outcome in OTHER_OUTCOMES if index.row("base", group, outcome) is not None
        ]
        rows = []
        for model, label, kind in shown_models(index):
            found = [index.row(model, group, outcome) for outcome in outcomes]
            if any(found):
                rows.append(OtherRow(label, kind, tuple(_level(row) for row in found)))
        if rows:
            columns = tuple(OUTCOME_TITLES[outcome] for outcome in outcomes)
            tables.append(OtherTable(title=title, columns=columns, rows=tuple(rows)))
    return tables


def candidate_rows(choice: ScaleChoice) -> list[tuple[str, str, str, bool]]:
    """(scale, change on development items, perplexity, chosen) of each scale that was tried."""
    return [
        (
            f"{one.scale:g}",
            with_interval(one.change, one.low, one.high),
            percent(one.perplexity_rise),
            one.model == choice.model,
        )
        for one in choice.candidates
    ]


def perplexity_rows(index: ResultIndex) -> list[tuple[str, str, str]]:
    """(model, perplexity, rise from its reference) of every measured model."""
    labels = {model: label for model, label, _ in shown_models(index)}
    rows = []
    for model in index.results.models:
        row = index.perplexity(model.id)
        if row is not None:
            level = with_interval(row.value, row.low, row.high, digits=1, sign=False)
            cost = "" if row.ratio is None else rise(row.ratio, row.ratio_low, row.ratio_high)
            rows.append((labels.get(model.id, _plain_label(index, model.id)), level, cost))
    return rows


def dose_rows(index: ResultIndex) -> list[tuple[str, Sequence[str]]]:
    """(model, change on each trait) of every scale: the numbers behind the curves."""
    outcome = index.results.primary_outcome
    rows: list[tuple[str, Sequence[str]]] = []
    for kind in index.kinds():
        for model in index.negated(kind):
            found = [index.row(model.id, trait.name, outcome) for trait in index.results.traits]
            said = [change_words(row) if row is not None else "" for row in found]
            rows.append((f"{kind.capitalize()}, scale {model.scale:g}", said))
    return rows


def change_words(row: OutcomeRow) -> str:
    """The change with its interval; nothing where there is none."""
    if row.change is None:
        return ""
    return with_interval(row.change, row.change_low, row.change_high)


def _level(row: OutcomeRow | None) -> tuple[str, str]:
    if row is None:
        return "", ""
    mass = row.outcome == "valid_mass"
    said = with_interval(
        row.value, row.low, row.high, digits=3 if mass else 2, sign=False, tiny=mass
    )
    value, _, interval = said.partition(" ")
    return value, interval


def _plain_label(index: ResultIndex, model: str) -> str:
    head, _, tail = model.partition(".")
    return (
        f"Tuned: {index.title(tail)}" if head == "tuned" else f"{head.capitalize()}, scale {tail}"
    )
