"""Methods that merge deltas as whole matrices, as recipes, against their papers in float64."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from oracles.matrices import ethos, iso_c, iso_cts, pcb, tsv, wudi
from support.checkpoints import read_model, write_model
from support.method_models import MODELS, SHAPES, Arrays, matrix_of, merge, recipe, wide

from tvmerge.cli import cli
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError, FormatError, MemoryLimitError
from tvmerge.files.kept import place
from tvmerge.methods.tsv import Tsv
from tvmerge.receipts.parsing import read_receipt
from tvmerge.recipe import build, parse_recipe
from tvmerge.replay import replay

torch = pytest.importorskip("torch")
LAYERS = ("layers.0.w", "layers.1.w")
# The oracle, and what a recipe says beside the models.
METHODS: dict[str, tuple[Callable[..., np.ndarray], dict[str, float]]] = {
    "tsv": (tsv, {}),
    "iso_c": (iso_c, {}),
    "iso_cts": (partial(iso_cts, fraction=0.6), {"common_space_fraction": 0.6}),
    "wudi": (
        partial(wudi, iterations=30, rate=1e-3),
        {"iterations": 30, "learning_rate": 1e-3},
    ),
    "pcb": (partial(pcb, ratio=0.3), {"ratio": 0.3}),
    "ethos": (partial(ethos, xi=0.3), {"xi": 0.3}),
}
OF_ALL = ("pcb",)  # which takes tensors of any shape
OF_BASE = ("ethos",)  # which looks at the base's matrix too, and adds up what is no matrix


def deltas_of(held: dict[str, Arrays], name: str, models: str = "abc") -> list[np.ndarray]:
    shape = SHAPES[name]
    return [(wide(held, m, name) - wide(held, "base", name)).reshape(shape) for m in models]


def plainly(method: str, deltas: list[np.ndarray]) -> np.ndarray:
    """What is made of tensors that are no matrices."""
    return np.asarray((np.sum if method in OF_BASE else np.mean)(deltas, axis=0))


def expected(
    method: str, deltas: list[np.ndarray], held: dict[str, Arrays], name: str
) -> np.ndarray:
    if name not in LAYERS and method not in OF_ALL:
        return plainly(method, deltas)
    base = {"base": held["base"][name].astype(np.float64)} if method in OF_BASE else {}
    return METHODS[method][0](deltas, **base)


def edit(out: Arrays, held: dict[str, Arrays], name: str) -> np.ndarray:
    return np.asarray(out[name].astype(np.float64) - held["base"][name])


def plain(folder: Path, method: str, models: str = "abc", **more: float) -> str:
    return recipe(folder, method, {name: {} for name in models}, **METHODS[method][1], **more)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("models", ["abc", "ab", "a"])
def test_matrices_come_out_as_the_paper_says_and_all_else_plainly(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str, models: str
) -> None:
    out = merge(plain(folder, method, models, **{"lambda": 0.7}), tmp_path / "out")
    for name in SHAPES:
        deltas = deltas_of(held, name, models)
        whole = expected(method, deltas, held, name)
        assert np.allclose(edit(out, held, name), 0.7 * whole, rtol=1e-6, atol=1e-6), name
    assert (out["ids"] == np.arange(7)).all()


@pytest.mark.parametrize("method", METHODS)
def test_weights_multiply_the_deltas_first(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str
) -> None:
    weights = {"a": {"weight": 0.5}, "b": {"weight": -2.0}, "c": {"weight": 0.0}}
    out = merge(recipe(folder, method, weights, **METHODS[method][1]), tmp_path / "out")
    for name in SHAPES:
        a, b = deltas_of(held, name, "ab")
        whole = expected(method, [0.5 * a, -2 * b], held, name)
        assert np.allclose(edit(out, held, name), whole, rtol=1e-6, atol=1e-6), name


@pytest.mark.parametrize("method", METHODS)
def test_neither_the_order_of_the_models_matters_nor_a_sign_of_all(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str
) -> None:
    outs = {
        "there": merge(plain(folder, method, "abc"), tmp_path / "there"),
        "back": merge(plain(folder, method, "cba"), tmp_path / "back"),
    }
    taken = {m: {"weight": -1.0} for m in "abc"}
    minus = merge(recipe(folder, method, taken, **METHODS[method][1]), tmp_path / "minus")
    for name in SHAPES:
        there = edit(outs["there"], held, name)
        assert np.allclose(there, edit(outs["back"], held, name), rtol=1e-6, atol=1e-6)
        assert np.allclose(there, -edit(minus, held, name), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_lambda_0_gives_the_base_byte_for_byte(
    folder: Path, held: dict[str, Arrays], method: str
) -> None:
    model = build(parse_recipe(Path("r"), plain(folder, method, **{"lambda": 0.0}).encode()))
    state = model.state_dict()
    for name in SHAPES:
        assert state[name].numpy().tobytes() == held["base"][name].tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_threads_batches_and_instruction_sets_change_no_bit_and_a_replay_finds_the_same(
    folder: Path, tmp_path: Path, method: str
) -> None:
    text = plain(folder, method)
    runs = (
        RunOptions(threads=1),
        RunOptions(threads=3, slice_bytes=4096, batch_bytes=10_000),
        RunOptions(threads=2, isa="generic"),
    )
    held = []
    for number, options in enumerate(runs):
        merge(text, tmp_path / str(number), options)
        held.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert held[1:] == held[:-1]
    (tmp_path / "recipe.yaml").write_text(text)
    done = CliRunner().invoke(cli, ["merge", f"{tmp_path}/recipe.yaml", f"{tmp_path}/out"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == held[0]
    threads = torch.get_num_threads()
    receipt = read_receipt(tmp_path / "out")
    assert receipt.run["torch"] == torch.__version__
    assert replay(receipt) == ()
    assert torch.get_num_threads() == threads


def test_a_state_dict_has_the_bytes_that_are_saved(folder: Path, tmp_path: Path) -> None:
    model = build(parse_recipe(Path("r"), plain(folder, "tsv").encode()))
    model.save(tmp_path / "out", dtype="bfloat16")
    state, saved = model.state_dict(dtype="bfloat16"), read_model(tmp_path / "out")
    for name in SHAPES:
        assert state[name].view(torch.int16).numpy().tobytes() == saved[name].tobytes()


def test_the_defaults_are_those_of_the_papers(
    folder: Path, held: dict[str, Arrays], tmp_path: Path
) -> None:
    defaults = {
        "iso_cts": iso_cts(deltas_of(held, "layers.1.w"), 0.8),
        "wudi": wudi(deltas_of(held, "layers.1.w"), 300, 1e-5),
        "pcb": pcb(deltas_of(held, "layers.1.w"), 0.1),
        "ethos": ethos(deltas_of(held, "layers.1.w"), held["base"]["layers.1.w"], 0.03),
    }
    for method, wanted in defaults.items():
        out = merge(recipe(folder, method, {name: {} for name in "abc"}), tmp_path / method)
        assert np.allclose(edit(out, held, "layers.1.w"), wanted, rtol=1e-6, atol=1e-6)


def test_an_interrupted_merge_goes_on_and_nothing_is_left(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path / "cache"))

    def stop(moved: int, whole: int) -> None:
        if moved > whole // 2:
            raise KeyboardInterrupt

    def options(progress: Callable[[int, int], None] | None = None) -> RunOptions:
        return RunOptions(batch_bytes=10_000, threads=1, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        merge(plain(folder, "tsv"), tmp_path / "out", options(stop))
    merge(plain(folder, "tsv"), tmp_path / "out", options())
    assert read_receipt(tmp_path / "out").run["resumed_bytes"] > 0
    merge(plain(folder, "tsv"), tmp_path / "whole", options())
    files = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("out", "whole")]
    assert files[0] == files[1]
    assert place().parent == tmp_path / "cache" and not any(place().parent.iterdir())


def test_progress_ends_at_the_whole(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    merge(plain(folder, "tsv"), tmp_path / "out", RunOptions(progress=lambda *n: told.append(n)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    assert any(0 < moved < whole / 2 for moved, whole in told)  # matrix by matrix


def test_deltas_that_are_not_finite_are_an_error_that_leaves_nothing(
    folder: Path, tmp_path: Path
) -> None:
    held = read_model(folder / "a")
    broken = held["layers.1.w"].copy()
    broken[3, 2] = np.nan
    write_model(tmp_path / "broken", {**held, "layers.1.w": broken})
    text = plain(folder, "tsv", "c").replace(f"{folder}/c", f"{tmp_path}/broken")
    with pytest.raises(FormatError, match=r"layers\.1\.w: .*broken.* is not finite everywhere"):
        merge(text, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_limit_that_a_matrix_does_not_fit_is_an_error_before_anything_is_made(
    tmp_path: Path,
) -> None:
    generator = np.random.default_rng(1)
    for name in MODELS[:3]:
        array = generator.standard_normal((800, 900)).astype(np.float32)
        write_model(tmp_path / name, {"layers.0.w": array})
    (tmp_path / "r.yaml").write_text(plain(tmp_path, "tsv", "ab"))
    command = [sys.executable, "-m", "tvmerge", "merge", str(tmp_path / "r.yaml")]

    def run(memory_mib: int, out: str) -> tuple[int, str, int]:
        code = "import os, resource, subprocess, sys; done = subprocess.run(sys.argv[1:]);"
        code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        code += "; sys.exit(done.returncode)"
        more = [str(tmp_path / out), "--quiet", "--memory", str(memory_mib)]
        done = subprocess.run(
            [sys.executable, "-c", code, *command, *more], capture_output=True, text=True
        )
        return done.returncode, done.stderr, int(done.stdout)

    status, error, _ = run(330, "small")
    assert status == MemoryLimitError.exit_code
    assert "tsv takes" in error and "layers.0.w (800 x 900, 2 models)" in error
    assert not (tmp_path / "small").exists()
    enough = int(error.split("Give at least ")[1].split()[0])
    status, error, peak_kib = run(enough + 8, "out")
    assert status == 0, error
    assert peak_kib <= (enough + 8) * 1024


def test_without_torch_the_error_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    def gone(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", gone)
    with pytest.raises(ConfigError, match=r"tsv needs torch.*pip install 'tvmerge\[torch\]'"):
        merge(plain(folder, "tsv"), tmp_path / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("method", sorted(METHODS.keys() - OF_ALL))
def test_what_is_no_matrix_of_a_layer_is_merged_plainly(tmp_path: Path, method: str) -> None:
    """Embeddings, heads, vectors, stacks of matrices, and what has fewer rows than models."""
    shapes = {"embed_tokens.weight": (9, 8), "lm_head.weight": (9, 8), "layers.0.norm": (8,)}
    shapes |= {"layers.0.experts": (4, 5, 6), "layers.0.gate": (2, 8)}
    generator = np.random.default_rng(4)
    for name in MODELS:
        arrays = {key: generator.standard_normal(shape) for key, shape in shapes.items()}
        write_model(tmp_path / name, {k: a.astype(np.float32) for k, a in arrays.items()})
    out = merge(plain(tmp_path, method), tmp_path / "out")
    models = {name: read_model(tmp_path / name) for name in MODELS}
    for key in shapes:
        base = models["base"][key].astype(np.float64)
        deltas = [models[name][key] - base for name in "abc"]
        assert np.allclose(out[key], base + plainly(method, deltas), atol=1e-6), key


@pytest.mark.parametrize("method", METHODS)
def test_linear_layers_that_lie_as_inputs_by_outputs_are_turned(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str
) -> None:
    for name in MODELS:
        config = {"model_type": "gpt2"}
        write_model(tmp_path / name, {n: held[name][n].T for n in LAYERS}, config=config)
    turned = merge(plain(tmp_path, method), tmp_path / "out")
    out = merge(plain(folder, method), tmp_path / "plain")
    for name in LAYERS:
        assert np.allclose(turned[name].T, out[name], rtol=1e-6, atol=1e-7)


def test_a_plan_states_the_cost(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(plain(folder, "tsv"))
    done = CliRunner().invoke(cli, ["plan", f"{tmp_path}/r.yaml", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["matrices"] == len(LAYERS)
    kinds = [matrix_of(Tsv, SHAPES[name], 3) for name in LAYERS]
    assert found["matrix_operations"] == sum(kind.operations for kind in kinds)
    assert found["matrix_bytes"] == max(kind.held_bytes for kind in kinds)
    assert 0 < found["estimate"]["matrix_seconds"] < found["estimate"]["seconds"]
    text = CliRunner().invoke(cli, ["plan", f"{tmp_path}/r.yaml", "--no-probe"]).output
    assert "matrices 2 of these by torch" in text
    small = ["plan", f"{tmp_path}/r.yaml", "--memory", "100"]
    assert CliRunner().invoke(cli, small).exit_code == MemoryLimitError.exit_code


@pytest.mark.parametrize("value", [1.1, -0.1])
def test_iso_cts_refuses_what_is_no_share(folder: Path, value: float) -> None:
    models: dict[str, dict[str, float]] = {"a": {}}
    text = recipe(folder, "iso_cts", models, common_space_fraction=value)
    with pytest.raises(ConfigError, match=f"expected a share from 0 to 1, found {value}"):
        build(parse_recipe(Path("r"), text.encode()))
