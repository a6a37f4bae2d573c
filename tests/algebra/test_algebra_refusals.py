"""What the algebra refuses, and how it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import read_model, write_model

from tvmerge import Checkpoint, TaskVector
from tvmerge.errors import ConfigError, FormatError, MismatchError, NothingChangedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    generator = np.random.default_rng(4)
    for name in ("base", "a"):
        held = {
            "embed": generator.standard_normal((50, 8)).astype(np.float32),
            "layers.0.up": generator.standard_normal(9).astype(np.float32),
            "ids": np.arange(3),
        }
        write_model(root / name, held)
    return root


@pytest.fixture
def base(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "base")


@pytest.fixture
def a(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "a")


Expression = Callable[[Checkpoint, TaskVector], object]
MEANINGLESS: dict[str, tuple[Expression, str]] = {
    "c + c": (lambda c, v: c + c, "did you mean base + (tuned - base), or Checkpoint.average"),
    "c + 1": (lambda c, v: c + 1, "add a TaskVector: base + scale * (tuned - base)"),
    "1 + c": (lambda c, v: 1 + c, "add a TaskVector"),
    "c - 1": (lambda c, v: c - 1, "subtract a Checkpoint or a TaskVector"),
    "0.5 * c": (
        lambda c, v: 0.5 * c,
        "only a task vector can be scaled; did you mean base + scale",
    ),
    "c * v": (lambda c, v: c * v, "only a task vector can be scaled"),
    "-c": (lambda c, v: -c, "only a task vector can be negated; did you mean -(tuned - base)?"),
    "v - c": (lambda c, v: v - c, "did you mean Checkpoint - TaskVector?"),
    "v + 1": (lambda c, v: v + 1, "a number cannot be added; did you mean scale * v?"),
    "v * v": (
        lambda c, v: v * v,
        "TaskVector * TaskVector has no meaning: a task vector is scaled",
    ),
    "v * 'x'": (lambda c, v: v * "x", "a task vector is scaled by a number"),
    "v / 0": (lambda c, v: v / 0, "divide by a number other than 0"),
    "v / v": (lambda c, v: v / v, "TaskVector / TaskVector has no meaning: divide by a number"),
    "c + 'x'": (lambda c, v: c + "x", "unsupported operand"),  # type: ignore[operator]
    "v - 'x'": (lambda c, v: v - "x", "unsupported operand"),  # type: ignore[operator]
    "c / 2": (lambda c, v: c / 2, "unsupported operand"),  # type: ignore[operator]
}


@pytest.mark.parametrize(("expression", "hint"), MEANINGLESS.values(), ids=list(MEANINGLESS))
def test_what_has_no_meaning_is_a_type_error_with_a_hint(
    expression: Expression, hint: str, base: Checkpoint, a: Checkpoint
) -> None:
    with pytest.raises(TypeError) as caught:
        expression(base, a - base)
    assert hint in str(caught.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_scales_that_are_no_numbers_are_refused(
    number: float, base: Checkpoint, a: Checkpoint
) -> None:
    with pytest.raises(ConfigError, match=r"scale .*: expected a finite number"):
        number * (a - base)
    with pytest.raises(ConfigError, match=r"divisor .*: expected a finite number"):
        (a - base) / number
    with pytest.raises(ConfigError, match=r"weight .*: expected a finite number"):
        Checkpoint.average([a, base], [1, number])


def test_coefficients_beyond_float64_are_refused(base: Checkpoint, a: Checkpoint) -> None:
    for make in (
        lambda: 10**400 * (a - base),
        lambda: 1e200 * (1e200 * (a - base)),
        lambda: (a - base) / 1e-300 / 1e-300,
    ):
        with pytest.raises(ConfigError, match=r"the coefficient of .* is beyond 1.8e\+308"):
            make()


def test_averages_of_nothing_are_refused(base: Checkpoint, a: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="0 checkpoints and 0 weights"):
        Checkpoint.average([])
    with pytest.raises(ConfigError, match="2 checkpoints and 1 weights"):
        Checkpoint.average([a, base], [1.0])
    with pytest.raises(ConfigError, match="the weights sum to 0"):
        Checkpoint.average([a, base], [1.0, -1.0])
    for weights in ([0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(ConfigError, match="there is nothing to write"):
            Checkpoint.average([a, a], weights, normalize=False)


def test_vectors_and_checkpoints_are_not_mistaken_for_each_other(
    base: Checkpoint, a: Checkpoint, folder: Path, tmp_path: Path
) -> None:
    (a - base).save(tmp_path / "vector")
    with pytest.raises(ConfigError, match="is a stored task vector, expected a checkpoint"):
        Checkpoint(tmp_path / "vector")
    with pytest.raises(ConfigError, match="is a checkpoint, expected a stored task vector"):
        TaskVector(folder / "a")
    with pytest.raises(FormatError, match="no such file or folder"):
        Checkpoint(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"base='base': expected a Checkpoint"):
        TaskVector(tmp_path / "vector", base="base")  # type: ignore[arg-type]


def test_a_zero_vector_is_not_stored(base: Checkpoint, a: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(NothingChangedError, match="its terms cancel out"):
        ((a - base) - (a - base)).save(tmp_path / "vector")
    copy = write_model(tmp_path / "copy", read_model(Path(base.donor.source)))
    with pytest.raises(NothingChangedError, match="the checkpoints are the same"):
        (Checkpoint(copy) - base).save(tmp_path / "vector")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_models_that_do_not_fit_are_refused_with_names_and_shapes(
    base: Checkpoint, folder: Path, tmp_path: Path
) -> None:
    held = read_model(folder / "a")
    held["embed"] = held["embed"][:-1]
    held["extra"] = held.pop("layers.0.up")
    held["ids"] = held["ids"].astype(np.int32)
    other = Checkpoint(write_model(tmp_path / "other", held))
    with pytest.raises(MismatchError) as caught:
        (base + (other - base)).save(tmp_path / "out")
    for part in (
        "embed: shape [49, 8] in", "expected [50, 8] as in", "layers.0.up: in", "missing in",
        "extra: in", "ids: I32 in", "expected I64",
    ):  # fmt: skip
        assert part in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
