"""What lowered scales hold: numbers and verdicts from made-up scores whose truth is known."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from study.synthetic_study import CONTROLS, TRAITS, Effects, item_scores, synthetic_results
from study.synthetic_study import model_scores as whole_model

from tvmerge.training.measuring.relax import RelaxScores
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.measured_model import MeasuredModel
from tvmerge.training.results.results import RelaxPoint, Results, Verdict
from tvmerge.training.results.scores import ModelScores
from tvmerge.training.results.statistics import Resampler
from tvmerge.training.study.relaxing import relax_points
from tvmerge.training.verdicts.brinkmanship import brinkmanship

SHARES = (0.5, 0.25)
START = "start.contrastive"


@pytest.fixture(scope="module")
def results() -> Results:
    return synthetic_results(draws=200)


def chosen(results: Results, kind: str) -> tuple[str, float]:
    choice = next(choice for choice in results.choices if choice.kind == kind)
    return choice.model, choice.scale


def scores(model: str, seed: int, back: float, noise: float) -> ModelScores:
    """The model with `back` nats more on every trait's margin."""

    class Moved(Effects):
        def margin(self, trait: str) -> float:
            drawn = np.random.default_rng(zlib.crc32(f"{model}{seed}{trait}".encode()))
            return super().margin(trait) + (back if trait in TRAITS else 0) + noise * drawn.normal()

    did = Moved(MeasuredModel.from_id(model).model_copy(update={"id": f"{model}@{seed}"}))
    return whole_model(model).model_copy(
        update={
            "traits": {
                trait: {"test": item_scores(trait, "test", did, statements=24, questions=0)}
                for trait in (*TRAITS, *CONTROLS)
            }
        }
    )


def relaxed(
    results: Results, kind: str, *, at_chosen: float, lowered: float, noise: float = 0.0
) -> Iterator[RelaxScores]:
    model, scale = chosen(results, kind)
    start = START if kind == "contrastive" else "base"
    ids = {start: 0.05, model: at_chosen}
    ids |= {f"{kind}.{share * scale:g}": lowered for share in SHARES}
    for seed in (0, 1):
        for model, back in ids.items():
            yield RelaxScores(
                model=model,
                seed=seed,
                batch_size=8,
                losses=(2.0, 1.9),
                before=scores(model, seed, 0.0, 0.0),
                after=scores(model, seed, back, noise),
            )


def points(results: Results, found: Iterator[RelaxScores], kind: str) -> list[RelaxPoint]:
    choices = [choice for choice in results.choices if choice.kind == kind]
    resampler = Resampler(draws=200)
    return [*relax_points([*found], resampler, results.primary_outcome, choices, results.traits)]


def said(results: Results, kind: str, **moves: float) -> Verdict:
    found = points(results, relaxed(results, kind, **moves), kind)
    index = ResultIndex(results.model_copy(update={"relaxed": tuple(found)}))
    choice = next(choice for choice in results.choices if choice.kind == kind)
    return brinkmanship(index, choice)[-1]


def test_each_scale_moves_by_what_training_gave_it(results: Results) -> None:
    found = points(
        results, relaxed(results, "contrastive", at_chosen=0.1, lowered=0.3), "contrastive"
    )
    assert [point.share for point in found] == [1.0, *SHARES, 0.0]
    for point, back in zip(found, (0.1, 0.3, 0.3, 0.05), strict=True):
        (pooled,) = (move for move in point.moves if move.what == "all traits")
        assert pooled.moved.value == pytest.approx(back)
        assert pooled.beyond_start.value == pytest.approx(back - 0.05)
        assert pooled.after.value == pytest.approx(pooled.before.value + back)
        if point.share == 1:
            assert pooled.beyond_chosen is None and pooled.chance is None
        else:
            assert pooled.beyond_chosen is not None
            assert pooled.beyond_chosen.value == pytest.approx(back - 0.1)
        (controls,) = (move for move in point.moves if move.what == "all controls")
        assert controls.moved.value == pytest.approx(0)
    start = next(move for move in found[-1].moves if move.what == "all traits")
    assert (start.before.value, start.before.low, start.before.high) == (0, 0, 0)


def test_a_trait_that_comes_back_further_at_lowered_scales_is_a_failure(results: Results) -> None:
    verdict = said(results, "contrastive", at_chosen=0.0, lowered=0.4, noise=0.02)
    assert verdict.code == "stands"
    assert verdict.headline.startswith("Lowering the scale failed to hold")


def test_less_return_at_lowered_scales_speaks_against_the_doubt(results: Results) -> None:
    assert said(results, "contrastive", at_chosen=0.4, lowered=0.0, noise=0.02).code == "held"


def test_what_differs_by_noise_alone_decides_nothing(results: Results) -> None:
    verdict = said(results, "contrastive", at_chosen=0.1, lowered=0.1, noise=0.3)
    assert verdict.code == "open" and "nor that it does not" in verdict.headline


def test_traits_that_never_fell_leave_nothing_to_hold(results: Results) -> None:
    flat = results.model_copy(
        update={
            "rows": tuple(
                row.model_copy(update={"chance": 0.9}) if row.trait == "all traits" else row
                for row in results.rows
            )
        }
    )
    verdict = said(flat, "plain", at_chosen=0.0, lowered=0.4)
    assert verdict.code == "open" and "had not fallen" in verdict.headline
