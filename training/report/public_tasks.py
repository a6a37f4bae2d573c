"""Public tasks of lm-eval: a row for each model and outcome."""

from __future__ import annotations

from tvmerge.training.report.tables import OtherRow, OtherTable, shown_models
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import Measured, PublicTaskRow
from tvmerge.training.results.wording import chance, with_interval

COLUMNS = ("Task", "Outcome", "Mean", "from the base", "p", "Documents")


def public_tasks(index: ResultIndex) -> OtherTable | None:
    """Every outcome, task by task; None where none was run."""
    if not index.results.public_tasks:
        return None
    models = {model.id: model for model in shown_models(index)}
    rows = [
        OtherRow(models[row.model].label, models[row.model].kind, _cells(row))
        for row in index.results.public_tasks
        if row.model in models
    ]
    return OtherTable("Public tasks", COLUMNS, tuple(rows))


def _cells(row: PublicTaskRow) -> tuple[tuple[str, str], ...]:
    shots = "" if row.shots is None else f"{row.shots} shots"
    return (
        (row.task, shots),
        (row.outcome, ""),
        _cell(row.level),
        _cell(row.change, sign=True),
        (chance(row.chance) if row.change else "", ""),
        (f"{row.n}", "" if row.limit is None else "the first ones"),
    )


def _cell(measured: Measured | None, *, sign: bool = False) -> tuple[str, str]:
    if measured is None:
        return "", ""
    said = with_interval(measured.value, measured.low, measured.high, digits=3, sign=sign)
    value, _, interval = said.partition(" ")
    return value, interval
