"""Intervals and tests over seeds and items; everything estimated carries its bootstrap draws.

A hierarchical bootstrap: seeds are resampled, and within each of them items. All seeds of a model,
and all models, share the resampled items of a trait, and all models share the resampled seeds: a
difference of two estimates is a paired difference, and its interval follows from subtracting draws;
a mean over traits is a mean of draws. numpy, and scipy for the distributions.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

DRAWS = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number as each seed found it, (seeds,), and its draws over items, (seeds, draws).

    Where items cannot be resampled no draw is finite. What does not depend on a seed, as of the
    base, has one row, which goes with all the seeds of another estimate. `n` counts items.
    """

    values: Array
    draws: Array
    n: int

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return float(self.values.mean())

    @property
    def seeds(self) -> int:
        """How many seeds it was found with."""
        return len(self.values)

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference, paired by seed and by item."""
        return Estimate(self.values - other.values, self.draws - other.draws, min(self.n, other.n))

    def __mul__(self, factor: float) -> Estimate:
        """A multiple."""
        return Estimate(factor * self.values, factor * self.draws, self.n)

    def interval(self) -> tuple[float | None, float | None]:
        """The 95 % percentile interval, or (None, None) where it cannot be resampled."""
        if not np.isfinite(self.draws).all():
            return None, None
        tail = (1 - CONFIDENCE) / 2
        # np.quantile, ten times faster: a study has thousands of intervals.
        ordered = np.sort(self.resampled())
        places = np.array([tail, 1 - tail]) * (len(ordered) - 1)
        low, high = np.interp(places, np.arange(len(ordered)), ordered)
        return float(low), float(high)

    def resampled(self) -> Array:
        """(draws,): the mean over resampled seeds of their draws over items."""
        if self.seeds == 1:
            alone: Array = self.draws[0]
            return alone
        weights = _seed_weights(self.seeds, self.draws.shape[1])
        drawn: Array = np.einsum("ds,sd->d", weights, self.draws) / (self.seeds - 1)
        return drawn

    def exp(self) -> Estimate:
        """exp of every value and of every draw."""
        return Estimate(np.exp(self.values), np.exp(self.draws), self.n)

    def chance_of_no_fall(self) -> float | None:
        """One-sided p-value of "it is not below zero"; None where items cannot be resampled.

        Seeds and items are crossed random effects (Clark, The language-as-fixed-effect fallacy,
        1973): the squared error is the variance over seeds of what each found plus the variance
        over resampled items of their mean, with Satterthwaite's degrees of freedom. One seed
        leaves the items' variance alone: such a p-value says nothing of other seeds.
        """
        if not np.isfinite(self.draws).all() or self.n < 2:
            return None
        from scipy.special import stdtr  # scipy.stats.t.cdf, without its checks

        parts = [(float(self.draws.mean(axis=0).var()), self.n - 1)]
        if self.seeds > 1:
            parts.append((float(self.values.var(ddof=1)) / self.seeds, self.seeds - 1))
        variance = sum(part for part, _ in parts)
        if variance == 0:
            return 0.0 if self.value < 0 else 1.0
        freedom = variance**2 / sum(part**2 / count for part, count in parts)
        return float(stdtr(freedom, self.value / math.sqrt(variance)))

    def chance_by_draws(self) -> float | None:
        """One-sided p-value of "it is not above zero" from the draws alone (Davison and Hinkley,
        Bootstrap Methods and their Application, 1997, 4.2.3); None where there are none.

        For what has an end that many draws lie on, such as steps that were counted to the last one
        measured: t tells nothing of those.
        """
        if not np.isfinite(self.draws).all() or self.n < 2:
            return None
        drawn = self.resampled()
        return float((np.count_nonzero(drawn <= 0) + 1) / (drawn.size + 1))


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean, as of traits that count alike whatever their number of items."""
    mean = total_of(estimates) * (1 / len(estimates))
    return replace(mean, n=sum(estimate.n for estimate in estimates))


