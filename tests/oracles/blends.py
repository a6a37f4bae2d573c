"""The oracle for blends: float64, on whole vectors, as their papers have them; no Gram matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

Vectors = Sequence[np.ndarray]


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """Between two vectors that are not 0."""
    cosine = (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.arccos(np.clip(cosine, -1, 1)))


def by_line(
    blend: Callable[..., np.ndarray], arrays: Vectors, *, across: bool = False
) -> np.ndarray:
    """Each vector along the last dimension, or `across` along the first one, by itself."""
    shape = arrays[0].shape
    if across:
        first = shape[0] if shape else 1
        turned = [array.reshape(first, -1).T for array in arrays]
        return by_line(blend, turned).T.reshape(shape)
    rows = [array.reshape(-1, shape[-1] if shape else 1) for array in arrays]
    return np.stack([blend(*row) for row in zip(*rows, strict=True)]).reshape(shape)


def slerp(a: np.ndarray, b: np.ndarray, t: float, parallel: float = 0.9995) -> np.ndarray:
    """Shoemake, 1985; a straight line where |cos| is above `parallel`."""
    between = angle(a, b)
    if abs(np.cos(between)) > parallel:
        return np.asarray((1 - t) * a + t * b)
    whole = np.sin(between)
    return np.asarray(np.sin((1 - t) * between) / whole * a + np.sin(t * between) / whole * b)


def logarithm(start: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """The tangent at `start` that leads to `unit`."""
    across = unit - (start @ unit) * start
    length = np.linalg.norm(across)
    return np.asarray(across * (angle(start, unit) / length) if length > 0 else 0 * across)


def exponential(start: np.ndarray, tangent: np.ndarray) -> np.ndarray:
    """Where `tangent` leads."""
    length = np.linalg.norm(tangent)
    if length == 0:
        return start
    return np.asarray(np.cos(length) * start + np.sin(length) * tangent / length)


def multislerp(vectors: Vectors, weights: Sequence[float]) -> np.ndarray:
    """As mergekit has it, the step along the projections on the tangent included; mean norm."""
    units = [v / np.linalg.norm(v) for v in vectors]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    step = sum(w * (u - (u @ mean) * mean) for w, u in zip(weights, units, strict=True))
    size = sum(w * np.linalg.norm(v) for w, v in zip(weights, vectors, strict=True))
    return np.asarray(size * exponential(mean, np.asarray(step)))


def karcher(vectors: Vectors) -> np.ndarray:
    """The point where the tangents to all directions cancel out, with the mean norm."""
    units = [v / np.linalg.norm(v) for v in vectors]
    mean = np.mean(units, axis=0)
    mean = mean / np.linalg.norm(mean)
    for _ in range(200):
        mean = exponential(mean, np.mean([logarithm(mean, u) for u in units], axis=0))
        mean = mean / np.linalg.norm(mean)
    return np.asarray(mean * np.mean([np.linalg.norm(v) for v in vectors]))


def model_stock(base: np.ndarray, vectors: Vectors) -> np.ndarray:
    """Jang et al., arXiv 2403.19522, equation 2."""
    deltas = [v - base for v in vectors]
    cosine = np.mean([np.cos(angle(a, b)) for a, b in combinations(deltas, 2)])
    count = len(vectors)
    t = count * cosine / (1 + (count - 1) * cosine)
    return np.asarray(t * np.mean(vectors, axis=0) + (1 - t) * base)


def lines(
    base: np.ndarray, vectors: Vectors, weights: Sequence[float], *, scale: float
) -> np.ndarray:
    """Wang et al., arXiv 2410.17146: the sum of a layer's task vectors at the layer's scale."""
    wide = base.astype(np.float64)
    deltas = [w * (v.astype(np.float64) - wide) for w, v in zip(weights, vectors, strict=True)]
    return np.asarray(wide + scale * np.sum(deltas, axis=0))
