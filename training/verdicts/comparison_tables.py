"""A comparison of two studies as tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from tvmerge.training.results.results import Verdict
from tvmerge.training.results.wording import DASH
from tvmerge.training.settings.kinds import kind_title
from tvmerge.training.verdicts.comparison import Comparison, VerdictPair


def comparison_tables(compared: Comparison) -> Iterator[Table]:
    """What differs in the settings, the verdicts, the changes."""
    a, b = f"A: {compared.a}", f"B: {compared.b}"
    if compared.settings:
        table = _table("What was set otherwise", "Setting", a, b)
        for setting in compared.settings:
            table.add_row(*map(Text, (setting.key, setting.a, setting.b)))
        yield table
    table = _table("Verdicts", "Edit", "Trait", a, b)
    for pair in compared.verdicts:
        table.add_row(
            Text(_kind(pair)),
            Text(pair.about),
            Text(headline(pair.a)),
            Text(headline(pair.b), style="bold" if pair.differs else ""),
        )
    yield table
    table = _table(
        f"{compared.outcome}, change at each study's chosen scale", "Edit", "Trait", a, b, "B - A"
    )
    for change in compared.changes:
        table.add_row(
            *map(
                Text,
                (kind_title(change.kind), change.trait, change.a, change.b, change.difference),
            )
        )
    yield table


def headline(verdict: Verdict | None) -> str:
    """The verdict in a few words; a dash where there is none."""
    return verdict.headline.split(": ", 1)[-1] if verdict else DASH


def _kind(pair: VerdictPair) -> str:
    return kind_title(pair.kind) if pair.kind else ""


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table
