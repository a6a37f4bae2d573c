"""Methods that weigh by statistics of each model, as recipes, against their papers in float64."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from oracles.matrices import fisher, regmean
from support.checkpoints import read_model, write_model
from support.method_models import MODELS, SHAPES, Arrays, merge, wide

from tvmerge.cli import cli
from tvmerge.engine.decisions import Delta
from tvmerge.engine.jobs import Combine
from tvmerge.engine.matrix_devices import VARIABLE
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError, FormatError, TVMergeError
from tvmerge.methods.fisher import Fisher
from tvmerge.methods.regmean import RegMean
from tvmerge.receipts.parsing import read_receipt
from tvmerge.recipe import build, parse_recipe
from tvmerge.replay import replay

torch = pytest.importorskip("torch")
from support.torch_cards import Cards  # noqa: E402 (needs torch)

LAYERS = ("layers.0.w", "layers.1.w")
METHODS = ("fisher", "regmean")
WEIGHTS = (0.5, 2.0, 1.0)


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a, b and c: a folder for each method and model."""
    place = tmp_path_factory.mktemp("statistics")
    generator = np.random.default_rng(8)
    for model in MODELS[1:]:
        squares = {
            name: (generator.standard_normal(shape) ** 2).astype(np.float32)
            for name, shape in SHAPES.items()
        }
        squares["embed"][:3] = 0  # tokens that were never seen
        write_model(place / "fisher" / model, squares)
        inputs = {name: generator.standard_normal((400, SHAPES[name][1])) for name in LAYERS}
        grams = {name: (x.T @ x).astype(np.float32) for name, x in inputs.items()}
        write_model(place / "regmean" / model, grams)
    return place


def recipe(folder: Path, statistics: Path, method: str, models: str = "abc", more: str = "") -> str:
    lines = [f"merge_method: {method}", f"base_model: {folder}/base", "models:"]
    for name, weight in zip(models, WEIGHTS, strict=False):
        lines.append(f"  - model: {folder}/{name}")
        lines.append(f"    statistics: {statistics}/{method}/{name}")
        lines.append(f"    parameters: {{weight: {weight}}}")
    return "\n".join([*lines, more]) + "\n"


def expected(held: dict[str, Arrays], statistics: Path, method: str, name: str) -> np.ndarray:
    """The merged delta of a tensor."""
    shape = SHAPES[name]
    deltas = [(wide(held, m, name) - wide(held, "base", name)).reshape(shape) for m in "abc"]
    known = [read_model(statistics / method / m) for m in "abc"]
    if method == "regmean" and name not in LAYERS:
        return np.asarray(np.average(deltas, axis=0, weights=WEIGHTS))
    own = [one[name].astype(np.float64) for one in known]
    return (fisher if method == "fisher" else regmean)(deltas, own, WEIGHTS)


