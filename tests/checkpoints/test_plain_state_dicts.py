"""Weights without a config: one file by itself, or a folder that holds nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import read_model, same_bits, write_file, write_model

from tvmerge import Checkpoint
from tvmerge.errors import OutputError
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.verify import verify
from tvmerge.replay import replay

Write = Callable[[Path, dict[str, np.ndarray]], Path]

BASE = {"w": np.ones((4, 3), np.float32), "n": np.arange(3)}
TUNED = {"w": 3 * BASE["w"], "n": np.arange(3)}
FOLDER = {"model.safetensors", "README.md", "tvmerge_receipt.json"}


def safetensors(path: Path, content: dict[str, np.ndarray]) -> Path:
    return write_file(path / "model-v1.safetensors", content)


def pickled(path: Path, content: dict[str, np.ndarray]) -> Path:
    path.mkdir()
    file = path / "model-v1.pth"
    torch.save({name: torch.from_numpy(array) for name, array in content.items()}, file)
    return file


@pytest.mark.parametrize("write", [safetensors, pickled])
@pytest.mark.parametrize("named", ["file", "folder"])
def test_weights_alone_are_merged(write: Write, named: str, tmp_path: Path) -> None:
    files = [write(tmp_path / "base", BASE), write(tmp_path / "tuned", TUNED)]
    if named == "file":  # whose folder may hold anything
        (tmp_path / "base" / "config.json").write_text('{"quantization_config": null}')
        (tmp_path / "base" / "other.safetensors").write_bytes(b"no weights")
    base, tuned = (Checkpoint(file if named == "file" else file.parent) for file in files)
    out = tmp_path / "out"
    (base + 0.5 * (tuned - base)).save(out)
    assert {path.name for path in out.iterdir()} == FOLDER
    found = read_model(out)
    assert same_bits(found["w"], 2 * BASE["w"]) and same_bits(found["n"], BASE["n"])
    assert verify(out, inputs=True).intact
    assert replay(read_receipt(out)) == ()


@pytest.mark.parametrize("write", [safetensors, pickled])
def test_a_file_goes_with_a_folder(write: Write, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", BASE, config={"architectures": ["X"]})
    base, tuned = Checkpoint(folder), Checkpoint(write(tmp_path / "tuned", TUNED))
    (base + 0.5 * (tuned - base)).save(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FOLDER | {"config.json"}
    (tuned + 0.5 * (base - tuned)).save(tmp_path / "other")
    assert "Dtypes come from model-v1" in (tmp_path / "other" / "README.md").read_text()


@pytest.mark.parametrize("write", [safetensors, pickled])
def test_an_output_may_lie_beside_a_file_and_not_inside_a_model(
    write: Write, tmp_path: Path
) -> None:
    file = write(tmp_path / "one", BASE)
    base, tuned = Checkpoint(file), Checkpoint(write(tmp_path / "tuned", TUNED))
    (base + 0.5 * (tuned - base)).save(file.parent / "out")
    with pytest.raises(OutputError, match="is, or lies inside, the input"):
        (Checkpoint(file.parent) + 0.5 * (tuned - Checkpoint(file.parent))).save(
            tmp_path / "one" / "another"
        )
