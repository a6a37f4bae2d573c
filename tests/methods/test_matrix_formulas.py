"""The formulas of methods that merge whole matrices: small cases by hand, and their limits."""

from __future__ import annotations

import numpy as np
import pytest
from oracles.matrices import Deltas, loss
from support.method_models import matrix_of

from tvmerge.engine.decisions import Matrix
from tvmerge.methods.iso import IsoC, IsoCts
from tvmerge.methods.pcb import Pcb
from tvmerge.methods.tsv import Tsv
from tvmerge.methods.wudi import Wudi

torch = pytest.importorskip("torch")


def merged_by(kind: type[Matrix], deltas: Deltas, **more: float) -> np.ndarray:
    """What a method makes of float64 arrays."""
    matrix = matrix_of(kind, deltas[0].shape, len(deltas), **more)
    return np.asarray(matrix.merged([torch.from_numpy(np.ascontiguousarray(d)) for d in deltas]))


def outer(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.outer(left, right)


E1, E2 = np.eye(2)


def direction(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def test_tsv_takes_the_largest_direction_of_each_of_two() -> None:
    deltas = [np.diag([4.0, 1.0]), np.diag([2.0, 3.0])]
    assert np.allclose(merged_by(Tsv, deltas), np.diag([4.0, 3.0]))


def test_tsv_turns_directions_at_60_degrees_apart_by_15_each() -> None:
    deltas = [4 * outer(E1, E1), 3 * outer(direction(60), E2)]
    expected = 4 * outer(direction(-15), E1) + 3 * outer(direction(75), E2)
    assert np.allclose(merged_by(Tsv, deltas), expected)


def test_tsv_of_twice_the_same_is_the_larger_half_of_it() -> None:
    delta = np.diag([4.0, 2.0, 1.0, 0.5])
    assert np.allclose(merged_by(Tsv, [delta, delta]), np.diag([4.0, 2.0, 0.0, 0.0]))


def test_tsv_of_low_ranks_has_nothing_of_rounding_errors() -> None:
    """As of LoRA adapters: the directions of their null spaces are chance, and none of them."""
    generator = np.random.default_rng(2)
    left, _, right = np.linalg.svd(generator.standard_normal((40, 30)), full_matrices=False)
    exact = [3 * outer(left[:, n], right[n]) for n in range(2)]
    noisy = [delta.astype(np.float32).astype(np.float64) for delta in exact]
    assert np.allclose(merged_by(Tsv, noisy), exact[0] + exact[1], atol=1e-6)
    zero = np.zeros((40, 30))
    assert np.allclose(merged_by(Tsv, [noisy[0], zero]), exact[0], atol=1e-6)
    assert np.array_equal(merged_by(Tsv, [zero, zero]), zero)


def test_iso_c_makes_all_directions_as_strong_as_their_mean() -> None:
    deltas = [np.diag([3.0, -1.0]), np.diag([1.0, -1.0])]
    assert np.allclose(merged_by(IsoC, deltas), np.diag([3.0, -3.0]))


def test_iso_c_of_a_low_rank_keeps_the_sum_of_singular_values() -> None:
    delta = np.diag([4.0, 2.0, 0.0, 0.0])
    assert np.allclose(merged_by(IsoC, [delta]), np.diag([3.0, 3.0, 0.0, 0.0]))
    assert np.array_equal(merged_by(IsoC, [0 * delta]), 0 * delta)


def test_iso_cts_adds_what_each_model_has_beside_the_common_space() -> None:
    deltas = [np.diag([5.0, 0.0, 1.0, 0.0]), np.diag([0.0, 4.0, 0.0, 3.0])]
    expected = np.diag([3.25] * 4)  # common: 5 and 4; of the first 1, of the second 3
    assert np.allclose(merged_by(IsoCts, deltas, common=0.5), expected)
    deltas[1][3, 3] = 0  # the second has nothing beside it
    expected = np.diag([10 / 3] * 3 + [0])
    assert np.allclose(merged_by(IsoCts, deltas, common=0.5), expected)


def test_iso_cts_that_is_all_common_is_iso_c() -> None:
    generator = np.random.default_rng(3)
    deltas = list(generator.standard_normal((3, 12, 10)))
    assert np.allclose(merged_by(IsoCts, deltas, common=1.0), merged_by(IsoC, deltas))


def test_wudi_leaves_what_disturbs_nobody() -> None:
    """One model alone, and models with deltas in different inputs: the sum is the least."""
    apart = [np.diag([1.0, 0.0]), np.array([[0.0, 2.0], [0.0, 0.0]])]
    for deltas in (apart[:1], apart, [*apart, np.zeros((2, 2))]):
        found = merged_by(Wudi, deltas, iterations=50, rate=0.1)
        assert np.array_equal(found, np.sum(deltas, axis=0))


def test_wudi_of_twice_the_same_comes_near_it() -> None:
    delta = np.array([[1.0, 2.0], [0.0, 3.0], [1.0, 1.0]])
    found = merged_by(Wudi, [delta, delta], iterations=3000, rate=0.01)
    assert np.allclose(found, delta, atol=1e-3)


def test_wudi_is_adam_on_the_papers_loss() -> None:
    generator = np.random.default_rng(6)
    deltas = list(0.05 * generator.standard_normal((3, 20, 30)))
    stacked = torch.from_numpy(np.stack(deltas))
    merged = torch.nn.Parameter(stacked.sum(0))
    optimizer = torch.optim.Adam([merged], lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        inner = (merged - stacked) @ stacked.transpose(1, 2)
        (inner.square().sum(dim=(1, 2)) / stacked.square().sum(dim=(1, 2))).sum().backward()
        optimizer.step()
    found = merged_by(Wudi, deltas, iterations=40, rate=1e-3)
    assert np.allclose(found, merged.detach().numpy(), rtol=1e-9, atol=1e-12)
    assert loss(found, deltas) < 0.5 * loss(np.sum(deltas, axis=0), deltas)


def test_pcb_weighs_elements_by_their_own_squares_and_by_products_with_the_others() -> None:
    """Own scores: e^2 to 1, and even ones; with the other: e to 1 in both."""
    deltas = [np.array([[2.0, 1.0]]), np.array([[1.0, -1.0]])]
    e = np.e
    first, second = e**-3, (3 + e) / (1 + 3 * e)  # what element 1 weighs, of element 0
    expected = [[1.5, (first - second) / (first + second)]]
    assert np.allclose(merged_by(Pcb, deltas, ratio=1.0), expected)
    assert np.allclose(merged_by(Pcb, deltas, ratio=0.5), [[1.5, 0.0]])


def test_pcb_keeps_of_one_model_its_largest_elements_and_all_equal_ones() -> None:
    delta = np.array([[3.0, -1.0, 0.0], [-2.0, 4.0, 1.0]])
    assert np.allclose(merged_by(Pcb, [delta], ratio=1.0), delta)
    assert np.allclose(merged_by(Pcb, [delta], ratio=0.5), np.where(abs(delta) > 1, delta, 0))
    even = np.sign(delta + 0.5)
    assert np.allclose(merged_by(Pcb, [even], ratio=0.1), even)


def test_pcb_leaves_out_a_delta_of_0() -> None:
    delta = np.array([[3.0, -1.0], [-2.0, 4.0]])
    for deltas in ([delta], [delta, 0 * delta], [0 * delta]):
        found = merged_by(Pcb, deltas, ratio=0.5)
        assert np.allclose(found, np.where(abs(delta) > 2, deltas[0], 0))
