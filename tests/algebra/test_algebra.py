"""Expressions over checkpoints: what they fold to, what they give back, what they refuse."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from oracles.arithmetic import is_nan, linear, random_array, round_once, ulps
from support.checkpoints import (
    codes,
    read_file,
    read_model,
    same_bits,
    tensor_bytes,
    write_file,
    write_model,
)

from tvmerge import Checkpoint, TaskVector

SHAPES = {"embed": (50, 8), "layers.0.up": (31, 33), "layers.1.up": (1025,), "norm": (), "no": (0,)}
SHARDS = [["norm", "embed"], ["layers.1.up"], ["no", "layers.0.up"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models base, a, b and c of one architecture: base in three shards and float32."""
    root = tmp_path_factory.mktemp("models")
    generator = np.random.default_rng(3)
    config = {"architectures": ["X"], "torch_dtype": "float32"}
    for name in ("base", "a", "b", "c"):
        held = {
            tensor: random_array(generator, "F32", shape, wild=False)
            for tensor, shape in SHAPES.items()
        }
        held["ids"] = np.arange(12).reshape(3, 4)
        shards = [*SHARDS[:2], [*SHARDS[2], "ids"]] if name == "base" else 1
        write_model(root / name, held, shards=shards, config=config)
    (root / "base" / "tokenizer.json").write_text('{"a": 1}')
    (root / "base" / "chat_template.jinja").write_text("{{ messages }}")
    (root / "base" / "modeling_x.py").write_text("x = 1\n")
    (root / "base" / "LICENSE").write_text("mine")
    return root


@pytest.fixture
def base(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "base")


@pytest.fixture
def a(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "a")


@pytest.fixture
def b(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "b")


def named(model: Checkpoint | TaskVector) -> dict[str, float]:
    return {stored.source.name: c for stored, c in model.coefficients.items()}


def saved(model: Checkpoint | TaskVector, out: Path) -> dict[str, np.ndarray]:
    model.save(out, threads=1)
    return read_model(out, "model" if isinstance(model, Checkpoint) else "vector")


def equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(same_bits(left[n], right[n]) for n in left)


# ---- what comes back -------------------------------------------------------------------------