def total_of(estimates: Sequence[Estimate]) -> Estimate:
    """The sum, as of several models' changes over the same items."""
    values, draws = (
        functools.reduce(np.add, [getattr(estimate, part) for estimate in estimates])
        for part in ("values", "draws")
    )
    return Estimate(values, draws, min(estimate.n for estimate in estimates))


def of_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """One estimate of what single seeds found, in their order."""
    values, draws = (
        np.concatenate([getattr(estimate, part) for estimate in estimates])
        for part in ("values", "draws")
    )
    return Estimate(values, draws, min(estimate.n for estimate in estimates))


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number (Holm 1979); None stays None and does not count.

    The k-th smallest of m times (m + 1 - k), but no less than what came before it, and at most 1.
    """
    known = {place: chance for place, chance in enumerate(chances) if chance is not None}
    corrected: list[float | None] = [None] * len(chances)
    largest = 0.0
    for before, place in enumerate(sorted(known, key=known.__getitem__)):
        largest = max(largest, min(1.0, (len(known) - before) * known[place]))
        corrected[place] = largest
    return corrected


@dataclass(frozen=True, slots=True)
class Resampler:
    """Draws item weights; the same key and strata always get the same weights."""

    seed: int = 0
    draws: int = DRAWS
    _known: dict[tuple[str, tuple[int, ...]], Array] = field(default_factory=dict)

    def weights(self, key: str, strata: Sequence[int]) -> Array:
        """(draws, items): how often each item is drawn, each stratum for itself.

        `key` names the sample (a trait and part). A stratum of n items draws n - 1: drawing n
        makes the spread of a mean too small by sqrt((n - 1) / n) (the narrowness bias: Hesterberg,
        What Teachers Should Know about the Bootstrap, 2015). A stratum of one item has no spread
        to resample; its weights are NaN, so that no interval comes of it.
        """
        cached = (key, tuple(strata))
        if cached not in self._known:
            self._known[cached] = self._draw(key, np.asarray(strata, dtype=np.int64))
        return self._known[cached]

    def _draw(self, key: str, strata: npt.NDArray[np.int64]) -> Array:
        weights = np.full((self.draws, len(strata)), np.nan)
        for stratum in np.unique(strata):
            places = np.flatnonzero(strata == stratum)
            if len(places) < 2:
                continue
            rng = np.random.default_rng([self.seed, zlib.crc32(key.encode()), int(stratum)])
            share = np.full(len(places), 1 / len(places))
            weights[:, places] = rng.multinomial(len(places) - 1, share, size=self.draws)
        return weights


@functools.cache
def _seed_weights(seeds: int, draws: int) -> Array:
    """(draws, seeds): how often each seed is drawn, one fewer than there are, as with items."""
    weights: Array = (
        np.random.default_rng(seeds)
        .multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=draws)
        .astype(float)
    )
    return weights


def weighted_mean(values: Array, weights: Array) -> Estimate:
    """The mean of `values`, resampled with `weights` (draws, items)."""
    draws = weights @ values / weights.sum(axis=1)
    return Estimate(values.mean(keepdims=True), draws[None], len(values))


def auc(
    above: Array, below: Array, above_weights: Array, below_weights: Array, *, n: int
) -> Estimate:
    """P(a random `above` exceeds a random `below`), ties counting half; O(draws * items)."""
    order = np.argsort(below)
    left = np.searchsorted(below[order], above, side="left")
    right = np.searchsorted(below[order], above, side="right")
    # (draws, below + 1): the drawn weight of the lowest 0, 1, 2, ... of `below`
    beaten = np.zeros((len(below_weights), len(below) + 1))
    np.cumsum(below_weights[:, order], axis=1, out=beaten[:, 1:])
    drawn = (above_weights * (beaten[:, left] + beaten[:, right]) / 2).sum(axis=1)
    pairs = above_weights.sum(axis=1) * below_weights.sum(axis=1)
    value = float((left + right).mean() / 2 / len(below))
    draws = drawn / pairs
    # The two answers of one item are drawn together, so that comparisons within an item are drawn
    # too often; with few items that moves the draws off the value that they are the spread of.
    return Estimate(np.array([value]), (draws + (value - draws.mean()))[None], n)
