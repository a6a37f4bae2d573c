"""The command line: what each command does and prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.small_checkpoints import EMBEDDING, POSITIONS, Tensors, read, tensors, write

import tvmerge.cli
from tvmerge.cli import COMMANDS, cli

Held = dict[str, Tensors]
LAYER = "model.layers.0.mlp.weight"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Held:
    """Folders base, a and b in the current folder, and what they hold."""
    monkeypatch.chdir(tmp_path)
    held = {name: tensors(seed) for seed, name in enumerate(("base", "a", "b"))}
    for name, content in held.items():
        write(tmp_path / name, content)
    return held


def run(*args: str) -> Result:
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0, result.output
    return result


def answer(*args: str) -> dict[str, Any]:
    parsed = json.loads(run(*args, "--json").stdout)
    assert isinstance(parsed, dict)
    return parsed


def test_version_is_one_line() -> None:
    assert run("--version").output == f"tvmerge {tvmerge.__version__}\n"


def test_module_runs_as_the_command() -> None:
    command = [sys.executable, "-m", "tvmerge", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"tvmerge {tvmerge.__version__}\n"


def test_help_lists_commands_and_exit_codes() -> None:
    output = run("--help").output
    assert all(name in output for name in COMMANDS)
    assert [
        line.split()[0]
        for line in output.split("Exit codes:")[1].splitlines()
        if line.strip() and not line.startswith("     ")
    ] == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "130"]


def test_vector_is_stored_and_added_again(models: Held) -> None:
    report = answer("vector", "base", "a", "va")
    assert report["combined_tensors"] == 3
    stored = read(Path("va"), "vector")
    assert np.array_equal(stored[LAYER], models["a"][LAYER] - models["base"][LAYER])
    run("apply", "base", "out", "--add", "va")
    assert np.allclose(read(Path("out"))[LAYER], models["a"][LAYER], atol=1e-6)


def test_vector_takes_a_dtype(models: Held) -> None:
    run("vector", "base", "a", "va", "--dtype", "float16")
    assert read(Path("va"), "vector")[LAYER].dtype == np.float16


def test_apply_sums_vectors_and_checkpoints_with_scales(models: Held) -> None:
    run("vector", "base", "a", "va")
    report = answer("apply", "base", "out", "--add", "va=0.5", "--subtract", "b=0.25", "--add", "a")
    base, a, b = (models[name][LAYER].astype(np.float64) for name in ("base", "a", "b"))
    expected = base + 1.5 * (a - base) - 0.25 * (b - base)
    out = read(Path("out"))
    assert np.allclose(out[LAYER], expected, atol=1e-5)
    assert np.array_equal(out[POSITIONS], models["base"][POSITIONS])
    assert report["copied_tensors"] == 1
    assert report["gb_per_second"] > 0
    assert Path("out/tokenizer.json").read_bytes() == Path("base/tokenizer.json").read_bytes()


def test_apply_takes_a_path_with_an_equals_sign(models: Held) -> None:
    Path("a").rename("lr=0.5")
    run("apply", "base", "whole", "--add", "lr=0.5")
    assert np.allclose(read(Path("whole"))[LAYER], models["a"][LAYER], atol=1e-6)
    run("apply", "base", "half", "--add", "lr=0.5=0.5")
    half = (models["a"][LAYER] + models["base"][LAYER]) / 2
    assert np.allclose(read(Path("half"))[LAYER], half, atol=1e-6)


def test_apply_with_scale_zero_returns_base_bytes(models: Held) -> None:
    run("apply", "base", "out", "--add", "a=0")
    assert Path("out/model.safetensors").read_bytes() == Path("base/model.safetensors").read_bytes()


def test_apply_writes_the_asked_dtype_and_declares_it(models: Held) -> None:
    run("apply", "base", "out", "--add", "a", "--dtype", "F16")
    assert read(Path("out"))[LAYER].dtype == np.float16
    assert json.loads(Path("out/config.json").read_text())["torch_dtype"] == "float16"


def test_merge_runs_a_recipe(models: Held) -> None:
    Path("recipe.yaml").write_text(
        "merge_method: task_arithmetic\nbase_model: base\nout_dtype: float64\n"
        "models:\n  - {model: a, parameters: {weight: -0.5}}\n"
    )
    output = run("merge", "recipe.yaml", "out").output
    assert "Wrote out" in output
    assert "3 tensors combined" in output
    out = read(Path("out"))[LAYER]
    base, a = (models[name][LAYER].astype(np.float64) for name in ("base", "a"))
    assert out.dtype == np.float64
    assert np.allclose(out, base - 0.5 * (a - base))


def test_quiet_merge_prints_nothing(models: Held) -> None:
    assert run("apply", "base", "out", "--add", "a", "--quiet").output == ""


def test_integer_tensors_that_differ_are_a_warning(models: Held) -> None:
    write(Path("other"), models["a"] | {POSITIONS: np.arange(4) + 1})
    result = run("apply", "base", "out", "--add", "other")
    assert (
        "Warning: 1 integer tensors differ between the inputs and were taken from the base: "
        + POSITIONS
        in result.output
    )
    report = json.loads(
        subprocess.run(
            [sys.executable, "-m", "tvmerge", "apply", "base", "out2", "--add", "other", "--json"],
            capture_output=True,
            check=True,
        ).stdout
    )
    assert report["differing_tensors"] == [POSITIONS]


def test_an_edit_that_rounding_mostly_takes_back_is_a_warning(models: Held) -> None:
    base = {"w": np.full((4, 100), 1, np.float32)}
    write(Path("flat"), base)
    tuned = base["w"] + np.float32(2**-12)
    tuned[:1] = 2
    write(Path("bent"), {"w": tuned})
    done = run("apply", "flat", "out", "--add", "bent=0.1", "--dtype", "float16")
    assert "Warning: out: rounding to the output's dtype left 75.0% of the 400 elem" in done.output
    assert (
        answer("apply", "flat", "out2", "--add", "bent=0.1", "--dtype", "F64")["lost_elements"] == 0
    )


def test_what_an_interrupted_command_left_is_discarded_by_restart(models: Held) -> None:
    Path(".out.unfinished").mkdir()
    Path(".out.unfinished/.journal").write_text("of another time\n")
    Path(".out.unfinished/model.safetensors.part").write_text("work")
    refused = CliRunner().invoke(cli, ["apply", "base", "out", "--add", "a"])
    assert refused.exit_code == 5
    assert "--restart" in refused.output
    run("apply", "base", "out", "--add", "a", "--restart", "--sync")
    assert not Path(".out.unfinished").exists()


def test_inspect_tells_what_is_there(models: Held) -> None:
    found = answer("inspect", "base")
    assert found["kind"] == "checkpoint"
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["parameters"] == 32 * 8 + 2 * 8 * 8 + 4
    assert found["dtypes"] == {"F32": 32 * 8 + 2 * 8 * 8, "I64": 4}
    assert found["layers"] == {"model.layers": 2}
    assert found["bytes"] == Path("base/model.safetensors").stat().st_size
    row = next(row for row in found["tensors"] if row["name"] == EMBEDDING)
    assert row == {"name": EMBEDDING, "dtype": "F32", "shape": [32, 8], "bytes": 1024}
    assert EMBEDDING not in run("inspect", "base").output
    assert f"{EMBEDDING}    F32   32x8  1,024" in run("inspect", "base", "--tensors").output


def test_inspect_tells_a_vector_and_a_bare_file(models: Held) -> None:
    run("vector", "base", "a", "va")
    assert answer("inspect", "va")["kind"] == "task vector"
    Path("base/model.safetensors").rename("bare.safetensors")
    assert answer("inspect", "bare.safetensors")["architecture"] is None


def test_diff_measures_the_move(models: Held) -> None:
    write(Path("near"), models["base"] | {LAYER: models["base"][LAYER] * 2})
    found = answer("diff", "base", "near")
    assert found["same"] is False
    assert found["total"]["changed_elements"] == 64
    layer = next(part for part in found["layers"] if part["name"] == "model.layers.0")
    assert layer["changed_share"] == 1.0
    assert layer["relative_change"] == pytest.approx(1.0)
    assert layer["cosine"] == pytest.approx(1.0)
    assert layer["norm_a"] == pytest.approx(np.linalg.norm(models["base"][LAYER]))
    assert len(found["tensors"]) == 3
    output = run("diff", "base", "near").output
    assert "model.layers.0 " in output
    assert LAYER not in output
    assert LAYER in run("diff", "base", "near", "--tensors").output


def test_diff_of_the_same_says_so_and_exits_0(models: Held) -> None:
    write(Path("again"), models["base"])
    assert answer("diff", "base", "again")["same"] is True
    assert "same tensors with the same values" in run("diff", "base", "again").output


def test_diff_lists_what_cannot_be_compared(models: Held) -> None:
    other = dict(models["base"])
    other["extra"] = other.pop(LAYER)
    other[EMBEDDING] = np.zeros((31, 8), np.float32)
    other["model.layers.1.mlp.weight"] = np.zeros((8, 8), np.float32)
    write(Path("other"), other)
    found = answer("diff", "base", "other")
    assert found["only_in_a"] == [LAYER]
    assert found["only_in_b"] == ["extra"]
    assert found["not_comparable"] == [f"{EMBEDDING}: [32, 8] against [31, 8]"]
    assert found["total"]["cosine"] is None  # a norm of 0: JSON has no NaN
    assert f"only in A (1):\n  {LAYER}\n" in run("diff", "base", "other").output


def test_output_loads_with_safetensors_and_has_no_leftovers(models: Held) -> None:
    run("apply", "base", "new/place/out", "--add", "a")
    names = sorted(path.name for path in Path("new/place/out").iterdir())
    assert names == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tvmerge_receipt.json",
    ]
    assert [path.name for path in Path("new/place").iterdir()] == ["out"]
    assert read(Path("new/place/out")).keys() == models["base"].keys()


def test_model_names_go_through_the_hub(models: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, inner = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.utils")

    def snapshot(name: str, **_options: object) -> str:
        return str(Path(name.split("/")[1]).resolve())

    hub.snapshot_download = snapshot  # type: ignore[attr-defined]
    inner.disable_progress_bars = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", inner)
    run("apply", "org/base", "out", "--add", "org/a=1", "--subtract", "org/b")
    run("vector", "org/base", "org/a", "va")
    assert answer("diff", "org/base", "org/base")["same"] is True
    assert answer("inspect", "org/a")["kind"] == "checkpoint"


def test_missing_package_of_the_study_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    broken = ModuleType("broken_command")

    @click.command()
    def study() -> None:
        import torch  # noqa: F401

    broken.study = study  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_command", broken)
    target = tvmerge.cli._Target("broken_command:study", "")
    monkeypatch.setitem(COMMANDS, "study", target)
    result = CliRunner().invoke(cli, ["study"])
    assert result.exit_code == 1
    assert "needs the package torch, which is not installed" in result.output
    assert "pip install 'tvmerge[study]'" in result.output


def test_what_mergekit_passes_over_is_passed_over_on_demand_and_told(models: Held) -> None:
    Path("r.yaml").write_text(
        "merge_method: linear\nmodels: [{model: base}, {model: a}]\n"
        "parameters: {weight: [{filter: nowhere, value: 9}, {value: 1}], density: 0.5}\n"
    )
    refused = CliRunner().invoke(cli, ["merge", "r.yaml", "out"])
    assert refused.exit_code == 2
    assert "r.yaml:3: parameters.density: unknown parameter." in refused.output
    assert "as --lenient does" in refused.output
    for command in (
        ["plan", "r.yaml"],
        ["merge", "r.yaml", "out"],
        ["sweep", "r.yaml", "scales", "--scale", "1"],
    ):
        told = run(*command, "--lenient").stderr
        assert "Warning: passed over: r.yaml:3: parameters.density: unknown parameter" in told
        assert "the filter 'nowhere' matches no tensor" in told
    half = (models["a"][LAYER] + models["base"][LAYER]) / 2
    assert np.allclose(read(Path("out"))[LAYER], half, atol=1e-6)
    run("verify", "out", "--replay")
