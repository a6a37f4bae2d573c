"""Bad input at the command line: one message, its exit code, and nothing left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.small_checkpoints import EMBEDDING, tensors, write

from tvmerge.cli import cli
from tvmerge.files.safetensors import layout

RECIPE = (
    "merge_method: task_arithmetic\nbase_model: base\n"
    "models:\n  - {model: a, parameters: {weight: 1}}\n"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder with good models (base, a), a vector (va) and bad ones of many kinds."""
    monkeypatch.chdir(tmp_path)
    base = write(tmp_path / "base", tensors(0))
    write(tmp_path / "a", tensors(1))
    write(tmp_path / "copy", tensors(0))
    write(tmp_path / "wide", tensors(1, width=9))
    write(tmp_path / "short", {EMBEDDING: tensors(1)[EMBEDDING]})
    write(tmp_path / "stranger", {"w": np.ones(3, np.float32)})
    quantised = write(tmp_path / "quantised", tensors(1))
    (quantised / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    whole = (base / "model.safetensors").read_bytes()
    for name, content in {"cut": whole[:-8], "text": b"hello, world", "none": b""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    for name, file in {"escape": "../base/model.safetensors", "lost": "gone.safetensors"}.items():
        (tmp_path / name).mkdir()
        index = {"weight_map": {EMBEDDING: file}}
        (tmp_path / name / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "typo.yaml").write_text(RECIPE + "dtpye: bfloat16\n")
    assert CliRunner().invoke(cli, ["vector", "base", "a", "va"]).exit_code == 0
    return tmp_path


BAD_INPUTS = {
    "output not empty": ("apply base taken --add a", 5, "found 1 entries (thesis.txt)"),
    "output is a file": ("apply base file --add a", 5, "file: is a file, expected a new or empty"),
    "output is an input": ("apply base base --add a", 5, "Inputs are never written to"),
    "output is the other input": ("apply base a --add a", 5, "Inputs are never written to"),
    "output inside an input": ("merge recipe.yaml a/out", 5, "lies inside, the input"),
    "output below a file": ("vector base a file/out", 5, "cannot write there"),
    "shapes differ": ("apply base out --add wide", 4, "expected [32, 8] as in"),
    "tensor missing": ("vector base short out", 4, "missing in"),
    "nothing in common": ("diff base stranger", 4, "have no tensor in common"),
    "quantised": ("apply base out --add quantised", 4, "the model is quantised"),
    "identical, vector": ("vector base copy out", 6, "the task vector is zero everywhere"),
    "identical, apply": ("apply base out --add copy=0.5", 6, "bit for bit"),
    "base added to itself": ("apply base out --add base", 6, "nothing would change"),
    "terms cancel": ("apply base out --add a --subtract a", 6, "the terms cancel out"),
    "recipe with a typo": (
        "merge typo.yaml out", 2, "typo.yaml:5: dtpye: unknown key. Did you mean 'dtype'?"
    ),
    "recipe absent": ("merge absent.yaml out", 2, "absent.yaml: cannot read: No such file"),
    "scale no number": ("apply base out --add a=half", 2, "found the scale 'half'"),
    "scale infinite": ("apply base out --add a=inf", 2, "found the scale 'inf'"),
    "scale of nothing": ("apply base out --add =2", 2, "expected PATH or PATH=SCALE"),
    "nothing to apply": ("apply base out", 2, "give at least one --add or --subtract"),
    "dtype unknown": ("apply base out --add a --dtype bf17", 2, "Did you mean 'bf16'?"),
    "no threads": ("apply base out --add a --threads 0", 2, "--threads"),
    "command unknown": ("aply", 2, "No such command 'aply'. Did you mean 'apply'?"),
    "option of mergekit's": (
        "merge recipe.yaml out --cuda", 2, "--cuda is an option of mergekit. Use --device cuda."
    ),
    "option unknown": ("merge recipe.yaml out --cdua", 2, "No such option"),
    "base without terms": ("plan base", 2, "base is a folder: expected a recipe, or --add or"),
    "vector in place of a base": ("apply va out --add a", 2, "`--add va`, in Python"),
    "model in place of a vector": ("compress a out --to bf16", 2, "`tvmerge vector BASE a OUT`"),
    "study that has not run": (
        "study report base", 3, "base: holds no finished study (no results.json). Run it, or go on"
    ),
    "vector as base": ("apply va out --add a", 2, "is a stored task vector, expected a check"),
    "vector as tuned": ("vector base va out", 2, "is a stored task vector, expected a check"),
    "path absent": ("vector base absent out", 3, "absent: no such file or folder"),
    "file cut short": ("apply base out --add cut", 3, "(truncated)"),
    "file of text": ("inspect text", 3, "the header claims"),
    "file empty": ("inspect none", 3, "the file has 0 bytes"),
    "index points outside": (
        "inspect escape", 3, "shard path '../base/model.safetensors' leaves the folder"
    ),
    "shard absent": ("inspect lost", 3, "shard 'gone.safetensors' is not there"),
    "pickled weights": ("inspect pickled", 3, "no zip. If it is damaged, fetch it again"),
    "memory limit too low": ("apply base out --add a --memory 1", 8, "memory limit of 1 MiB"),
}  # fmt: skip


def everything(place: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None
        for path in sorted(place.rglob("*"))
    }


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_gets_its_message_and_leaves_nothing(name: str, place: Path) -> None:
    command, exit_code, message = BAD_INPUTS[name]
    before = everything(place)
    result = CliRunner().invoke(cli, command.split())
    assert result.exit_code == exit_code, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert everything(place) == before


def test_error_goes_to_stderr_alone(place: Path) -> None:
    command = [sys.executable, "-m", "tvmerge", "vector", "base", "copy", "out", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert done.stdout == ""
    assert done.stderr.startswith("Error: out: the task vector is zero everywhere")
    assert done.stderr.count("\n") == 1


def write_sparse(folder: Path, size_bytes: int) -> Path:
    """A checkpoint of zeros that takes no room on the disk."""
    tensors = [(f"model.layers.{i}.weight", "F32", (size_bytes // 64,)) for i in range(16)]
    head, _, size = layout(tensors, {"format": "pt"})
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(head)
        file.truncate(size)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_before_the_first_batch_is_done_leaves_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    for name in ("base", "a", "b"):
        write_sparse(tmp_path / name, 512 * 1024 * 1024)
    # Whoever runs the tests may have SIGINT ignored; the command would respect that.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); from tvmerge.cli import main; main()"
    )
    args = ["apply", "base", "new/out", "--add", "a", "--subtract", "b", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 150
    while not list(tmp_path.glob("new/.out.unfinished/*.part")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    output, messages = process.communicate(timeout=150)
    assert (process.returncode, output, messages) == (130, "", "Interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "base"]
