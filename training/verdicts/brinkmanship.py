"""What is left of an edit when its scale is lowered, and what benign training then brings back."""

from __future__ import annotations

import numpy as np

from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import (
    ALL_TRAITS,
    RelaxMove,
    RelaxPoint,
    ScaleChoice,
    Verdict,
    VerdictCode,
)
from tvmerge.training.results.statistics import holm
from tvmerge.training.results.wording import listed, number, percent, with_interval
from tvmerge.training.verdicts.kind_doubts import doubt_verdict, fell


def brinkmanship(index: ResultIndex, choice: ScaleChoice) -> list[Verdict]:
    """What the kind's lowered scales do, at once and after further training."""
    return [*_halved(index, choice), *_trained_further(index, choice)]


def _halved(index: ResultIndex, choice: ScaleChoice) -> list[Verdict]:
    outcome = index.results.primary_outcome
    models = [m for m in index.negated(choice.kind) if (m.scale or 0.0) <= choice.scale]
    rows = [(m.scale or 0.0, index.row(m.id, ALL_TRAITS, outcome)) for m in models]
    points = [(scale, row.change) for scale, row in rows if row and row.change is not None]
    if not points or not points[-1][1]:
        return []
    scales, changes = zip((0.0, 0.0), *points, strict=True)
    half = float(np.interp(choice.scale / 2, scales, changes))
    share = half / points[-1][1]
    return [
        doubt_verdict(
            "brinkmanship",
            "note",
            f"With the scale halved, {percent(share, sign=False)} of the change is left",
            f"From {choice.scale:g} down to 0 the mean change of the traits goes "
            + ", ".join(
                f"{number(change, sign=True)} at {scale:g}"
                for scale, change in reversed([*zip(scales, changes, strict=True)])
            )
            + ": what is subtracted can be given back by degrees, and at 0 all of it is back.",
            kind=choice.kind,
        )
    ]


def _trained_further(index: ResultIndex, choice: ScaleChoice) -> list[Verdict]:
    found = [
        (point, move)
        for point in index.results.relaxed
        if point.kind == choice.kind
        for move in point.moves
        if move.what == ALL_TRAITS
    ]
    lowered = [(point, move) for point, move in found if 0 < point.share < 1]
    if not lowered:
        return []
    code, headline = _further_said(index, choice, lowered)
    (_, chosen), (_, start) = found[0], found[-1]
    detail = (
        f"{lowered[0][0].steps} steps on the unrelated trait's items moved the mean of the traits "
        f"by {_moved(chosen)} at the chosen scale {choice.scale:g}, by "
        + listed([f"{_moved(move)} at {point.scale:g}" for point, move in lowered])
        + f", and the start model's by {_moved(start)}."
    )
    return [doubt_verdict("brinkmanship", code, headline, detail, kind=choice.kind)]


def _further_said(
    index: ResultIndex, choice: ScaleChoice, lowered: list[tuple[RelaxPoint, RelaxMove]]
) -> tuple[VerdictCode, str]:
    joint = index.row(choice.model, ALL_TRAITS, index.results.primary_outcome)
    if joint is None or not fell(index, joint):
        return "open", (
            "Whether lowered scales hold was not to be seen: the traits had not fallen at the "
            "chosen one"
        )
    corrected = holm([move.chance for _, move in lowered])
    alpha = index.results.rules.alpha
    back = [
        f"{point.scale:g}"
        for (point, _), chance in zip(lowered, corrected, strict=True)
        if chance is not None and chance < alpha
    ]
    if back:
        return "stands", (
            f"Lowering the scale failed to hold: benign training brings the traits back further "
            f"at {listed(back)} than at {choice.scale:g}"
        )
    highs = [move.beyond_chosen.high for _, move in lowered if move.beyond_chosen]
    if all(high is not None and high <= 0 for high in highs):
        return "held", (
            "At lowered scales benign training brings the traits back no further than at "
            f"{choice.scale:g}"
        )
    return "open", (
        "It was not shown that benign training brings the traits back further at lowered scales, "
        "nor that it does not"
    )


def _moved(move: RelaxMove) -> str:
    return with_interval(move.moved.value, move.moved.low, move.moved.high)
