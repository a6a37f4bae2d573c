"""Intervals and tests over seeds and items: on nothing they find nothing, on something they do."""

from __future__ import annotations

import numpy as np
import pytest

from tvmerge.training.results.statistics import (
    Estimate,
    Resampler,
    holm,
    mean_of,
    of_seeds,
    weighted_mean,
)


def seeded(values: np.ndarray, *, draws: int = 400) -> Estimate:
    """The mean of (seeds, items), resampled."""
    weights = Resampler(draws=draws).weights("k", [0] * values.shape[1])
    return of_seeds([weighted_mean(of_one, weights) for of_one in values])


def drawn(
    rng: np.random.Generator, *, effect: float, seeds: int, items: int, of_seed: float = 0.5
) -> np.ndarray:
    """Changes with a part of each seed, a part of each item, and noise."""
    noise = rng.normal(size=(seeds, items))
    return (
        effect + of_seed * rng.normal(size=(seeds, 1)) + 0.5 * rng.normal(size=(1, items)) + noise
    )


@pytest.mark.parametrize(("seeds", "items"), [(2, 20), (3, 20), (3, 80), (5, 12)])
def test_nothing_is_called_a_fall_no_more_often_than_alpha_says(seeds: int, items: int) -> None:
    """A/A: two runs of the same kind differ only by chance."""
    rng = np.random.default_rng(0)
    runs = 800
    chances = [
        seeded(drawn(rng, effect=0, seeds=seeds, items=items)).chance_of_no_fall()
        for _ in range(runs)
    ]
    shares = np.array([chance is not None and chance < 0.05 for chance in chances])
    # Three standard errors above 5 %; a test that ignored the seeds would reach 20 % and more.
    assert shares.mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def test_a_test_over_items_alone_would_call_too_much_a_fall() -> None:
    rng = np.random.default_rng(1)
    runs = [drawn(rng, effect=0, seeds=3, items=40) for _ in range(300)]
    over_items = [
        Estimate(one.values.mean(keepdims=True), one.draws.mean(axis=0)[None], one.n)
        for one in map(seeded, runs)
    ]
    assert np.mean([(one.chance_of_no_fall() or 0) < 0.05 for one in over_items]) > 0.15


def test_a_fall_is_found() -> None:
    rng = np.random.default_rng(2)
    found = [
        seeded(drawn(rng, effect=-1, seeds=3, items=40, of_seed=0.1)).chance_of_no_fall()
        for _ in range(100)
    ]
    assert np.mean([chance is not None and chance < 0.05 for chance in found]) > 0.9


def test_with_one_seed_it_is_the_t_test_over_items() -> None:
    from scipy.stats import ttest_1samp

    values = drawn(np.random.default_rng(3), effect=-0.2, seeds=1, items=25)
    chance = seeded(values, draws=40_000).chance_of_no_fall()
    assert chance == pytest.approx(ttest_1samp(values[0], 0, alternative="less").pvalue, rel=0.05)


def test_the_interval_of_several_seeds_holds_their_spread() -> None:
    rng = np.random.default_rng(4)
    values = drawn(rng, effect=0, seeds=4, items=30, of_seed=2.0)
    low, high = seeded(values).interval()
    alone = [seeded(values[n : n + 1]).interval() for n in range(4)]
    assert low is not None and high is not None
    widest = max((b or 0) - (a or 0) for a, b in alone)
    assert high - low > widest
    assert low < values.mean() < high


def test_what_has_one_seed_goes_with_all_seeds_of_another() -> None:
    values = drawn(np.random.default_rng(5), effect=0, seeds=3, items=10)
    base = seeded(values[:1])
    difference = seeded(values) - base
    assert difference.values == pytest.approx(values.mean(axis=1) - values[0].mean())
    # Paired by items: the first seed against itself leaves nothing to resample.
    assert np.abs(difference.draws[0]).max() == 0
    mean = mean_of([seeded(values), base])
    assert mean.value == pytest.approx((values.mean() + values[0].mean()) / 2)
    assert mean.n == 20


def test_what_has_an_end_is_judged_by_its_draws() -> None:
    """Steps to a level: a tenth of the draws are at the first step, the others near the last."""
    at_end = np.random.default_rng(6).random((1, 2000)) < 0.1
    steps = Estimate(np.array([5.7]), np.where(at_end, 0.0, 6.0), 20)
    assert steps.chance_by_draws() == (np.count_nonzero(at_end) + 1) / 2001 > 0.08
    assert ((steps * -1).chance_of_no_fall() or 0) < 0.01  # which is why t is not asked
    assert (steps * -1).chance_by_draws() == 1
    assert Estimate(np.ones(1), np.full((1, 9), np.nan), 20).chance_by_draws() is None


def test_too_few_items_have_no_chance() -> None:
    assert seeded(np.ones((2, 1))).chance_of_no_fall() is None
    assert seeded(-np.ones((1, 4))).chance_of_no_fall() == 0.0


def test_holm_leaves_unknowns_alone() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([None]) == [None]
    assert holm([]) == []


def test_holm_is_that_of_statsmodels() -> None:
    """Its 0.15's multipletests: equal ones, ones above 1, and an order that is not theirs."""
    given = [0.2, 0.0005, 0.04, 0.011, 0.04, 0.6, 0.9]
    wanted = [0.6, 0.0035, 0.2, 0.066, 0.2, 1, 1]
    assert holm(given) == pytest.approx(wanted)
