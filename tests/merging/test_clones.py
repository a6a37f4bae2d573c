"""Tensors that nothing changes share their blocks with the input, where the file system can."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import digests, write_file, write_model
from support.loop_disk import make_image, mounted, used_bytes

from tvmerge import Checkpoint, TaskVector
from tvmerge.files.safetensors import layout, read_header
from tvmerge.receipts.receipt import RECEIPT_NAME
from tvmerge.receipts.verify import verify

MIB = 2**20
TENSORS = {
    "changed": np.linspace(0, 1, MIB // 4, dtype=np.float32),
    # Neither begins nor ends with a block.
    "left alone": np.random.default_rng(1).standard_normal(6 * MIB + 333).astype(np.float32),
    "small": np.arange(1000, dtype=np.float32),
    "whole numbers": np.arange(MIB, dtype=np.int64),
}
COPIED = sum(array.nbytes for name, array in TENSORS.items() if name != "changed")


@pytest.fixture(params=["xfs", "btrfs"])
def sharing_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that shares blocks."""
    image = make_image(tmp_path / "image", request.param)
    with mounted(image, tmp_path / "disk") as place:
        yield place


def merge(base: Path, out: Path) -> int:
    """Subtracts a vector that changes one tensor; returns the bytes cloned, as the receipt says."""
    vector = write_file(
        out.parent / f"vector of {out.name}" / "vector.safetensors",
        {"changed": np.full(MIB // 4, 0.5, np.float32)},
        {"tvmerge.kind": "task_vector"},
    )
    (Checkpoint(base) - TaskVector(vector)).save(out)
    cloned: int = json.loads((out / RECEIPT_NAME).read_text())["run"]["cloned_bytes"]
    return cloned


def weights(folder: Path) -> dict[str, str]:
    """Digests of the weights alone: a receipt says when and where it was made."""
    return {name: value for name, value in digests(folder).items() if name.endswith("tensors")}


def test_what_nothing_changes_takes_no_space_where_blocks_are_shared(
    sharing_disk: Path, tmp_path: Path
) -> None:
    base = write_model(sharing_disk / "base", TENSORS, shards=2)
    before = used_bytes(sharing_disk)
    cloned = merge(base, sharing_disk / "out")
    taken = used_bytes(sharing_disk) - before
    assert COPIED - 64 * 1024 < cloned < COPIED
    assert taken < 6 * MIB < COPIED
    assert verify(sharing_disk / "out").intact


def test_bytes_are_the_same_on_every_file_system(sharing_disk: Path, tmp_path: Path) -> None:
    base = write_model(sharing_disk / "base", TENSORS)
    there = merge(base, sharing_disk / "out")
    # Across file systems nothing can be shared: it is written.
    here = merge(base, tmp_path / "out")
    assert there > 0
    assert here == 0
    assert weights(sharing_disk / "out") == weights(tmp_path / "out")


def test_writing_to_a_clone_leaves_the_input_alone(sharing_disk: Path) -> None:
    base = write_model(sharing_disk / "base", TENSORS)
    before = digests(base)
    assert merge(base, sharing_disk / "out") > 0
    shard = sharing_disk / "out" / "model.safetensors"
    shard.write_bytes(bytes(shard.stat().st_size))
    assert digests(base) == before


def test_data_that_lies_otherwise_in_its_blocks_is_written(sharing_disk: Path) -> None:
    base = write_model(sharing_disk / "base", TENSORS)
    shard = base / "model.safetensors"
    content = shard.read_bytes()
    length = int.from_bytes(content[:8], "little")
    # One space more: no multiple of 8, which outputs keep to.
    shard.write_bytes(
        (length + 1).to_bytes(8, "little") + content[8 : 8 + length] + b" " + content[8 + length :]
    )
    assert merge(base, sharing_disk / "out") == 0
    assert verify(sharing_disk / "out").intact


def test_without_shared_blocks_copies_are_written(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", "ext4")
    with mounted(image, tmp_path / "disk") as place:
        base = write_model(place / "base", TENSORS)
        assert merge(base, place / "out") == 0
        assert verify(place / "out").intact


@pytest.mark.parametrize("spaces", [0, 8, 1000, 4096, 5000])
def test_data_begins_in_a_block_where_the_donors_does(spaces: int, tmp_path: Path) -> None:
    tensors = [("a", "F32", (3,)), ("b", "F32", (2, 2))]
    head, _, size = layout(tensors, {"format": "pt"})
    text = head[8:] + b" " * spaces
    shard = tmp_path / "base" / "model.safetensors"
    shard.parent.mkdir()
    shard.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size - len(head)))
    _, placed, _ = layout(tensors, {"other": "metadata"}, like_start=8 + len(text))
    assert placed[0].begin % 4096 == (8 + len(text)) % 4096
    assert read_header(shard).entries[0].begin == 8 + len(text)
