"""Fills the page: verdicts first, then pictures, then every number, then where it came from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tvmerge.training.config import Kind
from tvmerge.training.index import ResultIndex
from tvmerge.training.report.figures import dose_panels
from tvmerge.training.report.judged import judged_kinds, judged_traits
from tvmerge.training.report.levels import level_axis, trait_tables
from tvmerge.training.report.matrices import cosine_matrices, tuned_matrix
from tvmerge.training.report.tables import (
    candidate_rows,
    dose_rows,
    other_outcomes,
    perplexity_rows,
)
from tvmerge.training.results import Results, Scope, Verdict, VerdictCode
from tvmerge.training.wording import DASH, OUTCOME_TITLES, UNITS, number, percent

# How a verdict is shown; the words carry the meaning, the colour only repeats it.
TONES: dict[VerdictCode, str] = {
    "worked": "good",
    "reduced": "good",
    "partly": "mixed",
    "side_effects": "mixed",
    "not_specific": "mixed",
    "not_below_base": "mixed",
    "untested": "mixed",
    "failed": "bad",
    "did_not_fall": "bad",
    "too_costly": "bad",
    "wrong_way": "bad",
    "flag": "mixed",
    "note": "quiet",
}
WORDS: dict[VerdictCode, str] = {
    "worked": "Worked",
    "partly": "Worked in part",
    "failed": "Failed",
}


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
    return _environment().get_template("page.html.jinja").render(
        results=results,
        kinds=index.kinds(),
        by_scope=_by_scope(results),
        judged_kinds=judged_kinds(index),
        judged_traits=judged_traits(index),
        title_of=index.title,
        choices=[(choice, candidate_rows(choice)) for choice in results.choices],
        panels=dose_panels(index),
        dose_rows=dose_rows(index),
        perplexity_rows=perplexity_rows(index),
        trait_tables=trait_tables(index, axis),
        axis=axis,
        tuned=tuned_matrix(index),
        cosines=cosine_matrices(index),
        dialogues=_dialogues(index),
        others=other_outcomes(index),
        outcome_title=OUTCOME_TITLES[outcome],
        outcome_unit=UNITS.get(outcome, ""),
        config=json.dumps(results.config, indent=2, ensure_ascii=False),
        total_seconds=sum(stage.seconds for stage in results.stages),
        tones=TONES,
        words=WORDS,
    )  # fmt: skip


def _environment() -> Environment:
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
    return environment


def duration(seconds: float) -> str:
    """`52.3 s`, `4 min 12 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _by_scope(results: Results) -> dict[Scope, list[Verdict]]:
    scopes: tuple[Scope, ...] = ("study", "aggregation", "flag", "caveat")
    return {scope: [v for v in results.verdicts if v.scope == scope] for scope in scopes}


def _dialogues(index: ResultIndex) -> list[Dialogue]:
    dialogues = []
    for example in index.results.examples:
        said = [Said("Base", None, example.answers.get("base", DASH))]
        for choice in index.results.choices:
            label = f"All negated, {choice.kind}"
            said.append(Said(label, choice.kind, example.answers.get(choice.model, DASH)))
        dialogues.append(Dialogue(question=example.question, answers=tuple(said)))
    return dialogues
