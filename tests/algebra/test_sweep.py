"""Scale sweeps: each model is the one that a merge of its own writes, from one reading of all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from oracles.arithmetic import random_array
from support.checkpoints import digests, tensor_bytes, write_model

from tvmerge import Checkpoint
from tvmerge.algebra.sweep import folder_name, sweep
from tvmerge.cli import cli
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError, NothingChangedError, OutputError

SCALES = (0.1, 0.3, 1, -0.5, 0)
RECEIPT = "tvmerge_receipt.json"  # says when and how long
CARD = "README.md"


def held(seed: int, dtype: str = "F32") -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    floats = {f"layer.{i}": random_array(generator, dtype, (64, 33), wild=False) for i in range(4)}
    return floats | {"positions": np.arange(5)}


@pytest.fixture(params=["F32", "BF16"])
def models(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Folders base, a and b in the current folder; their dtype."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        write_model(
            tmp_path / name,
            held(seed, request.param),
            shards=2,
            config={"architectures": ["X"], "torch_dtype": "float32"},
        )
    return str(request.param)


def files(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(folder).items() if name != RECEIPT}


def run(*args: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == exit_code, result.output
    return result


@pytest.mark.parametrize("dtype", [None, "F16"])
def test_every_scale_is_byte_for_byte_its_own_merge(models: str, dtype: str | None) -> None:
    base, a, b = map(Checkpoint, ("base", "a", "b"))
    edit = 0.5 * (a - base) - 2 * (b - base)
    reports = sweep(base + edit, SCALES, "out", dtype=dtype)
    for scale, report in zip(SCALES, reports, strict=True):
        name = folder_name(scale)
        (base + scale * edit).save(Path("own") / name, dtype=dtype)
        assert files(Path("out") / name) == files(Path("own") / name)
        assert report.out == f"out/{name}"
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(map(folder_name, SCALES))


def test_scale_zero_is_the_base(models: str) -> None:
    base, a = Checkpoint("base"), Checkpoint("a")
    sweep(base + (a - base), [0, 1], "out")
    for file in Path("base").glob("*.safetensors"):
        assert tensor_bytes(Path("out/scale-0") / file.name) == tensor_bytes(file)


def test_scales_count_from_the_start_that_is_given(models: str) -> None:
    base, a, b = map(Checkpoint, ("base", "a", "b"))
    start = base + 0.5 * (a - base)
    sweep(start - (b - base), [0.25, 2], "out", start=start)
    for scale in (0.25, 2):
        name = folder_name(scale)
        (start - scale * (b - base)).save(Path("own") / name)
        assert files(Path("out") / name) == files(Path("own") / name)
    with pytest.raises(ConfigError, match=r"the start has the layout of .*a, the expression"):
        sweep(base + (b - base), [1], "other", start=a)


def test_inputs_are_read_once_whatever_the_number_of_scales(models: str) -> None:
    base, a = Checkpoint("base"), Checkpoint("a")
    merged = base + (a - base)
    read = sum(len(tensor_bytes(f)) for name in ("base", "a") for f in Path(name).glob("*.saf*"))
    written = read // 2
    (one,) = sweep(merged, [0.5], "one")
    many = sweep(merged, [0.1, 0.2, 0.3, 0.4, 0.5], "many")
    assert one.bytes_moved == read + written
    assert {report.bytes_moved for report in many} == {read + 5 * written}


@pytest.mark.parametrize(
    ("scales", "error"),
    [
        ([], "no scale is given"),
        ([0.1, 0.3, 0.1], "scale 0.1 is given twice"),
        ([0, -0.0], "scale 0 is given twice"),
        ([0.5, float("nan")], "scale nan: expected a finite number"),
        ([float("-inf")], "scale -inf: expected a finite number"),
    ],
)
def test_scales_without_a_meaning_are_refused_and_nothing_is_written(
    models: str, scales: list[float], error: str
) -> None:
    base, a = Checkpoint("base"), Checkpoint("a")
    with pytest.raises(ConfigError, match=error):
        sweep(base + (a - base), scales, "out")
    assert sorted(path.name for path in Path().iterdir()) == ["a", "b", "base"]


def test_a_sweep_of_what_adds_nothing_is_refused(models: str) -> None:
    Path("recipe.yaml").write_text("merge_method: passthrough\nmodels: [{model: a}]\n")
    refused = run("sweep", "recipe.yaml", "out", "--scale", "0,0.5", exit_code=2)
    assert "all scales would give the same" in refused.output
    with pytest.raises(ConfigError, match="all scales would give the same"):
        sweep(Checkpoint("base"), [0.5], "out")
    assert not Path("out").exists()


def test_one_scale_of_which_nothing_is_left_takes_the_whole_sweep_with_it(models: str) -> None:
    base, a = Checkpoint("base"), Checkpoint("a")
    with pytest.raises(NothingChangedError, match="out/scale-1e-30"):
        sweep(base + (a - base), [0.5, 1e-30], "out")
    assert sorted(path.name for path in Path().iterdir()) == ["a", "b", "base"]


def test_scales_that_differ_have_folders_that_differ() -> None:
    names = [folder_name(scale) for scale in (0.1 + 0.2, 0.3, 1, -0.5, 1e-5, 1e22, 0.0)]
    assert names == [
        "scale-0.30000000000000004", "scale-0.3", "scale-1", "scale--0.5", "scale-1e-05",
        "scale-1e+22", "scale-0",
    ]  # fmt: skip


RECIPE = """
merge_method: task_arithmetic
base_model: base
parameters: {{lambda: {lambda_}}}
models:
  - {{model: a, parameters: {{weight: 0.5}}}}
  - {{model: b, parameters: {{weight: -0.25}}}}