@pytest.mark.parametrize("wild", [False, True])
def test_scale_0_gives_every_file_of_the_base_back(
    wild: bool, folder: Path, tmp_path: Path
) -> None:
    """Even where the delta is infinite: 0 * infinity would be NaN."""
    tuned = folder / "a"
    if wild:
        held = read_model(tuned) | {"norm": np.array(np.inf, np.float32)}
        tuned = write_model(tmp_path / "wild", held)
    base = Checkpoint(folder / "base")
    (base + 0.0 * (Checkpoint(tuned) - base)).save(tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {path.name for path in (folder / "base").iterdir()} | {
        "README.md",
        "tvmerge_receipt.json",
    }
    for path in (folder / "base").iterdir():
        if path.suffix == ".safetensors":
            assert tensor_bytes(tmp_path / "out" / path.name) == tensor_bytes(path)
        elif not path.name.endswith("index.json"):
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_base_plus_the_whole_vector_is_tuned_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    """Whatever the values: the base cancels out of the sum exactly."""
    generator = np.random.default_rng(5)
    paths = []
    for name in ("base", "tuned"):
        array = random_array(generator, dtype, (3001,), wild=True)
        codes_ = codes(array).copy()
        codes_[is_nan(array)] = 0  # NaN is stored in one form
        held = {"w": codes_.view(array.dtype), "ids": np.arange(3)}
        paths.append(write_model(tmp_path / name, held))
    base, tuned = map(Checkpoint, paths)
    assert equal(saved(base + (tuned - base), tmp_path / "out"), read_model(paths[1]))


def test_subtracting_what_was_added_gives_the_base_back(
    base: Checkpoint, a: Checkpoint, folder: Path, tmp_path: Path
) -> None:
    out = saved(base + 0.1 * (a - base) - 0.1 * (a - base), tmp_path / "out")
    assert equal(out, read_model(folder / "base"))


def test_a_stored_vector_is_as_good_as_the_difference(tmp_path: Path) -> None:
    """Values on a grid: every difference is exact in float32."""
    generator = np.random.default_rng(6)
    for name in ("base", "tuned"):
        held = {"w": round_once(generator.integers(-512, 513, 1300) / 256, "BF16")}
        held |= {"v": (generator.integers(-999, 999, (3, 7)) / 64).astype(np.float32)}
        write_model(tmp_path / name, held, shards=2)
    base, tuned = Checkpoint(tmp_path / "base"), Checkpoint(tmp_path / "tuned")
    stored = saved(tuned - base, tmp_path / "vector")
    before, after = read_model(tmp_path / "base"), read_model(tmp_path / "tuned")
    for name, array in stored.items():
        assert array.dtype == np.float32
        assert same_bits(array, linear([after[name], before[name]], [1, -1]).astype(np.float32))
    vector = TaskVector(tmp_path / "vector")
    for number, scale in enumerate((1.0, -0.5, 0.25)):
        direct = saved(base + scale * (tuned - base), tmp_path / f"direct{number}")
        assert equal(saved(base + scale * vector, tmp_path / f"stored{number}"), direct)


def test_a_stored_vector_of_some_tensors_leaves_the_others_alone(
    folder: Path, tmp_path: Path
) -> None:
    before = read_model(folder / "base")
    write_file(
        tmp_path / "part" / "vector.safetensors",
        {"embed": np.ones(SHAPES["embed"], np.float32)},
        {"tvmerge.kind": "task_vector"},
    )
    base = Checkpoint(folder / "base")
    report = (base - TaskVector(tmp_path / "part")).save(tmp_path / "out")
    assert (report.combined_tensors, report.copied_tensors) == (1, 5)
    expected = before | {"embed": before["embed"] - np.float32(1)}
    assert equal(read_model(tmp_path / "out"), expected)


# ---- what expressions fold to ----------------------------------------------------------------


def test_negating_two_vectors_folds_to_one_pass_over_three_inputs(
    base: Checkpoint, a: Checkpoint, b: Checkpoint, tmp_path: Path
) -> None:
    merged = base - 0.5 * (a - base) - 0.5 * (b - base)
    assert named(merged) == {"base": 2.0, "a": -0.5, "b": -0.5}
    report = merged.save(tmp_path / "out")
    elements = sum(int(np.prod(shape)) for shape in SHAPES.values())
    ids = 12 * 8 * 4
    assert report.bytes_moved == 4 * elements * 4 + ids  # three read and one written
    assert report.elements == elements


def test_coefficients_are_exact_until_the_end(base: Checkpoint, a: Checkpoint) -> None:
    v = a - base
    assert named(base + 0.1 * v - 1 * 0.1 * v) == {"base": 1.0}
    assert named(base + sum([0.1 * v] * 10) - 10 * (0.1 * v)) == {"base": 1.0}
    assert named(base + 3 * (v / 3) - v) == {"base": 1.0}
    assert named(base + Fraction(1, 3) * v) == {"base": 2 / 3, "a": 1 / 3}
    assert named(base + 2.0**1000 * (2.0**-1000 * (2.0**-1000 * v))) == named(base + 2.0**-1000 * v)
    assert named(base + 1e-200 * (1e-200 * v)) == {"base": 1.0}  # 1e-400 is 0 in float64


def test_the_order_and_repetition_of_vectors_do_not_matter(
    base: Checkpoint, a: Checkpoint, b: Checkpoint, tmp_path: Path
) -> None:
    v, w = a - base, b - base
    same = [base + v + w + v, base + (w + 2 * v), (v + base) + (v + w), base - -v + v - -w]
    assert all(named(model) == {"base": -2.0, "a": 2.0, "b": 1.0} for model in same)
    outs = [saved(model, tmp_path / str(i)) for i, model in enumerate(same)]
    for name, array in outs[0].items():
        if array.dtype == np.float32:
            assert all(ulps(array, other[name]) <= 1 for other in outs)
    assert equal(outs[0], outs[3])


def test_the_same_folder_opened_twice_is_one_input(folder: Path, base: Checkpoint) -> None:
    again = Checkpoint(str(folder / "a" / ".." / "base"))
    tuned = Checkpoint(folder / "a")
    assert named(again + (tuned - base)) == {"a": 1.0}


def test_sums_quotients_and_signs(base: Checkpoint, a: Checkpoint, b: Checkpoint) -> None:
    v, w = a - base, b - base
    assert named(sum([v, w])) == {"base": -2.0, "a": 1.0, "b": 1.0}
    assert named(-v) == {"base": 1.0, "a": -1.0}
    assert named(v - w) == {"a": 1.0, "b": -1.0}
    assert named(v / 4) == {"base": -0.25, "a": 0.25}
    assert named(v * np.float32(0.5)) == named(0.5 * v) == named(np.int64(1) * v / 2)
    assert named(v - v) == {}
    assert repr(0.5 * v) == "<TaskVector 0.5 * a + -0.5 * base>"


def test_the_average_weighs_and_normalises(base: Checkpoint, a: Checkpoint, b: Checkpoint) -> None:
    assert named(Checkpoint.average([a, b])) == {"a": 0.5, "b": 0.5}
    assert named(Checkpoint.average([a, b], [1, 3])) == {"a": 0.25, "b": 0.75}
    assert named(Checkpoint.average([a, b], [1, 3], normalize=False)) == {"a": 1.0, "b": 3.0}
    assert Checkpoint.average([a, b], donor=base).donor.source.name == "base"


def test_layout_comes_from_the_base_and_weights_from_the_sum(
    base: Checkpoint, a: Checkpoint, b: Checkpoint, folder: Path, tmp_path: Path
) -> None:
    out = saved(base + (a - b), tmp_path / "out")
    models = [read_model(folder / name) for name in ("base", "a", "b")]
    for name in SHAPES:
        expected = round_once(linear([held[name] for held in models], [1, 1, -1]), "F32")
        assert ulps(out[name], expected.reshape(out[name].shape)) <= 1
    assert read_file(tmp_path / "out" / "model-00002-of-00003.safetensors").keys() == {
        "layers.1.up"
    }
