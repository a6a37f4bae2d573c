"""diff and gram: the sums of a float64 oracle, the same bits however they are run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.arithmetic import decode, random_array
from support.checkpoints import FLOATS, read_model, write_file, write_model

from tvmerge import Checkpoint, TaskVector, _core, cosines, diff, gram
from tvmerge.algebra.compare import TensorDifference
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import MismatchError

# Around the engine's tiles of 512 elements, and over several of its slices of 65536.
SIZES = [0, 1, 7, 511, 512, 513, 1025, 65_537, 200_001]
RUNS = [
    RunOptions(threads=threads, isa=isa, memory_mib=4096, slice_bytes=slice_bytes)
    for isa in _core.available_isas()
    for threads, slice_bytes in ((1, 1), (2, 1 << 19), (7, 1 << 30))
]


def models(root: Path, count: int, *, seed: int = 0, sizes: list[int] = SIZES) -> list[Path]:
    generator = np.random.default_rng(seed)
    folders = []
    for k in range(count):
        held = {
            f"layers.{i}.w": random_array(generator, FLOATS[(i + k) % 6], (size,), wild=False)
            for i, size in enumerate(sizes)
        }
        held |= {"layers.0.ids": np.arange(4), "embed": generator.standard_normal((5, 3))}
        folders.append(write_model(root / f"m{k}", held, shards=k % 3 + 1))
    return folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return models(tmp_path_factory.mktemp("models"), 4)


def flat(path: Path) -> np.ndarray:
    """All floating-point values of a model, in the order of the names."""
    held = read_model(path)
    return np.concatenate([decode(held[n]).ravel() for n in sorted(held) if n != "layers.0.ids"])


def expect(one: TensorDifference, a: np.ndarray, b: np.ndarray) -> None:
    assert one.elements == a.size
    assert one.changed_elements == np.count_nonzero(a != b)
    assert one.norm_a == pytest.approx(np.linalg.norm(a), rel=1e-12)
    assert one.norm_b == pytest.approx(np.linalg.norm(b), rel=1e-12)
    assert one.norm_difference == pytest.approx(np.linalg.norm(b - a), rel=1e-12)
    if a.size:
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert one.cosine == pytest.approx(cosine, rel=1e-9, abs=1e-12)
        assert one.relative_change == pytest.approx(one.norm_difference / one.norm_a)
        assert one.changed_share == one.changed_elements / a.size
    else:
        assert math.isnan(one.cosine)
        assert one.changed_share == 0


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32),
    dtypes=st.tuples(st.sampled_from(FLOATS), st.sampled_from(FLOATS)),
    shape=st.sampled_from([(), (0,), (1,), (513,), (3, 5, 7), (1025,), (70_001,)]),
)
def test_diff_gives_norms_cosine_and_changes_of_any_pair(
    tmp_path: Path, seed: int, dtypes: tuple[str, str], shape: tuple[int, ...]
) -> None:
    generator = np.random.default_rng(seed)
    arrays = [random_array(generator, dtype, shape, wild=False) for dtype in dtypes]
    paths = [
        write_file(tmp_path / f"{i}.safetensors", {"w": array}) for i, array in enumerate(arrays)
    ]
    found = diff(*paths)
    a, b = (decode(array).ravel() for array in arrays)
    expect(found.tensors[0], a, b)
    expect(found.total, a, b)
    assert found.same == np.array_equal(a, b)


def test_diff_adds_up_layers_and_the_total(folders: list[Path]) -> None:
    found = diff(folders[0], folders[1])
    expect(found.total, flat(folders[0]), flat(folders[1]))
    assert sorted(one.name for one in found.tensors) == sorted(
        ["embed", *(f"layers.{i}.w" for i in range(len(SIZES)))]
    )
    assert {one.name for one in found.layers} == {
        "embed", *(f"layers.{i}" for i in range(len(SIZES)))
    }  # fmt: skip
    assert sum(one.elements for one in found.layers) == found.total.elements
    assert not found.same


def test_layers_hold_all_of_their_tensors(tmp_path: Path) -> None:
    held = {f"model.layers.{i}.{n}.weight": np.ones(2, np.float32) for i in (1, 11) for n in "ab"}
    held |= {"head.weight": np.ones(3, np.float32)}
    found = diff(write_model(tmp_path / "a", held), write_model(tmp_path / "b", held))
    assert {one.name: one.elements for one in found.layers} == {
        "model.layers.1": 4, "model.layers.11": 4, "head.weight": 3
    }  # fmt: skip


def test_diff_and_gram_are_the_same_bits_however_they_run(folders: list[Path]) -> None:
    base, *tuned = map(Checkpoint, folders)
    vectors = [model - base for model in tuned]
    assert len({repr(diff(folders[0], folders[1], options=options)) for options in RUNS}) == 1
    assert len({repr(gram(vectors, options=options)) for options in RUNS}) == 1


def test_a_model_is_the_same_as_itself_even_with_infinities(tmp_path: Path) -> None:
    held = {
        "mask": np.array([0, -np.inf, np.nan], np.float32),
        "ids": np.arange(3),
        "none": np.zeros((0, 2), np.float16),
    }
    a, b = (write_model(tmp_path / name, held) for name in "ab")
    found = diff(a, b)
    assert found.same
    assert found.total.changed_elements == 0
    assert found.total.norm_difference == 0


def test_diff_says_what_it_cannot_compare(tmp_path: Path) -> None:
    a = {"w": np.ones(3, np.float32), "s": np.ones((2, 3)), "ids": np.arange(3), "k": np.arange(2)}
    b = {"w": np.ones(3, np.float32), "s": np.ones((3, 2)), "ids": np.arange(3)[::-1].copy()}
    b |= {"k": np.arange(2, dtype=np.int32), "new": np.ones(1)}
    a |= {"old": np.ones(1)}
    found = diff(write_model(tmp_path / "a", a), write_model(tmp_path / "b", b))
    assert found.only_in_a == ("old",)
    assert found.only_in_b == ("new",)
    assert set(found.not_comparable) == {"s: [2, 3] against [3, 2]", "k: I64 against I32"}
    assert found.differing_bytes == ("ids",)
    assert found.total.changed_elements == 0
    assert not found.same


def test_diff_of_models_with_nothing_in_common_is_refused(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a", {"x": np.ones(1)})
    b = write_model(tmp_path / "b", {"y": np.ones(1)})
    with pytest.raises(MismatchError, match="have no tensor in common"):
        diff(a, b)


# ---- gram ------------------------------------------------------------------------------------


def test_gram_holds_the_inner_products_of_all_vectors(folders: list[Path]) -> None:
    base, *tuned = map(Checkpoint, folders)
    vectors = [model - base for model in tuned]
    vectors += [0.5 * vectors[0] - vectors[1], vectors[0] - vectors[0]]
    rows = [flat(path) - flat(folders[0]) for path in folders[1:]]
    rows += [0.5 * rows[0] - rows[1], 0 * rows[0]]
    expected = np.array([[x @ y for y in rows] for x in rows])
    found = np.array(gram(vectors))
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (np.abs(found - expected) <= 1e-12 * scale).all()
    assert np.array_equal(found, found.T)


def test_gram_of_stored_vectors_is_that_of_their_differences(
    folders: list[Path], tmp_path: Path
) -> None:
    base, a, b, _ = map(Checkpoint, folders)
    stored = []
    for name, model in (("a", a), ("b", b)):
        (model - base).save(tmp_path / name)
        stored.append(TaskVector(tmp_path / name))
    direct, found = np.array(gram([a - base, b - base])), np.array(gram(stored))
    assert np.allclose(found, direct, rtol=1e-6)


def test_a_vector_of_some_tensors_has_zeros_elsewhere(tmp_path: Path) -> None:
    kind = {"tvmerge.kind": "task_vector"}
    x = write_file(tmp_path / "x.safetensors", {"p": np.full(3, 2.0), "q": np.ones(2)}, kind)
    y = write_file(tmp_path / "y.safetensors", {"q": np.full(2, 3.0), "r": np.ones(5)}, kind)
    assert gram([TaskVector(x), TaskVector(y)]) == [[14.0, 6.0], [6.0, 23.0]]


def test_infinities_of_a_model_do_not_reach_the_products_of_others(tmp_path: Path) -> None:
    paths = [
        write_model(tmp_path / name, {"w": np.array([value], np.float32)})
        for name, value in (("base", 1.0), ("a", 3.0), ("infinite", np.inf))
    ]
    base, a, infinite = map(Checkpoint, paths)
    found = gram([a - base, infinite - base])
    assert found[0][0] == 4.0
    assert found[0][1] == found[1][1] == math.inf


def test_gram_of_nothing_is_empty() -> None:
    assert gram([]) == []


def test_gram_refuses_models_that_do_not_fit(tmp_path: Path) -> None:
    base = Checkpoint(write_model(tmp_path / "base", {"w": np.ones((2, 3)), "v": np.ones(1)}))
    shape = Checkpoint(write_model(tmp_path / "shape", {"w": np.ones((3, 2)), "v": np.ones(1)}))
    lacks = Checkpoint(write_model(tmp_path / "lacks", {"w": np.ones((2, 3))}))
    with pytest.raises(MismatchError, match=r"w: shape \[3, 2\] in"):
        gram([shape - base])
    with pytest.raises(MismatchError, match=r"v: in .* missing in"):
        gram([lacks - base])
    other = Checkpoint(write_model(tmp_path / "other", {"w": np.ones((3, 2)) * 2, "v": np.ones(1)}))
    kind = {"tvmerge.kind": "task_vector"}
    vector = write_file(tmp_path / "v.safetensors", {"w": np.ones(6)}, kind)
    with pytest.raises(MismatchError, match="do not fit together"):
        gram([other - shape, TaskVector(vector)])


def test_cosines_are_products_over_norms() -> None:
    assert cosines([[4.0, 2.0], [2.0, 4.0]]) == [[1.0, 0.5], [0.5, 1.0]]
    assert cosines([[1e-320, 0.0], [0.0, 1e-320]])[0][1] == 0.0
    found = cosines([[0.0, 0.0], [0.0, 9.0]])
    assert math.isnan(found[0][0])
    assert math.isnan(found[0][1])
    assert found[1][1] == 1.0


def test_progress_of_diff_reaches_the_total(folders: list[Path]) -> None:
    told: list[tuple[int, int]] = []
    diff(folders[0], folders[1], options=RunOptions(progress=lambda *now: told.append(now)))
    assert told[-1][0] == told[-1][1] > 0


def test_a_model_is_not_compared_with_a_vector(tmp_path: Path) -> None:
    base = Checkpoint(write_model(tmp_path / "base", {"w": np.ones(3)}))
    tuned = Checkpoint(write_model(tmp_path / "tuned", {"w": np.full(3, 2.0)}))
    (tuned - base).save(tmp_path / "vector")
    assert diff(tmp_path / "vector", tmp_path / "vector").same
    for pair in (
        (tmp_path / "base", tmp_path / "vector"),
        (tmp_path / "vector", tmp_path / "base"),
    ):
        with pytest.raises(MismatchError, match=r"vector: is a task vector or an adapter.*--add"):
            diff(*pair)
