"""Folders made to do harm: pipes, devices, links, bombs, and what is planted beside the output."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import INDEX, read_model, write_file, write_model
from untrusted.hostile import SECONDS

from tvmerge import Checkpoint
from tvmerge.checkpoints.stored import open_stored, read_config
from tvmerge.errors import ConfigError, FormatError, MismatchError, OutputError, StorageError
from tvmerge.recipe import load_recipe


@pytest.fixture
def merged(tmp_path: Path) -> Checkpoint:
    held = {"w": np.ones((4, 4), np.float32)}
    base = Checkpoint(write_model(tmp_path / "base", held))
    tuned = Checkpoint(write_model(tmp_path / "tuned", {"w": 2 * held["w"]}))
    return base + 0.5 * (tuned - base)


@pytest.fixture(params=["pipe", "zero", "full", "null"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a pipe that nobody writes to, or a link to a device, under a name."""

    def make(name: str) -> Path:
        path = tmp_path / name
        if request.param == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(f"/dev/{request.param}")
        return path

    return make


@pytest.mark.timeout(20)  # a reader that waits for a pipe waits for ever
@pytest.mark.parametrize("name", ["model.safetensors", INDEX])
def test_pipes_and_devices_are_not_read(special: Callable[[str], Path], name: str) -> None:
    path = special(name)
    for place in (path, path.parent):
        with pytest.raises(FormatError, match="is a device or a pipe, expected a regular file"):
            open_stored(place)


@pytest.mark.timeout(20)
def test_pipes_and_devices_are_no_recipes_and_no_configs(special: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="is a device or a pipe, expected a regular file"):
        load_recipe(special("recipe.yaml"))
    assert read_config(special("config.json").parent) == {}


def test_folders_links_in_a_circle_and_links_to_nothing_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.symlink_to(path.name)
    with pytest.raises(StorageError, match="cannot read: Too many levels of symbolic links"):
        open_stored(tmp_path)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(StorageError, match="cannot read: No such file"):
        open_stored(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match="cannot read: Is a directory"):
        open_stored(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{}" * 3, b"[]", b" " * 2_000_000, b"\xff"])
def test_a_config_that_cannot_be_read_says_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert read_config(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"architectures": ["X"]}')
    assert read_config(tmp_path) == {"architectures": ["X"]}


def test_folders_without_end_beside_the_weights_are_refused(
    merged: Checkpoint, tmp_path: Path
) -> None:
    """Twenty folders with two links each to the next spell out a million paths."""
    for number in range(20):
        (tmp_path / "base" / f"d{number}").mkdir()
        for name in "xy":
            (tmp_path / "base" / f"d{number}" / name).symlink_to(f"../d{number + 1}")
    (tmp_path / "base" / "d20").mkdir()
    with pytest.raises(StorageError, match=r"holds more than 10,000 files and folders beside the"):
        merged.save(tmp_path / "out")
    (tmp_path / "base" / "d" / "/".join("d" * 40)).mkdir(parents=True)
    with pytest.raises(StorageError, match=r"lies 32 levels below the weights"):
        merged.save(tmp_path / "out")


def test_models_that_have_no_name_in_common_are_told_at_once(tmp_path: Path) -> None:
    """The names that were meant are looked for among few names only: it takes the product."""
    held = {
        name: write_file(
            tmp_path / f"{name}.safetensors",
            {f"{name}.layers.{i}.weight": np.zeros(0, np.float32) for i in range(20_000)},
        )
        for name in ("model", "transformer")
    }
    found = Checkpoint(held["model"]), Checkpoint(held["transformer"])
    before = time.process_time()
    with pytest.raises(MismatchError, match="missing in"):
        (found[0] + (found[1] - found[0])).save(tmp_path / "out")
    assert time.process_time() - before < SECONDS


def test_a_quantised_model_is_refused_however_its_config_is_written(
    merged: Checkpoint, tmp_path: Path
) -> None:
    for config in (
        '{"quantization_config": null, "quantization_config": {"bits": 4}}',
        '{"a": "' + "x" * 5_000_000 + '", "quantization_config": {"bits": 4}}',
        '{"quantization_config": {"bits": ' + "9" * 3000 + "}}",
    ):
        (tmp_path / "base" / "config.json").write_text(config)
        with pytest.raises(MismatchError, match="is quantised"):
            merged.save(tmp_path / "out")


# ---- planted beside the destination ----------------------------------------------------------


def test_a_link_in_place_of_the_unfinished_folder_is_not_followed(
    merged: Checkpoint, tmp_path: Path
) -> None:
    """What the folder holds from an earlier run is removed: it must not be somebody's home."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    (tmp_path / ".out.unfinished").symlink_to("home")
    with pytest.raises(OutputError, match="cannot write there"):
        merged.save(tmp_path / "out")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]


@pytest.mark.timeout(20)
def test_a_link_a_pipe_or_a_device_in_place_of_the_journal_is_not_opened(
    merged: Checkpoint, tmp_path: Path
) -> None:
    journal = tmp_path / ".out.unfinished" / ".journal"
    letter = tmp_path / "letter.txt"
    letter.write_text("mine")
    for plant in (
        lambda: journal.symlink_to(letter),
        lambda: journal.symlink_to("/dev/zero"),
        lambda: os.mkfifo(journal),
    ):
        journal.parent.mkdir(exist_ok=True)
        plant()
        with pytest.raises(OutputError):
            merged.save(tmp_path / "out")
        journal.unlink()
    assert letter.read_text() == "mine"
    merged.save(tmp_path / "out")
    assert not journal.parent.exists()


@pytest.mark.parametrize("merge", [None, 3, [], {}, {"inputs": 3}, {"inputs": [[]]}])
def test_a_journal_that_names_no_merge_is_not_continued(
    merge: object, merged: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / ".out.unfinished"
    folder.mkdir()
    (folder / "left").write_text("by another version")
    body = json.dumps({"format": "tvmerge journal 1", "pid": 1, "merge": merge}).encode() + b"\n"
    checksum = hashlib.blake2b(body, digest_size=8).hexdigest().encode()
    (folder / ".journal").write_bytes(checksum + b" " + body)
    with pytest.raises(OutputError, match="--restart"):
        merged.save(tmp_path / "out")
    assert (folder / "left").exists()
    merged.save(tmp_path / "out", restart=True)
    assert sorted(read_model(tmp_path / "out")) == ["w"]
