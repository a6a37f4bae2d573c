"""`tvmerge plan`: what a merge will take, and the refusals that the merge itself would give."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.small_checkpoints import EMBEDDING, tensors, write

from tvmerge.cli import cli

RECIPE = """
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: -0.5}}
  - {model: b, parameters: {weight: 0.25}}
"""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders base, a and b and a recipe, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        write(tmp_path / name, tensors(seed))
    Path("recipe.yaml").write_text(RECIPE)


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def answer(*args: str) -> dict[str, Any]:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    parsed = json.loads(result.stdout)
    assert isinstance(parsed, dict)
    return parsed


def test_plan_says_what_the_merge_then_does() -> None:
    before = sorted(Path().rglob("*"))
    found = answer("plan", "recipe.yaml", "out")
    assert sorted(Path().rglob("*")) == before
    report = answer("merge", "recipe.yaml", "out")
    assert found["coefficients"] == report["coefficients"]
    assert found["combined"] == report["combined_tensors"]
    assert found["copied"] == {"not floating-point": report["copied_tensors"]}
    size = Path("out/model.safetensors").stat().st_size
    assert found["disk_needed_bytes"] == found["bytes_written"] == size
    assert found["shards"] == {"model.safetensors": size}
    assert found["passes"] == 1
    assert found["dtypes"] == {"F32": 3, "I64": 1}
    assert found["estimate"]["seconds"] > 0
    assert found["estimate"]["uncached_bytes"] == 0  # written a moment ago
    assert found["memory_bytes"] <= found["memory_limit_bytes"] == 8192 * 1024 * 1024


def test_plan_of_a_base_and_terms_is_that_of_the_recipe() -> None:
    terms = ("base", "--subtract", "a=0.5", "--add", "b=0.25")
    one, two = answer("plan", *terms, "--no-probe"), answer("plan", "recipe.yaml", "--no-probe")
    differ = {key for key in one if one[key] != two[key]}
    assert differ <= {"config", "memory_bytes", "buffer_bytes", "disk_free_bytes"}
    assert one["estimate"] is None


def test_plan_takes_the_dtype_to_write() -> None:
    found = answer("plan", "base", "--add", "a", "--dtype", "bfloat16", "--no-probe")
    assert found["dtypes"] == {"BF16": 3, "I64": 1}


def test_summary_names_every_part() -> None:
    output = run("plan", "recipe.yaml", "out").output
    for part in ("+1.25 * ", "-0.5 * ", "one pass", "3 combined, 1 copied (not floating-point)",
                 "float32 (3)", "needed", "limit 8192 MiB", "time     about"):  # fmt: skip
        assert part in output, output
    assert "time" not in run("plan", "recipe.yaml", "--no-probe").output


def test_quiet_plan_prints_nothing_and_still_judges() -> None:
    assert run("plan", "recipe.yaml", "--quiet", "--no-probe").output == ""
    assert run("plan", "recipe.yaml", "base", "--quiet", "--no-probe").exit_code == 5


def test_every_mismatch_is_listed() -> None:
    held = tensors(1)
    other = {f"{name}.renamed": tensor for name, tensor in held.items()}
    other[EMBEDDING] = np.zeros((31, 8), np.float32)
    write(Path("other"), other)
    Path("recipe.yaml").write_text(RECIPE.replace("model: b,", "model: other,"))
    result = run("plan", "recipe.yaml", "out")
    assert result.exit_code == 4
    for name in held:
        assert f"  {name}: " in result.output
        assert f"  {name}.renamed: in " in result.output
    assert "more" not in result.output
    assert "and 3 more" in run("merge", "recipe.yaml", "out").output


@pytest.mark.parametrize("out", ["base", "base/inside", "recipe.yaml", "recipe.yaml/inside"])
def test_destination_that_cannot_be_is_refused_as_by_the_merge(out: str) -> None:
    planned, merged = run("plan", "recipe.yaml", out), run("merge", "recipe.yaml", out)
    assert (planned.exit_code, merged.exit_code) == (5, 5)


def test_memory_that_does_not_do_is_refused_as_by_the_merge() -> None:
    planned = run("plan", "recipe.yaml", "out", "--memory", "1")
    merged = run("merge", "recipe.yaml", "out", "--memory", "1")
    assert (planned.exit_code, merged.exit_code) == (8, 8)
    assert not Path("out").exists()


def sparse_model(folder: Path, elements: int) -> None:
    """One tensor of zeros that takes no place on the disk."""
    folder.mkdir()
    end = 4 * elements
    header = {"weight": {"dtype": "F32", "shape": [elements], "data_offsets": [0, end]}}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        try:
            file.truncate(8 + len(text) + end)
        except OSError:
            pytest.skip("this file system knows no files of such a size")


def test_disk_that_is_too_small_is_refused_before_a_byte_is_written() -> None:
    for name in ("huge", "tuned"):
        sparse_model(Path(name), 10**12)
    before = sorted(Path().rglob("*"))
    result = run("plan", "huge", "out", "--add", "tuned")
    assert result.exit_code == 5
    assert "the output takes 4,000,000," in result.output
    assert sorted(Path().rglob("*")) == before


def test_what_an_unfinished_run_has_written_is_told_and_need_not_be_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert answer("plan", "recipe.yaml", "out", "--no-probe")["unfinished_bytes"] is None
    assert "of an unfinished" not in run("plan", "recipe.yaml", "out", "--no-probe").output
    Path(".out.unfinished").mkdir()
    part = Path(".out.unfinished/model.safetensors.part")
    part.write_bytes(bytes(1 << 20))
    held = part.stat().st_blocks * 512
    found = answer("plan", "recipe.yaml", "out", "--no-probe")
    assert found["unfinished_bytes"] == held > 0
    summary = run("plan", "recipe.yaml", "out", "--no-probe").output
    assert "1.05 MB of an unfinished merge lie there: the same one goes on" in summary
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    assert run("plan", "recipe.yaml", "out", "--no-probe").exit_code == 0
    assert run("plan", "recipe.yaml", "out2", "--no-probe").exit_code == 5


def test_terms_that_cancel_out_are_refused() -> None:
    assert run("plan", "base", "--add", "a", "--subtract", "a").exit_code == 6


def test_dtype_beside_a_recipe_is_a_usage_error() -> None:
    result = run("plan", "recipe.yaml", "--dtype", "F32")
    assert result.exit_code == 2
    assert "a recipe names its own" in result.output
