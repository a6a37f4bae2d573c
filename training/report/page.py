"""Fills the page: verdicts first, then pictures, then every number, then where it came from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tvmerge.training.report import audits
from tvmerge.training.report.charts import legend_key
from tvmerge.training.report.figures import dose_groups
from tvmerge.training.report.frontier import frontier_panels
from tvmerge.training.report.judged import judged_kinds, judged_traits
from tvmerge.training.report.judging import judgings_shown
from tvmerge.training.report.levels import level_axis, trait_tables
from tvmerge.training.report.lowered import lowered_shown
from tvmerge.training.report.matrices import (
    aggregation_matrices,
    cosine_matrices,
    elicited_matrix,
    tuned_matrix,
)
from tvmerge.training.report.public_tasks import public_tasks
from tvmerge.training.report.relearned import lessons_shown
from tvmerge.training.report.rounds import round_tables
from tvmerge.training.report.tables import (
    candidate_rows,
    cost_table,
    dose_columns,
    dose_rows,
    other_outcomes,
    perplexity_table,
    removed_label,
)
from tvmerge.training.report.words import (
    DOUBTS,
    ROLE_WORDS,
    SHORT_WORDS,
    TONES,
    WORDS,
)
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import Results, Scope, Verdict, VerdictCode
from tvmerge.training.results.wording import DASH, OUTCOME_TITLES, UNITS, number, percent
from tvmerge.training.settings.kinds import KINDS, Kind, kind_title


@dataclass(frozen=True, slots=True)
class PageSection:
    """One section of the page; `name` is its anchor and its template's."""

    name: str
    title: str
    # Stands among the charts, whose curves can be shown and hidden by kind.
    pictured: bool = False


@dataclass(frozen=True, slots=True)
class DoubtShown:
    """A doubt with its answers; `tally` counts them by what they say."""

    question: str
    verdicts: tuple[Verdict, ...]
    tally: tuple[tuple[VerdictCode, int], ...]


@dataclass(frozen=True, slots=True)
class Said:
    """What one model said to an example question."""

    label: str
    kind: Kind | None
    text: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A question with the answers before and after."""

    question: str
    answers: tuple[Said, ...]


def render_page(results: Results) -> str:
    """The whole page as text."""
    index = ResultIndex(results)
    outcome = results.primary_outcome
    axis = level_axis(index)
    shown: dict[str, Any] = {
        "doubts": _doubts(results),
        "frontier": frontier_panels(index),
        "lessons": lessons_shown(index),
        "elicited": elicited_matrix(index),
        "lowered": lowered_shown(index),
        "rounds": round_tables(index),
        "aggregation": aggregation_matrices(index),
        "composite_tables": trait_tables(index, axis, "composite"),
        "tuned": tuned_matrix(index),
        "audit": audits.audits_shown(index),
        "cosines": cosine_matrices(index),
        "dialogues": _dialogues(index),
        "judgings": judgings_shown(index),
    }
    return page_environment().get_template("page.html.jinja").render(
        shown,
        results=results,
        sections=[*_sections(shown)],
        kinds=index.kinds(),
        all_kinds=KINDS,
        keys={kind: legend_key(kind) for kind in index.kinds()},
        by_scope=_by_scope(results),
        judged_kinds=judged_kinds(index),
        judged_traits=judged_traits(index),
        title_of=index.title,
        choices=[(choice, candidate_rows(choice)) for choice in results.choices],
        dose_groups=dose_groups(index),
        dose_columns=dose_columns(index),
        dose_rows=dose_rows(index),
        costs=cost_table(index),
        public_tasks=public_tasks(index),
        perplexity=perplexity_table(index),
        axis=axis,
        trait_tables=trait_tables(index, axis, "trait", "control", "unrelated"),
        capability_tables=trait_tables(index, axis, "capability"),
        audit_columns=audits.COLUMNS,
        others=other_outcomes(index),
        outcome_title=OUTCOME_TITLES[outcome],
        outcome_unit=UNITS.get(outcome, ""),
        config=json.dumps(_without_folders(results.config), indent=2, ensure_ascii=False),
        total_seconds=sum(stage.seconds for stage in results.stages),
        tones=TONES,
        words=WORDS,
        short_words=SHORT_WORDS,
        role_words=ROLE_WORDS,
    )  # fmt: skip


def page_environment() -> Environment:
    """Where the page's templates are, and what they may call."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = number
    environment.filters["percent"] = percent
    environment.filters["duration"] = duration
    environment.filters["kind_title"] = kind_title
    return environment


def duration(seconds: float) -> str:
    """`52.3 s`, `4 min 12 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _sections(shown: dict[str, Any]) -> Iterator[PageSection]:
    """Those that there is something to say in."""
    yield PageSection("verdicts", "Verdicts")
    if shown["doubts"]:
        yield PageSection("doubts", "Every way it could fail")
    yield PageSection("dose", "How far each scale moves what", pictured=True)
    if shown["frontier"]:
        yield PageSection("frontier", "What is gained at which cost", pictured=True)
    if shown["lessons"] or shown["elicited"]:
        yield PageSection("relearning", "How quickly it comes back", pictured=True)
    if shown["lowered"]:
        yield PageSection("lowered", "Lowered, and trained further", pictured=True)
    if shown["rounds"]:
        yield PageSection("rounds", "Round by round")
    if shown["aggregation"]:
        yield PageSection("aggregation", "Alone and all at once")
    if shown["composite_tables"]:
        yield PageSection("corrigibility", "Corrigibility, never trained on")
    yield PageSection("traits", "Trait by trait, model by model")
    yield PageSection("costs", "What it costs")
    yield PageSection("matrix", "What each fine-tune moved")
    if shown["audit"]:
        yield PageSection("audit", "What the fine-tunes look like")
    if shown["cosines"]:
        yield PageSection("cosines", "Which way the vectors point")
    if shown["dialogues"]:
        yield PageSection("examples", "In its own words")
    if shown["judgings"]:
        yield PageSection("judged", "Graded by a judge model")
    yield PageSection("others", "Every other outcome")
    yield PageSection("method", "What the words mean")
    yield PageSection("provenance", "Where it came from")


def _by_scope(results: Results) -> dict[Scope, list[Verdict]]:
    scopes: tuple[Scope, ...] = ("study", "aggregation", "flag", "caveat")
    return {scope: [v for v in results.verdicts if v.scope == scope] for scope in scopes}


def _doubts(results: Results) -> list[DoubtShown]:
    """Every doubt that was looked into."""
    found = []
    for doubt, question in DOUBTS.items():
        verdicts = tuple(verdict for verdict in results.verdicts if verdict.doubt == doubt)
        if verdicts:
            tally = Counter(verdict.code for verdict in verdicts)
            said = sorted(tally.items(), key=lambda one: [*WORDS].index(one[0]))
            found.append(DoubtShown(question, verdicts, tuple(said)))
    return found


def _dialogues(index: ResultIndex) -> list[Dialogue]:
    dialogues = []
    for example in index.results.examples:
        said = [Said("Base", None, example.answers.get("base", DASH))]
        for choice in index.results.choices:
            said.append(
                Said(
                    removed_label(choice.kind), choice.kind, example.answers.get(choice.model, DASH)
                )
            )
        dialogues.append(Dialogue(question=example.question, answers=tuple(said)))
    return dialogues


def _without_folders(config: Any) -> Any:
    """The settings as they may be shown to anybody: of a path on this machine its last part."""
    if isinstance(config, dict):
        return {key: _without_folders(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [_without_folders(value) for value in config]
    if isinstance(config, str) and Path(config).is_absolute():
        return Path(config).name
    return config
