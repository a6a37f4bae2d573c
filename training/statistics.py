"""Percentile bootstrap over items, paired by construction: numpy only.

Everything estimated carries its bootstrap draws. Two estimates over the same items share the
resampled item weights, so a difference of estimates is a paired difference, and its interval
follows from subtracting draws; a mean over traits is a mean of draws.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

DRAWS = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its bootstrap draws (none of them finite where it cannot be resampled), its n."""

    value: float
    draws: Array
    n: int

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference; paired where both were drawn with the same weights."""
        return Estimate(self.value - other.value, self.draws - other.draws, min(self.n, other.n))

    def interval(self) -> tuple[float | None, float | None]:
        """The 95 % percentile interval, or (None, None) where it cannot be resampled."""
        if not np.isfinite(self.draws).all():
            return None, None
        tail = (1 - CONFIDENCE) / 2
        # np.quantile, ten times faster: a study has thousands of intervals.
        ordered = np.sort(self.draws)
        places = np.array([tail, 1 - tail]) * (len(ordered) - 1)
        low, high = np.interp(places, np.arange(len(ordered)), ordered)
        return float(low), float(high)

    def exp(self) -> Estimate:
        """exp of the value and of every draw."""
        return Estimate(float(np.exp(self.value)), np.exp(self.draws), self.n)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The unweighted mean, as of traits that count alike whatever their number of items."""
    return Estimate(
        float(np.mean([estimate.value for estimate in estimates])),
        np.mean([estimate.draws for estimate in estimates], axis=0),
        sum(estimate.n for estimate in estimates),
    )


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


def weighted_mean(values: Array, weights: Array) -> Estimate:
    """The mean of `values`, resampled with `weights` (draws, items)."""
    draws = weights @ values / weights.sum(axis=1)
    return Estimate(float(values.mean()), draws, len(values))


def auc(
    above: Array, below: Array, above_weights: Array, below_weights: Array, *, n: int
) -> Estimate:
    """P(a random `above` exceeds a random `below`), ties counting half; O(draws * items)."""
    order = np.argsort(below)
    left = np.searchsorted(below[order], above, side="left")
    right = np.searchsorted(below[order], above, side="right")
    # (draws, below + 1): the drawn weight of the lowest 0, 1, 2, ... of `below`
    beaten = np.pad(np.cumsum(below_weights[:, order], axis=1), ((0, 0), (1, 0)))
    drawn = (above_weights * (beaten[:, left] + beaten[:, right]) / 2).sum(axis=1)
    pairs = above_weights.sum(axis=1) * below_weights.sum(axis=1)
    value = float((left + right).mean() / 2 / len(below))
    draws = drawn / pairs
    # The two answers of one item are drawn together, so that comparisons within an item are drawn
    # too often; with few items that moves the draws off the value that they are the spread of.
    return Estimate(value, draws + (value - draws.mean()), n)
