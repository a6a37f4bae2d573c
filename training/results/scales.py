"""Chooses a kind's scale on development items: the largest fall that capability allows."""

from __future__ import annotations

from collections.abc import Sequence

from tvmerge.errors import ConfigError
from tvmerge.training.results.measured_model import MeasuredModel
from tvmerge.training.results.outcomes import Scores, ScoreTable, primary_outcome
from tvmerge.training.results.results import ScaleCandidate, ScaleChoice
from tvmerge.training.results.wording import number, percent
from tvmerge.training.settings.kinds import Kind, start_of


def choose_scale(
    scores: Scores,
    *,
    kind: Kind,
    traits: Sequence[str],
    max_perplexity_rise: float,
) -> ScaleChoice:
    """The scale whose mean change over `traits` falls lowest within the perplexity limit.

    `scores` holds the kind's start model and its negated models, by id. Where no scale keeps
    within the limit, the one that costs least is taken and `within_share` is False.
    """
    start = start_of(kind)
    models = [MeasuredModel.from_id(model) for model in scores]
    negated = [model for model in models if model.kind == kind and model.role == "negated"]
    if not negated or start not in scores:
        raise ConfigError(
            f"choice of the {kind} scale: expected scores of {start!r} and of at least one "
            f"'{kind}.<scale>', found {', '.join(scores) or 'none'}. Measure them first."
        )
    table = ScoreTable(scores)
    outcome = primary_outcome(scores, traits)
    candidates = []
    for model in sorted(negated, key=lambda model: model.scale or 0.0):
        change = table.pooled_changes(model.id, start, traits, "dev")[outcome]
        low, high = change.interval()
        candidates.append(
            ScaleCandidate(
                model=model.id,
                scale=model.scale or 0.0,
                change=change.value,
                low=low,
                high=high,
                perplexity_rise=table.perplexity_ratio(model.id, start).value - 1,
            )
        )
    return _choice(kind, candidates, max_perplexity_rise)


def _choice(kind: Kind, candidates: Sequence[ScaleCandidate], limit: float) -> ScaleChoice:
    within = [one for one in candidates if one.perplexity_rise <= limit]
    if within:
        best = min(within, key=lambda one: one.change)
        fall = number(best.change, digits=3, sign=True)
        reason = (
            f"lowest mean change of the traits on development items ({fall}) among {len(within)} "
            f"of {len(candidates)} scales with perplexity up by {percent(limit, sign=False)} or "
            "less"
        )
    else:
        best = min(candidates, key=lambda one: one.perplexity_rise)
        reason = (
            f"no scale kept perplexity within {percent(limit, sign=False)}; this one costs least "
            f"({percent(best.perplexity_rise)})"
        )
    return ScaleChoice(
        kind=kind,
        model=best.model,
        scale=best.scale,
        within_share=bool(within),
        reason=reason,
        candidates=tuple(candidates),
    )
