"""Many models, one aspect each: what an ensemble of the tuned ones would say.

One of the models is drawn for every answer, so that an answer's probability is the mean of theirs.
Needs no measurement: it is computed from the tuned models' scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvmerge.training.results.measured_model import ENSEMBLE
from tvmerge.training.results.outcomes import Scores
from tvmerge.training.results.scores import ItemScore, ModelScores, PerplexityScores


def ensemble(scores: Scores) -> list[ModelScores]:
    """The ensemble of all tuned models, for each seed; none where fewer than two were measured."""
    tuned = [each for model, each in scores.items() if model.startswith("tuned.")]
    return [_mixture(models) for models in zip(*tuned, strict=True)] if len(tuned) > 1 else []


def _mixture(models: Sequence[ModelScores]) -> ModelScores:
    first = models[0]
    return ModelScores(
        model=ENSEMBLE,
        seed=first.seed,
        traits={
            trait: {
                part: tuple(
                    _mixed_item(same)
                    for same in zip(*(m.traits[trait][part] for m in models), strict=True)
                )
                for part in parts
            }
            for trait, parts in first.traits.items()
        },
        perplexity=_mixed_text([model.perplexity for model in models]),
    )


def _mixed_item(same: Sequence[ItemScore]) -> ItemScore:
    masses = [one.valid_mass for one in same if one.valid_mass is not None]
    return same[0].model_copy(
        update={
            "shows_logp": _log_mean([one.shows_logp for one in same]),
            "lacks_logp": _log_mean([one.lacks_logp for one in same]),
            "valid_mass": float(np.mean(masses)) if masses else None,
        }
    )


def _mixed_text(same: Sequence[PerplexityScores]) -> PerplexityScores:
    tokens = same[0].window_tokens
    nll = [
        -_log_mean([-one.window_nll[place] * count for one in same]) / count
        for place, count in enumerate(tokens)
    ]
    return PerplexityScores(window_nll=tuple(nll), window_tokens=tokens)


def _log_mean(logs: Sequence[float]) -> float:
    return float(np.logaddexp.reduce(logs) - np.log(len(logs)))
