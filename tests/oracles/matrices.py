"""The oracles of the methods that merge whole matrices: the papers' formulas by numpy, in float64.

As the papers' authors compute them: factors of all models side by side, places that stay free 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Deltas = Sequence[np.ndarray]


def thin(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def procrustes(matrix: np.ndarray) -> np.ndarray:
    left, _, right = thin(matrix)
    return np.asarray(left @ right)


def tsv(deltas: Deltas) -> np.ndarray:
    """arXiv 2412.00081, algorithm 1: r / T directions of each, made orthogonal, summed."""
    size = min(deltas[0].shape)
    each = size // len(deltas)
    left, right = np.zeros((deltas[0].shape[0], size)), np.zeros((size, deltas[0].shape[1]))
    values = np.zeros(size)
    for number, delta in enumerate(deltas):
        u, s, v = thin(delta)
        place = slice(number * each, (number + 1) * each)
        left[:, place], values[place], right[place] = u[:, :each], s[:each], v[:each]
    return np.asarray(procrustes(left) @ np.diag(values) @ procrustes(right))


def iso_c(deltas: Deltas) -> np.ndarray:
    """arXiv 2502.04959, equation 7: the sum with all singular values at their mean."""
    left, values, right = thin(np.sum(deltas, axis=0))
    return np.asarray(left @ np.diag(np.full(len(values), values.mean())) @ right)


def iso_cts(deltas: Deltas, fraction: float) -> np.ndarray:
    """arXiv 2502.04959, algorithm 1: of the sum a common space, of each model its own beside it."""
    size, models = min(deltas[0].shape), len(deltas)
    own = round((size - int(size * fraction)) / models)
    common = size - own * models
    u, s, v = thin(np.sum(deltas, axis=0))
    lefts, values, rights = [u[:, :common]], [s[:common]], [v[:common]]
    for delta in deltas:
        u, s, v = thin(delta - lefts[0] @ lefts[0].T @ delta)
        lefts.append(u[:, :own])
        values.append(s[:own])
        rights.append(v[:own])
    mean = np.concatenate(values).mean()
    return np.asarray(
        mean * procrustes(np.concatenate(lefts, axis=1)) @ procrustes(np.concatenate(rights))
    )


def wudi(deltas: Deltas, iterations: int, rate: float) -> np.ndarray:
    """arXiv 2503.08099, equation 13: Adam (betas 0.9, 0.999) from the sum, model by model."""
    merged = np.sum(deltas, axis=0)
    first, second = np.zeros_like(merged), np.zeros_like(merged)
    for step in range(1, iterations + 1):
        gradient = np.zeros_like(merged)
        for delta in deltas:
            gradient += 2 * (merged - delta) @ delta.T @ delta / np.sum(delta**2)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        ratio = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        merged = merged - rate * first / (1 - 0.9**step) / ratio
    return np.asarray(merged)


def pcb(deltas: Deltas, ratio: float) -> np.ndarray:
    """arXiv 2410.02396, section 3: softmax over a tensor, of products brought to 0 to 1."""

    def softmax(product: np.ndarray, times: int = 1) -> np.ndarray:
        scores = np.exp(times * (product - product.min()) / np.ptp(product))
        return np.asarray(scores / scores.sum())

    weights = []
    for delta in deltas:
        within = softmax(delta * delta, len(deltas))
        score = within * np.sum([softmax(delta * other) for other in deltas], axis=0)
        kept = np.argsort(score, axis=None)[-max(1, int(ratio * score.size)) :]
        mask = np.zeros(score.size)
        mask[kept] = 1
        weights.append(score * mask.reshape(score.shape) / score.max())
    whole = np.sum(weights, axis=0)
    summed = np.sum([w * d for w, d in zip(weights, deltas, strict=True)], axis=0)
    return np.divide(summed, whole, out=np.zeros_like(whole), where=whole > 0)


def ethos(deltas: Deltas, base: np.ndarray, xi: float) -> np.ndarray:
    """arXiv 2403.08994: in all directions of the base, as its authors have them (unlearn.py).

    Directions that the base does not have are chance: of an element along one of these it is the
    length of what goes with its other, true direction that counts.
    """
    u, s, v = np.linalg.svd(base)
    found = np.zeros(base.shape)
    for delta in deltas:
        along = u.T @ delta @ v.T
        size = np.abs(along)
        size[len(s) :] = np.linalg.norm(along[len(s) :], axis=0)
        size[:, len(s) :] = np.linalg.norm(along[:, len(s) :], axis=1)[:, None]
        found += u @ np.where(size > xi * size.max(), along, 0) @ v
    return found


def loss(merged: np.ndarray, deltas: Deltas) -> float:
    """What WUDI-Merging makes small: sum_i ||(m - d_i) d_i^T||^2 / ||d_i||^2."""
    return float(sum(np.sum(((merged - d) @ d.T) ** 2) / np.sum(d**2) for d in deltas))


def fisher(deltas: Deltas, information: Deltas, weights: Sequence[float]) -> np.ndarray:
    """arXiv 2111.09832, element by element; the mean where nothing is known."""
    triples = list(zip(deltas, information, weights, strict=True))
    whole = np.sum([w * f for _, f, w in triples], axis=0)
    mean = np.sum([w * d for d, _, w in triples], axis=0) / np.sum(weights)
    moved = np.sum([w * f * d for d, f, w in triples], axis=0)
    return np.asarray(np.where(whole > 0, moved / np.where(whole > 0, whole, 1), mean))


def regmean(
    deltas: Deltas, grams: Deltas, weights: Sequence[float], alpha: float = 0.9
) -> np.ndarray:
    """arXiv 2212.09849, off-diagonal elements times alpha; deltas (outputs, inputs)."""
    lowered = [alpha * g + (1 - alpha) * np.diag(np.diag(g)) for g in grams]
    triples = list(zip(deltas, lowered, weights, strict=True))
    moved = np.sum([w * d @ g for d, g, w in triples], axis=0)
    return np.asarray(moved @ np.linalg.inv(np.sum([w * g for _, g, w in triples], axis=0)))
