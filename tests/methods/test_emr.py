"""EMR-Merging by hand: what all elect, what of it has a task's signs, and how large that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from oracles.consensus import Part, consensus
from support.checkpoints import read_model, write_model
from support.method_models import (
    SHAPES,
    WEIGHTS,
    Arrays,
    assert_near,
    flat,
    merge,
    parts_of,
    recipe,
    weighted,
    wide,
)

from tvmerge.algebra.scaled import weighting_at
from tvmerge.algebra.sweep import sweep
from tvmerge.cli import cli
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError
from tvmerge.merging.merge import save_checkpoint
from tvmerge.receipts.parsing import read_receipt
from tvmerge.recipe import build, parse_recipe
from tvmerge.replay import replay

BASE = [1.0, 1.0, 1.0, 1.0, -2.0, 8.0]
# Deltas of a: 4, -1, -2, 0, 0, 1; of b: 2, -3, 3, 0, 0, -1; of c: -1, -2, 0.5, 1, 0, 0. Elected
# are 4 (of a), -3 (of b), 3 (of b), 1 (of c), none, and of a sum of 0 the positive 1 (of a).
A = [5.0, 0.0, -1.0, 1.0, -2.0, 9.0]
B = [3.0, -2.0, 4.0, 1.0, -2.0, 7.0]
C = [0.0, -1.0, 1.5, 2.0, -2.0, 8.0]


def merged(folder: Path, models: dict[str, dict[str, float]], **parameters: float) -> list[float]:
    for name, values in (("base", BASE), ("a", A), ("b", B), ("c", C)):
        write_model(folder / name, {"w": np.array(values, np.float32)})
    text = recipe(folder, "emr", models, **parameters)
    state = build(parse_recipe(Path("r"), text.encode())).state_dict()
    return [float(value) for value in state["w"]]


def of_task(
    task: str | None, weights: tuple[float, ...] = (1, 1, 1)
) -> dict[str, dict[str, float]]:
    return {n: {"weight": w, "task": n == task} for n, w in zip("abc", weights, strict=True)}


@pytest.mark.parametrize(
    ("weights", "scale", "expected"),
    [
        ((1, 1, 1), 1, [5.0, -2.0, 4.0, 2.0, -2.0, 9.0]),
        ((1, 1, 1), -0.5, [-1.0, 2.5, -0.5, 0.5, -2.0, 7.5]),
        # Deltas of b are 4, -6, 6, 0, 0, -2: in the last it outvotes a now.
        ((1, 2, 1), 1, [5.0, -5.0, 7.0, 2.0, -2.0, 6.0]),
        # Subtracted, the signs turn; but a sum of 0 elects the positive, which then is of b.
        ((-1, -1, -1), 1, [-3.0, 4.0, -2.0, 0.0, -2.0, 9.0]),
        # A weight of 0 is neither elected nor has it a vote: the fourth stays.
        ((1, 1, 0), 1, [5.0, -2.0, 4.0, 1.0, -2.0, 9.0]),
    ],
)
def test_the_largest_of_the_elected_sign_is_added(
    tmp_path: Path, weights: tuple[float, ...], scale: float, expected: list[float]
) -> None:
    assert merged(tmp_path, of_task(None, weights), **{"lambda": scale}) == expected


@pytest.mark.parametrize(
    ("task", "scale", "kept", "norm"),
    [
        # a goes with the first two and the last: 4, -3, 1, of a norm of 8.
        ("a", 1, [4, -3, 0, 0, 0, 1], 8),
        # b with the first three: 4, -3, 3, of 9.
        ("b", 1, [4, -3, 3, 0, 0, 0], 9),
        # c with the second to the fourth: -3, 3, 1, of 4.5.
        ("c", 1, [0, -3, 3, 1, 0, 0], 4.5),
        ("c", -2, [0, -3, 3, 1, 0, 0], 4.5),
    ],
)
def test_a_task_has_what_goes_with_its_signs_at_the_norm_of_its_own_delta(
    tmp_path: Path, task: str, scale: float, kept: list[float], norm: float
) -> None:
    found = np.array(merged(tmp_path, of_task(task), **{"lambda": scale})) - BASE
    assert np.allclose(found, scale * norm / np.abs(kept).sum() * np.array(kept), atol=1e-6)
    assert np.abs(found).sum() == pytest.approx(abs(scale) * norm)


def test_a_task_that_is_subtracted_has_its_deltas_other_signs(tmp_path: Path) -> None:
    """Sums of a, -b, c: 1, 0, -4.5, 1, 0, 2. Elected: 4, 3, -3, 1, none, 1. Of -b: 3 and -3, 1."""
    found = np.array(merged(tmp_path, of_task("b", (1, -1, 1)))) - BASE
    assert np.allclose(found, 9 / 7 * np.array([0, 3, -3, 0, 0, 1]), atol=1e-6)


@pytest.mark.parametrize("weight", [1.0, 0.5, -0.5])
@pytest.mark.parametrize("task", [True, False])
def test_one_model_alone_is_its_task_arithmetic(tmp_path: Path, task: bool, weight: float) -> None:
    found = merged(tmp_path, {"a": {"weight": weight, "task": task}})
    assert found == [x + weight * (y - x) for x, y in zip(BASE, A, strict=True)]


@pytest.mark.parametrize("still", ["still", "link", "no weight"])
def test_a_task_without_a_delta_is_the_base(tmp_path: Path, still: str) -> None:
    """Read as 0, or known because it is the base under another name, or left out."""
    for name, values in (("base", BASE), ("still", BASE), ("a", A), ("b", B)):
        write_model(tmp_path / name, {"w": np.array(values, np.float32)})
    (tmp_path / "link").symlink_to(tmp_path / "base")
    own = {"weight": 0.0 if still == "no weight" else 1.0, "task": True}
    models = {"b" if still == "no weight" else still: own, "a": {"weight": 1.0}}
    state = build(parse_recipe(Path("r"), recipe(tmp_path, "emr", models).encode())).state_dict()
    assert state["w"].tolist() == BASE


def test_a_model_that_is_the_base_changes_nobody_elses_task(tmp_path: Path) -> None:
    expected = merged(tmp_path, {"a": {"weight": 1.0}, "b": {"weight": 1.0, "task": True}})
    (tmp_path / "link").symlink_to(tmp_path / "base")
    models = {"link": {"weight": 1.0}, "a": {"weight": 1.0}, "b": {"weight": 1.0, "task": True}}
    text = recipe(tmp_path, "emr", models)
    state = build(parse_recipe(Path("r"), text.encode())).state_dict()
    assert state["w"].tolist() == expected


def test_two_tasks_at_once_are_refused(tmp_path: Path) -> None:
    models = {n: {"weight": 1.0, "task": n != "b"} for n in "abc"}
    with pytest.raises(ConfigError, match=r"w: task .*expected one model at most, found .*a, .*c"):
        merged(tmp_path, models)


def test_a_task_that_goes_unnamed_is_refused(folder: Path) -> None:
    text = recipe(folder, "emr", {"a": {"weight": 1.0, "tasks": True}})
    with pytest.raises(ConfigError, match=r"unknown parameter.*task"):
        parse_recipe(Path("r"), text.encode())


def test_without_a_base_there_are_no_deltas(folder: Path) -> None:
    text = recipe(folder, "emr", {"a": {"weight": 1.0}, "b": {"weight": 1.0}}, base=None)
    with pytest.raises(ConfigError, match="base_model"):
        build(parse_recipe(Path("r"), text.encode()))


@pytest.mark.parametrize("task", [None, "a", "b", "c"])
def test_random_models_are_the_papers_equation(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, task: str | None
) -> None:
    models = weighted()
    if task is not None:
        models[task] |= {"task": True}
    out = merge(recipe(folder, "emr", models, **{"lambda": -0.6}), tmp_path / "out")

    def expected(of: str) -> np.ndarray:
        everywhere = np.ones(flat(held, "base", of).size, bool)
        parts = parts_of(held, of, WEIGHTS, lambda _m, _n: everywhere)
        votes = [int(task in (None, name)) for name in "abc"]
        parts = [
            Part(p.tuned, p.weight, p.kept, votes=v) for p, v in zip(parts, votes, strict=True)
        ]
        base = flat(held, "base", of)
        unified = consensus(
            base, parts, 1.0, elect=True, largest=True, least=int(task is not None), normalize=False
        ) - base.astype(np.float64)
        rescaler = 1.0
        if task is not None:
            own = WEIGHTS["abc".index(task)] * (wide(held, task, of) - wide(held, "base", of))
            rescaler = np.abs(own).sum() / np.abs(unified).sum()
        return base - 0.6 * rescaler * unified

    assert_near(out, expected)


def test_a_tasks_order_of_models_weights_below_0_threads_and_batches(
    folder: Path, held: dict[str, Arrays], tmp_path: Path
) -> None:
    """Neither matters the order, nor any cut; all weights below 0 give the mirror image."""
    own = {n: {"weight": 0.5, "task": n == "b"} for n in "abc"}
    runs = (
        RunOptions(threads=1),
        RunOptions(threads=3, slice_bytes=4096, batch_bytes=10_000),
        RunOptions(threads=2, isa="generic"),
    )
    saved = []
    for number, options in enumerate(runs):
        out = merge(recipe(folder, "emr", own), tmp_path / str(number), options)
        saved.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert saved[1:] == saved[:-1]
    back = merge(recipe(folder, "emr", {n: own[n] for n in "cba"}), tmp_path / "back")
    below = {n: {"weight": -0.5, "task": n == "b"} for n in "abc"}
    minus = merge(recipe(folder, "emr", below), tmp_path / "minus")
    for name in SHAPES:
        base = held["base"][name].astype(np.float64)
        assert np.allclose(back[name], out[name], rtol=1e-6, atol=1e-6)
        assert np.allclose(minus[name] - base, base - out[name], rtol=1e-4, atol=1e-6)
    (tmp_path / "recipe.yaml").write_text(recipe(folder, "emr", own))
    done = CliRunner().invoke(cli, ["merge", f"{tmp_path}/recipe.yaml", f"{tmp_path}/out"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == saved[0]
    assert replay(read_receipt(tmp_path / "out")) == ()


def test_lambda_0_gives_the_base_and_a_sweep_each_merge_its_bytes(
    folder: Path, held: dict[str, Arrays], tmp_path: Path
) -> None:
    own = {n: {"weight": 0.5, "task": n == "b"} for n in "abc"}
    still = build(parse_recipe(Path("r"), recipe(folder, "emr", own, **{"lambda": 0}).encode()))
    for name, value in still.state_dict().items():
        assert value.numpy().tobytes() == held["base"][name].tobytes()
    model = build(parse_recipe(Path("r"), recipe(folder, "emr", own).encode()))
    sweep(model, [0.25, 1.0], tmp_path / "all")
    for name, scale in (("scale-0.25", 0.25), ("scale-1", 1.0)):
        alone = tmp_path / name
        weighting = weighting_at(model, scale)
        save_checkpoint(weighting, model.donor, alone, dtype=None, options=RunOptions())
        swept = tmp_path / "all" / name / "model.safetensors"
        assert swept.read_bytes() == (alone / "model.safetensors").read_bytes()


def test_what_is_broken_in_any_input_shows_and_nothing_else_is(
    folder: Path, tmp_path: Path
) -> None:
    for broken in "ab":
        held = read_model(folder / broken)
        held["embed"] = held["embed"].copy()
        held["embed"][3, 4:6] = np.nan, np.inf
        write_model(tmp_path / broken, held)
        models = {n: {"weight": 1.0, "task": n == "a"} for n in "abc"}
        text = recipe(folder, "emr", models).replace(
            f"{folder}/{broken}\n", f"{tmp_path}/{broken}\n"
        )
        out = merge(text, tmp_path / f"out-{broken}")
        assert not np.isfinite(out["embed"][3, 4:6]).any()
        assert np.isfinite(out["embed"]).sum() == held["embed"].size - 2