"""


def test_the_command_multiplies_lambda(models: str) -> None:
    Path("recipe.yaml").write_text(RECIPE.format(lambda_=0.5))
    output = run("sweep", "recipe.yaml", "out", "--scale", "0.2,1", "--scale", "-3").output
    assert "Wrote 3 models below out" in output
    assert "scale-0.2    0.2" in output
    for scale in (0.2, 1, -3):
        Path("own.yaml").write_text(RECIPE.format(lambda_=0.5 * scale))
        name = folder_name(scale)
        run("merge", "own.yaml", f"own/{name}", "--quiet")
        swept, own = files(Path("out") / name), files(Path("own") / name)
        assert swept.pop(CARD) != own.pop(CARD)  # each holds the recipe that it was made by
        assert swept == own
        card = (Path("out") / name / CARD).read_text()
        assert "# tvmerge sweep at the scales 0.2, 1.0, -3.0 of\n" in card


def test_the_command_answers_with_a_report_for_every_scale(models: str) -> None:
    Path("recipe.yaml").write_text(RECIPE.format(lambda_=1))
    said = json.loads(run("sweep", "recipe.yaml", "out", "--scale", "0.5,1", "--json").stdout)
    assert said["scales"] == [0.5, 1]
    assert [model["out"] for model in said["models"]] == ["out/scale-0.5", "out/scale-1"]
    assert all(model["edit_cosine"] > 0.99 for model in said["models"])
    assert run("sweep", "recipe.yaml", "quiet", "--scale", "0.5", "--quiet").output == ""


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ([], "Missing option '--scale'"),
        (["--scale", "0.1,,0.2"], "'': expected finite numbers, separated by commas"),
        (["--scale", "0.1", "--scale", "x"], "'x': expected finite numbers"),
        (["--scale", "inf"], "'inf': expected finite numbers"),
        (["--scale", "0.1,0.10"], "scale 0.1 is given twice"),
    ],
)
def test_the_command_refuses_scales_without_a_meaning(
    models: str, args: list[str], error: str
) -> None:
    Path("recipe.yaml").write_text(RECIPE.format(lambda_=1))
    assert error in run("sweep", "recipe.yaml", "out", *args, exit_code=2).output
    assert not Path("out").exists()


def test_every_model_has_a_receipt_that_holds_and_can_be_replayed(models: str) -> None:
    Path("recipe.yaml").write_text(RECIPE.format(lambda_=1))
    run("sweep", "recipe.yaml", "out", "--scale", "0.5,1,0")
    for scale in ("0.5", "1", "0"):
        folder = f"out/scale-{scale}"
        receipt = json.loads((Path(folder) / RECEIPT).read_text())
        text = receipt["recipe"]["text"]
        assert text == f"# tvmerge sweep at the scales 0.5, 1.0, 0.0 of\n{RECIPE.format(lambda_=1)}"
        run("verify", folder)
        run("verify", folder, "--replay")


def test_an_unfinished_sweep_is_continued_by_the_same_one_only(models: str) -> None:
    base, a = Checkpoint("base"), Checkpoint("a")
    merged = base + (a - base)

    def cut_off(done: int, of: int) -> None:
        if 2 * done > of:
            raise KeyboardInterrupt

    small = 4096  # bytes of output in a batch: several of them
    with pytest.raises(KeyboardInterrupt, match="run the same command again"):
        sweep(merged, [0.5, 1], "out", options=RunOptions(batch_bytes=small, progress=cut_off))
    assert not Path("out").exists()
    with pytest.raises(OutputError, match="unfinished merge that this one cannot continue"):
        sweep(merged, [0.5, 2], "out", options=RunOptions(batch_bytes=small))
    reports = sweep(merged, [0.5, 1], "out", options=RunOptions(batch_bytes=small))
    assert reports[0].resumed_bytes > 0
    merged.save("own/scale-1")
    assert files(Path("out/scale-1")) == files(Path("own/scale-1"))
