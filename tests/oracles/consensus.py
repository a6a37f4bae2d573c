"""The oracle for sums of deltas of which only some elements take part, in float64 and slowly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from oracles.arithmetic import decode


@dataclass(frozen=True, slots=True)
class Part:
    """One tuned model's array, its weight and gain, and a mask of its elements that take part."""

    tuned: np.ndarray
    weight: float
    kept: np.ndarray
    gain: float = 1.0
    alone: float = 1.0  # multiplies the sum where it is the only part that counts
    threshold: float = 0.0  # it counts from so many times the magnitude of the others' sum on
    votes: int = 1  # as how many it counts


def values(base: np.ndarray, part: Part, *, weighted: bool = True) -> np.ndarray:
    """gain * weight * (tuned - base) where it is kept, 0 elsewhere."""
    with np.errstate(all="ignore"):
        delta = decode(part.tuned) - decode(base)
        weight = part.weight if weighted else 1.0
        return np.where(part.kept, part.gain * weight * delta, 0.0)


def consensus(
    base: np.ndarray,
    parts: Sequence[Part],
    scale: float,
    *,
    elect: bool,
    normalize: bool,
    elect_first: bool = False,
    least: int = 0,
    largest: bool = False,
) -> np.ndarray:
    """base + scale * (the sum of the values that take part) / (their weights, if `normalize`).

    `least`: the sum is 0 where fewer parts take part and reach their thresholds. `largest`: of the
    values that take part the one of the largest magnitude is what the sum else is.
    """
    held = np.stack([values(base, part) for part in parts])
    voting = np.stack([values(base, part, weighted=not elect_first) for part in parts])
    weights = np.abs([part.weight for part in parts])[:, None]
    with np.errstate(all="ignore"):
        total = voting.sum(axis=0)
        agrees = ~(np.where(total < 0, -voting, voting) <= 0) if elect else held != 0
        threshold = np.array([part.threshold for part in parts])[:, None]
        counts = agrees & (np.abs(voting) >= threshold * np.abs(total - voting))
        votes = counts * np.array([part.votes for part in parts])[:, None]
        number = votes.sum(axis=0)
        alone = (votes * np.array([part.alone for part in parts])[:, None]).sum(axis=0)
        taking = np.where(agrees, held, 0)
        first = np.abs(taking).argmax(axis=0)  # of NaN, where there is one
        found = taking[first, np.arange(len(base))] if largest else taking.sum(axis=0)
        total = found * np.where(number == 1, alone, 1)
        total = np.where(number >= least, total, 0)
        shared = (weights * agrees).sum(axis=0)
        if normalize:
            total = total / np.where(shared == 0, 1, shared)
        return np.asarray(decode(base) + scale * total)


def largest(magnitudes: np.ndarray, rank: int) -> np.ndarray:
    """A mask of the `rank` largest, equal ones in the order of their place (a stable sort)."""
    chosen = np.zeros(magnitudes.size, bool)
    chosen[np.argsort(-magnitudes.astype(np.int64), kind="stable")[:rank]] = True
    return chosen


def limits_of_rows(magnitudes: np.ndarray, row: int, lowest: int, span: int) -> np.ndarray:
    """DELLA's probabilities times 2^32: from `lowest` by rank within each row up by `span`."""
    keys = magnitudes.astype(np.int64).reshape(-1, row)
    order = np.argsort(-keys, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(row)[::-1][None, :], axis=1)
    share = ranks * (span / (row - 1)) if row > 1 else np.full_like(ranks, span / 2, dtype=float)
    return (lowest + np.floor(share).astype(np.int64)).reshape(-1)


def philox(key: int, count: int) -> np.ndarray:
    """The numbers of `count` elements: Philox4x32-7 (Salmon et al., 2011), tile by tile.

    Element i of a tile of 1024 takes number i // 256 of the tile's counter i % 256.
    """
    tiles = -(-count // 1024)
    low = np.uint64(0xFFFF_FFFF)
    counters = np.arange(tiles * 256, dtype=np.uint64)
    zero = np.zeros_like(counters)
    c = [counters & low, counters >> np.uint64(32), zero, zero]
    k = [key & 0xFFFF_FFFF, key >> 32]
    for _ in range(7):
        one, two = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [
            two >> np.uint64(32) ^ c[1] ^ np.uint64(k[0]), two & low,
            one >> np.uint64(32) ^ c[3] ^ np.uint64(k[1]), one & low,
        ]  # fmt: skip
        k = [(k[0] + 0x9E3779B9) & 0xFFFF_FFFF, (k[1] + 0xBB67AE85) & 0xFFFF_FFFF]
    words = np.stack(c).reshape(4, tiles, 256).swapaxes(0, 1)
    return words.reshape(-1)[:count].astype(np.uint32)
