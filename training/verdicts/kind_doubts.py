"""The doubts that each kind of vectors answers for itself; see doubts."""

from __future__ import annotations

import numpy as np

from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import (
    ALL_CAPABILITY,
    ALL_TRAITS,
    Doubt,
    Outcome,
    OutcomeRow,
    ScaleChoice,
    Verdict,
    VerdictCode,
)
from tvmerge.training.results.statistics import holm
from tvmerge.training.results.wording import (
    OUTCOME_TITLES,
    UNITS,
    listed,
    number,
    percent,
    rise,
    with_interval,
)
from tvmerge.training.settings.kinds import KINDS, Kind

PICK_RATES: tuple[Outcome, ...] = (
    "statement_pick_rate",
    "pick_rate",
    "choice_pick_rate",
    "dialogue_pick_rate",
)


def kind_doubts(index: ResultIndex, choice: ScaleChoice) -> list[Verdict]:
    """What the kind's chosen model says of each doubt."""
    return [
        *_aggregation(index, choice),
        *_incompetent(index, choice),
        *_shallow(index, choice),
        *_direct(index, choice),
    ]


def _aggregation(index: ResultIndex, choice: ScaleChoice) -> list[Verdict]:
    outcome = index.results.primary_outcome
    joint = index.row(choice.model, ALL_TRAITS, outcome)
    beyond = index.contrast("beyond_sum", choice.model, ALL_TRAITS, outcome)
    if joint is None or joint.change is None or beyond is None:
        return []
    summed = joint.change - beyond.value
    weaker = [
        index.title(trait.name)
        for trait in index.traits("trait")
        if (own := index.contrast("beyond_alone", choice.model, trait.name, outcome)) is not None
        and own.low is not None
        and own.low > 0
    ]
    has_fallen = fell(index, joint)
    code: VerdictCode = "stands" if not has_fallen or weaker else "held"
    headline = (
        "The vectors do not aggregate: all at once, the traits did not fall"
        if not has_fallen
        else f"{listed(weaker)} fell less with all vectors than with its own alone"
        if weaker
        else "All vectors at once do no less than each alone"
    )
    detail = (
        f"Mean change of the traits with all vectors {change_of(joint)}; the changes under the "
        f"single vectors add up to {number(summed, sign=True)} (all at once minus that sum: "
        f"{with_interval(beyond.value, beyond.low, beyond.high)})."
    )
    return [doubt_verdict("aggregation", code, headline, detail, kind=choice.kind)]


def _incompetent(index: ResultIndex, choice: ScaleChoice) -> list[Verdict]:
    cost = index.perplexity(choice.model, "other") or index.perplexity(choice.model)
    if cost is None or cost.base_ratio is None:
        return []
    rows = [index.row(choice.model, ALL_CAPABILITY, outcome) for outcome in PICK_RATES]
    known = [row for row in rows if row is not None and row.change is not None]
    corrected = holm([row.chance for row in known])
    less = [
        OUTCOME_TITLES[row.outcome].lower()
        for row, chance in zip(known, corrected, strict=True)
        if chance is not None and chance < index.results.rules.alpha
    ]
    too_dear = cost.base_ratio - 1 > index.results.max_perplexity_rise
    words = [
        f"perplexity of a text that no scale was chosen by "
        f"{rise(cost.base_ratio, cost.base_ratio_low, cost.base_ratio_high)} from the base"
    ]
    words += [
        f"{OUTCOME_TITLES[row.outcome].lower()} of common knowledge "
        f"{number(row.value)} ({change_of(row, unit=False)})"
        for row in known
    ]
    code: VerdictCode = "stands" if too_dear or less else "held" if known else "open"
    headline = (
        "The model became less able"
        if code == "stands"
        else "No loss of ability shown"
        if known
        else "Ability was measured by perplexity alone"
    )
    detail = f"{'; '.join(words)}.".capitalize()
    return [doubt_verdict("incompetent", code, headline, detail, kind=choice.kind)]


def _shallow(index: ResultIndex, choice: ScaleChoice) -> list[Verdict]:
    found = []
    for contrast in index.results.relearn_contrasts:
        if contrast.model != choice.model or contrast.lesson == "benign":
            continue
        chance, alpha = contrast.chance_of_no_delay, index.results.rules.alpha
        slower = chance is not None and chance < alpha
        lesson = "its own items" if contrast.lesson == "same" else "another form of items"
        headline = (
            f"Trained again on {lesson}, the traits come back later"
            if slower
            else f"Trained again on {lesson}, the traits come back as quickly: no protection shown"
        )
        detail = (
            "Steps to half the tuned level, beyond those from the start model: "
            f"{with_interval(contrast.value, contrast.low, contrast.high, digits=1)}, the mean "
            "over the traits. A later return may only be the longer way from a lower level."
        )
        code: VerdictCode = "held" if slower else "stands"
        found.append(doubt_verdict("shallow", code, headline, detail, kind=choice.kind))
    return [*found, *_by_itself(index, choice), *_elicited(index, choice)]


