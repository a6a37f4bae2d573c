"""What a judge model made of the answers, and how far it is to be trusted."""

from __future__ import annotations

from dataclasses import dataclass

from tvmerge.training.report.tables import OtherRow, OtherTable, shown_models
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import Judged, Measured
from tvmerge.training.results.wording import percent, with_interval

# Below this a judge gets more than one pair in ten the wrong way round: its grades decide nothing.
LEAST_AUC = 0.9


@dataclass(frozen=True, slots=True)
class JudgingShown:
    """One judge: what to think of it, the models' mean grades, its agreement by trait."""

    title: str
    trust: str
    questions: int
    grades: OtherTable
    agreement: OtherTable


def judgings_shown(index: ResultIndex) -> list[JudgingShown]:
    """Every judge that was asked."""
    return [
        JudgingShown(
            title=f"{one.judge}, by {one.rubric}",
            trust=trust(one),
            questions=one.questions,
            grades=_grades(index, one),
            agreement=_agreement(index, one),
        )
        for one in index.results.judged
    ]


def trust(judged: Judged) -> str:
    """In plain words, whether the judge can tell a trait when it sees it."""
    if judged.gold_auc_all is None:
        return (
            f"{judged.judge} was not tried on statements whose trait is known: nothing is known of "
            "what its grades are worth."
        )
    found = judged.gold_auc_all
    said = (
        f"On {judged.gold_items} shipped statements a trait, half of which show it, {judged.judge} "
        f"has an AUC of {with_interval(found.value, found.low, found.high, sign=False)} (1: every "
        "showing statement graded higher, 0.5: a coin), and puts "
        f"{percent(judged.mass, sign=False)} of its probability on the digits of the scale."
    )
    if found.low is None or found.low < LEAST_AUC:
        return f"{said} This judge failed its own test: its grades show nothing."
    return (
        f"{said} It passed this test, which is of short, plain statements; a small judge is still "
        "not to be trusted by itself."
    )


def _grades(index: ResultIndex, judged: Judged) -> OtherTable:
    found = {(row.model, row.trait): row for row in judged.levels}
    columns = list(dict.fromkeys(row.trait for row in judged.levels))
    rows = []
    for model in shown_models(index):
        each = [row for trait in columns if (row := found.get((model.id, trait)))]
        if each:
            cells = [
                cell for row in each for cell in (_cell(row.level), _cell(row.change, sign=True))
            ]
            rows.append(OtherRow(model.label, model.kind, tuple(cells)))
    titles = [title for trait in columns for title in (_title(index, trait), "from the base")]
    return OtherTable("Mean grades", tuple(titles), tuple(rows))


def _agreement(index: ResultIndex, judged: Judged) -> OtherTable:
    names = tuple(judged.gold_auc)
    cells = tuple(_cell(judged.gold_auc[name]) for name in names)
    rows = [OtherRow("AUC on shipped statements", None, cells)] if names else []
    return OtherTable("The judge's own test", tuple(map(index.title, names)), tuple(rows))


def _title(index: ResultIndex, trait: str) -> str:
    # The names of groups are titles but for their first letter.
    return index.title(trait)[:1].upper() + index.title(trait)[1:]


def _cell(measured: Measured | None, *, sign: bool = False) -> tuple[str, str]:
    if measured is None:
        return "", ""
    said = with_interval(measured.value, measured.low, measured.high, digits=2, sign=sign)
    value, _, interval = said.partition(" ")
    return value, interval