@pytest.mark.parametrize("method", METHODS)
def test_statistics_go_to_the_card_with_their_deltas(
    folder: Path, statistics: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe(folder, statistics, method)
    here = merge(text, tmp_path / "here")
    cards = Cards(monkeypatch, 1, 2**30)
    monkeypatch.setenv(VARIABLE, "cuda")
    there = merge(text, tmp_path / "there")
    for name, tensor in here.items():
        assert tensor.tobytes() == there[name].tobytes(), name
    assert cards.fetched == (len(SHAPES) if method == "fisher" else len(LAYERS))
    assert len(cards.sent) == 6 * cards.fetched


@pytest.mark.parametrize("method", METHODS)
def test_tensors_come_out_as_the_paper_says(
    folder: Path, held: dict[str, Arrays], statistics: Path, tmp_path: Path, method: str
) -> None:
    text = recipe(folder, statistics, method, more="parameters: {lambda: 0.7}")
    out = merge(text, tmp_path / "out")
    for name in SHAPES:
        found = out[name].astype(np.float64) - held["base"][name]
        wanted = 0.7 * expected(held, statistics, method, name)
        assert np.allclose(found, wanted, rtol=1e-6, atol=1e-6), name
    assert (out["ids"] == np.arange(7)).all()


@pytest.mark.parametrize("method", METHODS)
def test_threads_and_batches_change_no_bit_and_receipts_know_the_statistics(
    folder: Path, statistics: Path, tmp_path: Path, method: str
) -> None:
    text = recipe(folder, statistics, method)
    told: list[tuple[int, int]] = []
    runs = (
        RunOptions(threads=1, progress=lambda *n: told.append(n)),
        RunOptions(threads=3, slice_bytes=4096, batch_bytes=10_000),
    )
    files = []
    for number, options in enumerate(runs):
        merge(text, tmp_path / str(number), options)
        files.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert told == sorted(told) and told[-1][0] == told[-1][1]
    state = build(parse_recipe(Path("r"), text.encode())).state_dict()
    saved = read_model(tmp_path / "0")
    assert all(state[name].numpy().tobytes() == saved[name].tobytes() for name in SHAPES)
    (tmp_path / "recipe.yaml").write_text(text)
    done = CliRunner().invoke(cli, ["merge", f"{tmp_path}/recipe.yaml", f"{tmp_path}/out"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == files[0]
    receipt = read_receipt(tmp_path / "out")
    read = {Path(record.path) for record in receipt.inputs}
    assert {(statistics / method / name).resolve() for name in "abc"} < read
    assert replay(receipt) == ()
    planned = CliRunner().invoke(cli, ["plan", f"{tmp_path}/recipe.yaml", "--json"])
    assert json.loads(planned.output)["matrices"] == (len(SHAPES) if method == "fisher" else 2)


def test_fisher_goes_through_a_tensor_in_parts(
    folder: Path, statistics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe(folder, statistics, "fisher", more="parameters: {lambda: 0.7}")
    whole = merge(text, tmp_path / "whole")
    (tmp_path / "recipe.yaml").write_text(text)
    command = ["plan", f"{tmp_path}/recipe.yaml", "--json"]
    planned = json.loads(CliRunner().invoke(cli, command).output)
    monkeypatch.setattr("tvmerge.engine.jobs.MERGED_PART_ELEMENTS", 1024)
    parts = merge(text, tmp_path / "parts")
    in_parts = json.loads(CliRunner().invoke(cli, command).output)
    assert in_parts["matrices"] == planned["matrices"] == len(SHAPES)
    assert in_parts["matrix_operations"] == planned["matrix_operations"]
    assert in_parts["matrix_bytes"] == 8 * (2 * 3 + 6) * 1024 < planned["matrix_bytes"]
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert tensor.tobytes() == parts[name].tobytes(), name
    receipts = [read_receipt(tmp_path / name) for name in ("whole", "parts")]
    assert receipts[0].tensors == receipts[1].tensors


def test_the_time_of_parts_is_measured_in_their_memory() -> None:
    deltas = tuple(Delta(n, 1.0, statistic=3 + n) for n in (1, 2, 3))
    part = Fisher(0, deltas, 1.0, shape=(1, 2**16), models=3, epsilon=0.0)
    sampled: list[int] = []

    class Watched(Fisher):
        def merged(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
            sampled.extend(len(one.flatten()) for one in parts)
            return super().merged(parts)

    watched = Watched(**{f.name: getattr(part, f.name) for f in dataclasses.fields(part)})
    job = Combine("embed", (), 2**16, ())
    from tvmerge.engine.matrix_merging import estimate_seconds

    estimate_seconds([(job, watched)], RunOptions(threads=1).workspace())
    assert set(sampled) == {2**16}


def test_a_sweep_writes_what_each_lambda_does(
    folder: Path, statistics: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text(recipe(folder, statistics, "regmean"))
    command = ["sweep", f"{tmp_path}/r.yaml", f"{tmp_path}/out", "--scale", "0.5,1,0"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    for scale in ("0.5", "1", "0"):
        text = recipe(folder, statistics, "regmean", more=f"parameters: {{lambda: {scale}}}")
        state = build(parse_recipe(Path("r"), text.encode())).state_dict()
        saved = read_model(tmp_path / "out" / f"scale-{scale}")
        assert all(state[name].numpy().tobytes() == saved[name].tobytes() for name in LAYERS)


def test_a_replay_sees_that_statistics_have_changed(
    folder: Path, statistics: Path, tmp_path: Path
) -> None:
    own = read_model(statistics / "regmean" / "a")
    write_model(tmp_path / "regmean" / "a", own)
    text = recipe(folder, tmp_path, "regmean", "a")
    (tmp_path / "recipe.yaml").write_text(text)
    CliRunner().invoke(cli, ["merge", f"{tmp_path}/recipe.yaml", f"{tmp_path}/out"])
    write_model(tmp_path / "regmean" / "a", {n: 2 * array for n, array in own.items()})
    faults = replay(read_receipt(tmp_path / "out"))
    assert [fault.file for fault in faults] == [f"input {tmp_path}/regmean/a/model.safetensors"]


def weighed(
    kind: type[Fisher | RegMean], arrays: Sequence[np.ndarray], **more: float
) -> np.ndarray:
    """What a method makes of the deltas of two models, and of their statistics."""
    deltas = (Delta(1, 1.0, statistic=3), Delta(2, 1.0, statistic=4))
    rows, columns = arrays[0].shape
    matrix = kind(0, deltas, shape=(rows, columns), models=2, **more)
    return np.asarray(matrix.merged([torch.from_numpy(one) for one in arrays]))


def test_fisher_by_hand() -> None:
    deltas = [np.array([[1.0, 2.0, 4.0]]), np.array([[5.0, 6.0, 0.0]])]
    information = [np.array([[3.0, 0.0, 0.01]]), np.array([[1.0, 0.0, 0.02]])]
    assert np.allclose(weighed(Fisher, [*deltas, *information], epsilon=0.1), [[2.0, 4.0, 2.0]])


def test_regmean_by_hand() -> None:
    """At alpha 1/2 the sum is diag(4, 8) beside an input that is 0 in both models: the mean."""
    deltas = [np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 1.0, 5.0]])]
    grams = np.zeros((2, 3, 3))
    grams[0, :2, :2], grams[1, :2, :2] = [[2, 2], [2, 4]], [[2, -2], [-2, 4]]
    # [1, 0] [[2, 1], [1, 4]] + [0, 1] [[2, -1], [-1, 4]] = [1, 5].
    found = weighed(RegMean, [*deltas, *grams], alpha=0.5)
    assert np.allclose(found, [[1 / 4, 5 / 8, 4.0]])


@pytest.mark.parametrize("method", METHODS)
def test_models_with_the_same_statistics_come_out_as_their_mean(
    folder: Path, held: dict[str, Arrays], statistics: Path, tmp_path: Path, method: str
) -> None:
    text = recipe(folder, statistics, method)
    for name in "bc":
        text = text.replace(f"{method}/{name}", f"{method}/a")
    out = merge(text, tmp_path / "out")
    for name in SHAPES:
        mean = np.average([wide(held, m, name) for m in "abc"], axis=0, weights=WEIGHTS)
        assert np.allclose(out[name].reshape(-1), mean, rtol=1e-6, atol=1e-6), name


def test_a_model_that_is_the_base_counts(
    folder: Path, held: dict[str, Arrays], statistics: Path, tmp_path: Path
) -> None:
    """Under another name, since the base itself has no statistics."""
    (tmp_path / "b").symlink_to(folder / "base")
    (tmp_path / "a").symlink_to(folder / "a")
    (tmp_path / "base").symlink_to(folder / "base")
    out = merge(recipe(tmp_path, statistics, "fisher", "ab"), tmp_path / "out")
    own = [read_model(statistics / "fisher" / m)["norm"].astype(np.float64) for m in "ab"]
    delta = wide(held, "a", "norm") - wide(held, "base", "norm")
    wanted = fisher([delta, 0 * delta], own, WEIGHTS[:2])
    assert np.allclose(out["norm"] - held["base"]["norm"], wanted, atol=1e-6)


def test_linear_layers_that_lie_as_inputs_by_outputs_are_turned(
    folder: Path, held: dict[str, Arrays], statistics: Path, tmp_path: Path
) -> None:
    for name in MODELS:
        config = {"model_type": "gpt2"}
        write_model(tmp_path / name, {n: held[name][n].T for n in LAYERS}, config=config)
    turned = merge(recipe(tmp_path, statistics, "regmean"), tmp_path / "out")
    out = merge(recipe(folder, statistics, "regmean"), tmp_path / "plain")
    for name in LAYERS:
        assert np.allclose(turned[name].T, out[name], rtol=1e-6, atol=1e-7)


def changed(statistics: Path, method: str, place: Path, **arrays: np.ndarray | None) -> None:
    """A copy of the statistics with other tensors, or without, for model b."""
    for model in "abc":
        own = read_model(statistics / method / model)
        if model == "b":
            own |= {name.replace("_", "."): one for name, one in arrays.items()}
        write_model(place / method / model, {n: one for n, one in own.items() if one is not None})


@pytest.mark.parametrize(
    ("method", "arrays", "what"),
    [
        ("fisher", {"norm": None}, r"^r:8: models\.1\.statistics: \S+b has no norm"),
        (
            "fisher",
            {"norm": np.ones(6)},
            r"^r:8: models\.1\.statistics: norm: shape \[6\], F64 in \S+b",
        ),
        ("fisher", {"norms": np.ones(5)}, r"^r:8: .* has norms, .* Did you mean 'norm'\?"),
        ("regmean", {"layers_1_w": None}, r"^r:8: .* has no layers\.1\.w.* has statistics"),
        ("regmean", {"layers_1_w": np.eye(65)}, r"^r:8: .*\[65, 65\].* expected .*\[7, 7\]"),
        ("regmean", {"norm": np.ones(5)}, r"^r:8: .* has norm, which goes with no tensor that"),
    ],
)
def test_what_does_not_fit_is_an_error_with_its_line(
    folder: Path,
    statistics: Path,
    tmp_path: Path,
    method: str,
    arrays: dict[str, np.ndarray | None],
    what: str,
) -> None:
    changed(statistics, method, tmp_path, **arrays)
    with pytest.raises(ConfigError, match=what):
        build(parse_recipe(Path("r"), recipe(folder, tmp_path, method).encode()))


@pytest.mark.parametrize(
    ("method", "arrays", "what"),
    [
        ("fisher", {"norm": np.full(5, np.nan)}, r"norm: \S+ has NaN or infinity, as fisher"),
        ("fisher", {"norm": np.full(5, -1.0)}, r"norm: \S+ has values below 0"),
        ("regmean", {"layers_1_w": -np.eye(7)}, r"layers\.1\.w: .* below 0 in the diagonal"),
        ("regmean", {"layers_1_w": np.triu(np.ones((7, 7)))}, "than its transpose"),
        ("regmean", {"layers_1_w": np.eye(7) + 1e5 * (1 - np.eye(7))}, "a negative eigenvalue"),
    ],
)
def test_values_that_no_statistics_have_are_an_error_that_leaves_nothing(
    folder: Path,
    statistics: Path,
    tmp_path: Path,
    method: str,
    arrays: dict[str, np.ndarray | None],
    what: str,
) -> None:
    changed(statistics, method, tmp_path, **arrays)
    with pytest.raises(FormatError, match=what):
        merge(recipe(folder, tmp_path, method), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recipe_says_statistics_where_they_belong(folder: Path, statistics: Path) -> None:
    text = recipe(folder, statistics, "fisher")
    line = f"    statistics: {statistics}/fisher/b\n"
    of_base = f"  - {{model: {folder}/base, statistics: {statistics}/fisher/a}}\n"
    faults = {
        text.replace(line, ""): r"statistics: missing: \S+b has none, and fisher weighs by them",
        text.replace("models:\n", f"models:\n{of_base}"): r"^r:4: .*the base is not weighed",
        text.replace("merge_method: fisher", "merge_method: tsv"): r"statistics: unknown key",
        text.replace("weight: 2.0", "weight: -1"): "expected 0 or more",
        text.replace("fisher/b", "fisher/nowhere"): "no such file",
    }
    for wrong, what in faults.items():
        with pytest.raises(TVMergeError, match=what):
            build(parse_recipe(Path("r"), wrong.encode()))
    one = recipe(folder, statistics, "regmean", more="parameters: {alpha: 1}")
    with pytest.raises(ConfigError, match="below 1, found 1"):
        build(parse_recipe(Path("r"), one.encode()))