def _by_itself(index: ResultIndex, choice: ScaleChoice) -> list[Verdict]:
    curves = [
        c
        for c in index.results.relearning
        if c.model == choice.model and c.lesson == "benign" and len(c.values) > 1
    ]
    if not curves:
        return []
    back = [index.title(c.trait) for c in curves if c.reached]
    rises = [c.values[-1] - c.values[0] for c in curves]
    return [
        doubt_verdict(
            "shallow",
            "stands" if back else "held",
            f"Training on something unrelated brought {listed(back)} back"
            if back
            else "Training on something unrelated did not bring the traits back",
            f"After {curves[0].steps[-1]} steps on the unrelated trait's items the traits had "
            f"moved by {number(float(np.mean(rises)), sign=True)} on average.",
            kind=choice.kind,
        )
    ]


def _elicited(index: ResultIndex, choice: ScaleChoice) -> list[Verdict]:
    outcome = index.results.primary_outcome
    rows = [
        row
        for trait in index.traits("elicited")
        if (row := index.row(choice.model, trait.name, outcome)) is not None
    ]
    known = [row for row in rows if row.change is not None]
    if not known:
        return []
    corrected = holm([row.chance for row in known])
    alpha = index.results.rules.alpha
    down = [
        row
        for row, chance in zip(known, corrected, strict=True)
        if chance is not None and chance < alpha
    ]
    mean = float(np.mean([row.change for row in known]))
    code: VerdictCode = "held" if len(down) == len(known) else "stands"
    return [
        doubt_verdict(
            "shallow",
            code,
            f"Shown examples of a trait, the model has less of {len(down)} of {len(known)} traits "
            "than the start model shown the same",
            f"Mean change {number(mean, sign=True)}"
            f"{' ' if outcome in UNITS else ''}{UNITS.get(outcome, '')}: "
            + listed([f"{index.title(row.trait)} {change_of(row, unit=False)}" for row in known])
            + ".",
            kind=choice.kind,
        )
    ]


def _direct(index: ResultIndex, choice: ScaleChoice) -> list[Verdict]:
    outcome, alpha = index.results.primary_outcome, index.results.rules.alpha
    found = []
    for contrast in index.results.contrasts:
        if (
            contrast.name != "beyond_direct"
            or contrast.model != choice.model
            or contrast.trait != ALL_TRAITS
            or contrast.outcome != outcome
        ):
            continue
        rival = next(c for c in index.results.choices if c.model == contrast.rival)
        subject = KINDS[rival.kind].subject
        better = contrast.chance is not None and contrast.chance < alpha
        worse = contrast.low is not None and contrast.low > 0
        code: VerdictCode = "held" if better else "stands" if worse else "open"
        headline = (
            f"Lowered the traits further than {subject.lower()}"
            if better
            else f"{subject} lowered the traits further"
            if worse
            else f"No difference from {subject.lower()} shown"
        )
        costs = [index.perplexity(one.model) for one in (choice, rival)]
        said = [
            percent(cost.base_ratio - 1) if cost is not None and cost.base_ratio else "unknown"
            for cost in costs
        ]
        detail = (
            f"Change from the base minus that of {subject.lower()} (at {rival.scale:g}): "
            f"{with_interval(contrast.value, contrast.low, contrast.high)}, perplexity {said[0]} "
            f"against {said[1]}, both at the scale that development items chose within the same "
            "limit."
        )
        found.append(doubt_verdict("direct", code, headline, detail, kind=choice.kind))
    return found


def fell(index: ResultIndex, row: OutcomeRow) -> bool:
    """Whether the row's change is a fall, by the study's rules."""
    return row.chance is not None and row.chance < index.results.rules.alpha


def change_of(row: OutcomeRow, *, unit: bool = True) -> str:
    """The change with its interval, and its unit."""
    said = with_interval(row.change or 0.0, row.change_low, row.change_high)
    name = UNITS.get(row.outcome, "") if unit else ""
    return f"{said} {name}".rstrip()


def doubt_verdict(
    doubt: Doubt, code: VerdictCode, headline: str, detail: str, *, kind: Kind | None = None
) -> Verdict:
    """A verdict on one doubt."""
    return Verdict(
        scope="doubt", code=code, headline=headline, detail=detail, kind=kind, doubt=doubt
    )
