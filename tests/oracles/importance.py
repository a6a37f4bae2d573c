"""The oracle for arcee_fusion: how far rows went, and what of them is important, in float64."""

from __future__ import annotations

import numpy as np
from oracles.arithmetic import decode

MARGIN = 1e-8


def divergences(base: np.ndarray, tuned: np.ndarray, row: int) -> np.ndarray:
    """The Kullback-Leibler divergence of each row's softmax from the base's."""
    p, q = (_softmax(decode(x).reshape(-1, row)) + MARGIN for x in (tuned, base))
    return np.asarray((p * np.log(p / q)).sum(axis=1))


def scores(base: np.ndarray, tuned: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """|delta| times its row's factor, rounded as the engine does."""
    delta = np.abs(decode(tuned) - decode(base)).astype(np.float32)
    row = delta.size // factors.size
    return np.asarray(delta.reshape(-1) * np.repeat(factors.astype(np.float32), row))


def important(score: np.ndarray) -> np.ndarray:
    """A mask of what is at least median + 1.5 * (third quartile - first)."""
    ranked = np.sort(score).astype(np.float64)
    first, median, third = (ranked[int(q * (score.size - 1))] for q in (0.25, 0.5, 0.75))
    return np.asarray(score >= np.float32(median + 1.5 * (third - first)))


def _softmax(rows: np.ndarray) -> np.ndarray:
    raised = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
