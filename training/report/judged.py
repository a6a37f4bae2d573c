"""The verdicts with the numbers they go by, side by side."""

from __future__ import annotations

from dataclasses import dataclass

from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import ALL_CONTROLS, ALL_TRAITS, Contrast, OutcomeRow, Verdict
from tvmerge.training.results.wording import DASH, chance, rise, with_interval
from tvmerge.training.settings.kinds import KINDS, Kind


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, its interval, and whether that interval keeps clear of zero."""

    value: str
    interval: str
    clear: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """One kind's verdict on a trait (or on all), and the numbers behind it."""

    kind: Kind
    subject: str
    verdict: Verdict
    chance: str
    change: Figure
    from_base: Figure | None
    beyond_unrelated: Figure
    beyond_controls: Figure
    controls: Figure
    perplexity: str
    base_perplexity: str


def judged_kinds(index: ResultIndex) -> list[Judged]:
    """Every kind's own verdict with the means over the traits."""
    return [
        _judged(index, verdict, ALL_TRAITS)
        for verdict in index.results.verdicts
        if verdict.scope == "kind"
    ]


def judged_traits(index: ResultIndex) -> list[tuple[str, list[Judged]]]:
    """(title, one verdict for each kind) of every trait."""
    return [
        (
            index.title(trait.name),
            [
                _judged(index, verdict, trait.name)
                for verdict in index.results.verdicts
                if verdict.scope == "trait" and verdict.trait == trait.name
            ],
        )
        for trait in index.traits("trait")
    ]


def _judged(index: ResultIndex, verdict: Verdict, trait: str) -> Judged:
    kind = verdict.kind or "plain"
    choice, outcome = index.choice(kind), index.results.primary_outcome
    model = choice.model if choice is not None else ""
    from_base = index.contrast("from_base", model, trait, outcome)
    cost = index.perplexity(model)
    return Judged(
        kind=kind,
        subject=KINDS[kind].subject,
        verdict=verdict,
        chance=chance(verdict.chance),
        change=_change(index.row(model, trait, outcome)),
        from_base=_contrast(from_base) if from_base is not None else None,
        beyond_unrelated=_contrast(index.contrast("beyond_unrelated", model, trait, outcome)),
        beyond_controls=_contrast(index.contrast("specificity", model, trait, outcome)),
        controls=_change(index.row(model, ALL_CONTROLS, outcome)),
        perplexity=DASH if cost is None else _rise(cost.ratio, cost.ratio_low, cost.ratio_high),
        base_perplexity=(
            DASH
            if cost is None
            else _rise(cost.base_ratio, cost.base_ratio_low, cost.base_ratio_high)
        ),
    )


def _change(row: OutcomeRow | None) -> Figure:
    if row is None or row.change is None:
        return Figure(DASH, "not measured", clear=False)
    return _figure(row.change, row.change_low, row.change_high)


def _contrast(contrast: Contrast | None) -> Figure:
    if contrast is None:
        return Figure(DASH, "not measured", clear=False)
    return _figure(contrast.value, contrast.low, contrast.high)


def _figure(value: float, low: float | None, high: float | None) -> Figure:
    said, _, interval = with_interval(value, low, high).partition(" ")
    clear = low is not None and high is not None and (low > 0 or high < 0)
    return Figure(said, interval, clear)


def _rise(ratio: float | None, low: float | None, high: float | None) -> str:
    return DASH if ratio is None else rise(ratio, low, high)
