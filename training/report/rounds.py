"""Round by round: the levels of each base and of what was made of it, and how vectors turned."""

from __future__ import annotations

from tvmerge.training.report.tables import OtherRow, OtherTable
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import Level
from tvmerge.training.results.wording import number, with_interval
from tvmerge.training.settings.kinds import kind_title

PERPLEXITY = "perplexity"


def round_tables(index: ResultIndex) -> list[OtherTable]:
    """Levels before and after, then norms and cosines; nothing where there were no rounds."""
    rounds = index.results.rounds
    if not rounds:
        return []
    roles = ("trait", "control", "composite", "capability")
    names = [trait.name for trait in index.results.traits if trait.role in roles]
    levels = []
    for one in rounds:
        for said, found in (
            (f"Round {one.number}, base", one.before),
            (f"Round {one.number}, {kind_title(one.kind)} at {one.scale:g}", one.after),
        ):
            known = {level.what: level for level in found}
            cells = tuple(_cell(known.get(name)) for name in (*names, PERPLEXITY))
            levels.append(OtherRow(said, None, cells))
    turned = [name for name in names if name in rounds[0].norms]
    vectors = [
        OtherRow(
            f"Round {one.number}",
            None,
            tuple(
                (number(one.norms.get(name), digits=3), _cosine(one.cosines_to_last.get(name)))
                for name in turned
            ),
        )
        for one in rounds
    ]
    titles = tuple(index.title(name) for name in names)
    return [
        OtherTable("Levels before and after", (*titles, PERPLEXITY.capitalize()), tuple(levels)),
        OtherTable(
            "Norms of the vectors, and their cosines with the last round's",
            tuple(index.title(name) for name in turned),
            tuple(vectors),
        ),
    ]


def _cell(level: Level | None) -> tuple[str, str]:
    if level is None:
        return "", ""
    sign = level.what != PERPLEXITY
    value, _, interval = with_interval(level.value, level.low, level.high, sign=sign).partition(" ")
    return value, interval


def _cosine(cosine: float | None) -> str:
    return "" if cosine is None else f"cosine {number(cosine)}"
