"""Judges one trait under one kind of vectors.

A trait counts as reduced only if its change lies wholly below zero, below zero from the
base too, below that of an unrelated vector of the same norm and below that of the control traits,
at a perplexity within the limit.
"""

from __future__ import annotations

from tvmerge.training.config import Kind
from tvmerge.training.index import ResultIndex
from tvmerge.training.results import (
    ALL_CONTROLS,
    Contrast,
    OutcomeRow,
    PerplexityRow,
    ScaleChoice,
    Verdict,
    VerdictCode,
)
from tvmerge.training.wording import OUTCOME_TITLES, UNITS, percent, rise, with_interval


def trait_verdicts(index: ResultIndex, kind: Kind) -> list[Verdict]:
    """One verdict for each trait that was measured at the kind's chosen scale."""
    choice = index.choice(kind)
    if choice is None:
        return []
    verdicts = []
    for trait in index.traits("trait"):
        row = index.row(choice.model, trait.name, index.results.primary_outcome)
        perplexity = index.perplexity(choice.model)
        if row is not None and row.change is not None and perplexity is not None:
            verdicts.append(_trait_verdict(index, choice, row, perplexity))
    return verdicts


def _trait_verdict(
    index: ResultIndex, choice: ScaleChoice, row: OutcomeRow, perplexity: PerplexityRow
) -> Verdict:
    outcome = index.results.primary_outcome
    beyond = index.contrast("beyond_unrelated", choice.model, row.trait, outcome)
    specific = index.contrast("specificity", choice.model, row.trait, outcome)
    from_base = index.contrast("from_base", choice.model, row.trait, outcome)
    controls = index.row(choice.model, ALL_CONTROLS, outcome)
    code = _trait_code(row, beyond, specific, from_base, controls, perplexity, index)
    rivals = rival_words(beyond, specific, controls)
    parts = [change_words(row), *base_words(from_base), *rivals, cost_words(perplexity)]
    return Verdict(
        scope="trait",
        code=code,
        kind=choice.kind,
        trait=row.trait,
        headline=_headline(code, perplexity),
        detail=f"{'; '.join(parts)}.",
    )


def _trait_code(
    row: OutcomeRow,
    beyond: Contrast | None,
    specific: Contrast | None,
    from_base: Contrast | None,
    controls: OutcomeRow | None,
    perplexity: PerplexityRow,
    index: ResultIndex,
) -> VerdictCode:
    if row.change_low is None or row.change_high is None:
        return "untested"
    if row.change_low > 0:
        return "wrong_way"
    if row.change_high >= 0:
        return "did_not_fall"
    if (perplexity.ratio or 1.0) - 1 > index.results.max_perplexity_rise:
        return "too_costly"
    rivals = [rival for rival in (beyond, specific) if rival is not None]
    if any(rival.high is None or rival.high >= 0 for rival in rivals):
        return "not_specific"
    if from_base is not None and (from_base.high is None or from_base.high >= 0):
        return "not_below_base"
    if beyond is None or specific is None:
        return "untested"
    return "side_effects" if _excludes_zero(controls) else "reduced"


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
