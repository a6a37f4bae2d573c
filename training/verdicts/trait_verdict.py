"""Judges the traits under one kind of vectors, by the rules that the study's YAML states.

A trait counts as reduced only if it fell from the start model, from the base too, further than
under an unrelated vector of the same norm and further than the control traits, at a perplexity
within the limit. "Fell" means that the chance of no fall, corrected over the traits (Holm), is
below alpha. All of these must hold, so that none needs a correction for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Literal, get_args

from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import (
    ALL_CONTROLS,
    Contrast,
    OutcomeRow,
    PerplexityRow,
    ScaleChoice,
    Verdict,
    VerdictCode,
)
from tvmerge.training.results.statistics import holm
from tvmerge.training.results.wording import OUTCOME_TITLES, UNITS, percent, rise, with_interval
from tvmerge.training.settings.kinds import Kind

_Test = Literal["row", "beyond", "specific", "from_base"]
_TESTS: tuple[_Test, ...] = get_args(_Test)


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What is known of one trait at the chosen scale; chances are corrected over the traits."""

    row: OutcomeRow
    perplexity: PerplexityRow
    controls: OutcomeRow | None
    beyond: Contrast | None
    specific: Contrast | None
    from_base: Contrast | None
    chances: Mapping[_Test, float | None] = field(default_factory=dict)


def trait_verdicts(index: ResultIndex, kind: Kind) -> list[Verdict]:
    """One verdict for each trait that was measured at the kind's chosen scale."""
    choice = index.choice(kind)
    if choice is None:
        return []
    found = [
        evidence
        for trait in index.traits("trait")
        if (evidence := _evidence(index, choice, trait.name)) is not None
    ]
    corrected: dict[_Test, list[float | None]] = {
        test: holm([one.chance if one else None for one in map(attrgetter(test), found)])
        for test in _TESTS
    }
    return [
        _verdict(
            index,
            choice,
            replace(evidence, chances={test: corrected[test][place] for test in _TESTS}),
        )
        for place, evidence in enumerate(found)
    ]


def _evidence(index: ResultIndex, choice: ScaleChoice, trait: str) -> _Evidence | None:
    outcome = index.results.primary_outcome
    row, perplexity = index.row(choice.model, trait, outcome), index.perplexity(choice.model)
    if row is None or row.change is None or perplexity is None:
        return None
    return _Evidence(
        row=row,
        perplexity=perplexity,
        controls=index.row(choice.model, ALL_CONTROLS, outcome),
        beyond=index.contrast("beyond_unrelated", choice.model, trait, outcome),
        specific=index.contrast("specificity", choice.model, trait, outcome),
        from_base=index.contrast("from_base", choice.model, trait, outcome),
    )


def _verdict(index: ResultIndex, choice: ScaleChoice, known: _Evidence) -> Verdict:
    code = _code(index, known)
    parts = [
        change_words(known.row),
        *base_words(known.from_base),
        *rival_words(known.beyond, known.specific, known.controls),
        cost_words(known.perplexity),
    ]
    return Verdict(
        scope="trait",
        code=code,
        kind=choice.kind,
        trait=known.row.trait,
        headline=_headline(code, known.perplexity),
        detail=f"{'; '.join(parts)}.",
        chance=known.chances.get("row"),
    )


def _code(index: ResultIndex, known: _Evidence) -> VerdictCode:
    def shown(test: _Test) -> bool:
        chance = known.chances.get(test)
        return chance is not None and chance < index.results.rules.alpha

    if known.chances.get("row") is None:
        return "untested"
    if known.row.change_low is not None and known.row.change_low > 0:
        return "wrong_way"
    if not shown("row"):
        return "did_not_fall"
    if (known.perplexity.ratio or 1.0) - 1 > index.results.max_perplexity_rise:
        return "too_costly"
    rivals: list[_Test] = [t for t in ("beyond", "specific") if getattr(known, t) is not None]
    if not all(map(shown, rivals)):
        return "not_specific"
    if known.from_base is not None and not shown("from_base"):
        return "not_below_base"
    if len(rivals) < 2:
        return "untested"
    return "side_effects" if _excludes_zero(known.controls) else "reduced"


def _headline(code: VerdictCode, perplexity: PerplexityRow) -> str:
    cost = percent((perplexity.ratio or 1.0) - 1)
    return {
        "reduced": "Reduced, and specifically",
        "side_effects": "Reduced, but the control traits moved too",
        "not_specific": "Fell, but not specifically",
        "not_below_base": "Fell, but not below the base",
        "untested": "Not decided: a control or an interval is missing",
        "did_not_fall": "Failed: did not fall",
        "too_costly": f"Failed: cost too much (perplexity {cost})",
        "wrong_way": "Failed: moved the wrong way",
    }[code]


def change_words(row: OutcomeRow) -> str:
    """The change from the start model, with its interval and unit."""
    unit = UNITS.get(row.outcome, "")
    change = with_interval(row.change or 0.0, row.change_low, row.change_high)
    return f"{OUTCOME_TITLES[row.outcome]} {change}{' ' if unit else ''}{unit} from the start model"


def base_words(from_base: Contrast | None) -> list[str]:
    """The change from the base, where the edit started from another model."""
    if from_base is None:
        return []
    return [f"{with_interval(from_base.value, from_base.low, from_base.high)} from the base"]


def rival_words(
    beyond: Contrast | None, specific: Contrast | None, controls: OutcomeRow | None
) -> list[str]:
    """The change held against the unrelated vector's and against the control traits'."""
    words = []
    if beyond is None:
        words.append("no unrelated vector was measured")
    else:
        less = "" if (beyond.high or 0.0) < 0 else ", not clear of zero"
        words.append(
            f"{with_interval(beyond.value, beyond.low, beyond.high)} beyond an unrelated vector "
            f"of the same norm{less}"
        )
    if specific is None or controls is None or controls.change is None:
        words.append("no control traits were measured")
    else:
        less = "" if (specific.high or 0.0) < 0 else ", not clear of zero"
        moved = with_interval(controls.change, controls.change_low, controls.change_high)
        words.append(
            f"{with_interval(specific.value, specific.low, specific.high)} beyond the control "
            f"traits (which changed by {moved}){less}"
        )
    return words


def cost_words(perplexity: PerplexityRow) -> str:
    """The rise of perplexity, with its interval."""
    ratio = perplexity.ratio or 1.0
    return f"perplexity {rise(ratio, perplexity.ratio_low, perplexity.ratio_high)}"


def _excludes_zero(row: OutcomeRow | None) -> bool:
    if row is None or row.change_low is None or row.change_high is None:
        return False
    return row.change_low > 0 or row.change_high < 0
