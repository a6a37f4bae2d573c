"""What a power failure leaves: the disk's image as it is while pages still wait in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_model
from support.loop_disk import make_image, mounted

from tvmerge import Checkpoint
from tvmerge.engine.run_options import SYNC_FROM_BYTES, Progress, RunOptions
from tvmerge.errors import FormatError, TVMergeError
from tvmerge.merging.merge import save_checkpoint
from tvmerge.receipts.verify import verify

NAMES = ("a", "b", "c")
SCALES = {"base": 1.0, "tuned": 1.5}


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A mounted file system whose image is `image` beside it; a base and a tuned model in it."""
    image = make_image(tmp_path / "image", request.param)
    with mounted(image, tmp_path / "disk") as place:
        for name, scale in SCALES.items():
            write_model(place / name, {n: np.full(2**20, scale, np.float32) for n in NAMES})
        flush(place)
        yield place


def flush(place: Path) -> None:
    """Have the disk hold all that was written so far."""
    subprocess.run(["sync", "-f", os.fspath(place)], check=True)


def after_power_failure(image: Path, copy: Path) -> Path:
    """The image as the disk holds it now, without what only the mounted system knows."""
    subprocess.run(["cp", "--sparse=always", os.fspath(image), os.fspath(copy)], check=True)
    return copy


def options_of(image: Path) -> tuple[str, ...]:
    """XFS mounts no second file system of the same identity unless it is told to."""
    kind = subprocess.run(
        ["blkid", "-o", "value", "-s", "TYPE", os.fspath(image)], capture_output=True, text=True
    )
    return ("nouuid",) if kind.stdout.strip() == "xfs" else ()


def commit_names(place: Path) -> None:
    """Have the file system write its journal, as it does every few seconds: names, no data."""
    other = os.open(place / "other", os.O_WRONLY | os.O_CREAT)
    os.write(other, b"other")
    os.fsync(other)
    os.close(other)


def merge(place: Path, *, sync: bool, progress: Progress | None = None) -> None:
    """Makes `out` in batches, after each of which `progress` is called."""
    base = Checkpoint(place / "base")
    model = base - 0.5 * (Checkpoint(place / "tuned") - base)
    options = RunOptions(sync=sync, progress=progress, batch_bytes=8 * 2**20)
    save_checkpoint(model.coefficients, model.donor, place / "out", dtype=None, options=options)


def test_a_flushed_merge_is_whole_after_a_power_failure(disk: Path, tmp_path: Path) -> None:
    merge(disk, sync=True)
    copy = after_power_failure(tmp_path / "image", tmp_path / "copy")
    with mounted(copy, tmp_path / "then", *options_of(copy)) as place:
        assert verify(place / "out").intact


def test_no_moment_of_a_flushed_merge_leaves_a_model_that_is_not_whole(
    disk: Path, tmp_path: Path
) -> None:
    copies: list[Path] = []

    def fail_here(done: int, whole: int) -> None:
        if done * 4 >= whole * len(copies) and len(copies) < 4:
            flush(disk)  # all that is there by now: heads too, if there are any
            copies.append(after_power_failure(tmp_path / "image", tmp_path / f"{len(copies)}"))

    merge(disk, sync=True, progress=fail_here)
    assert len(copies) == 4
    for copy in copies:
        with mounted(copy, tmp_path / "then", *options_of(copy)) as place:
            assert not (place / "out").exists()
            for part in place.glob(".out.unfinished/*.part"):
                shard = shutil.copy(part, tmp_path / "model.safetensors")
                with pytest.raises(FormatError):
                    Checkpoint(shard)


def test_what_was_not_flushed_cannot_be_opened_after_a_power_failure(
    disk: Path, tmp_path: Path
) -> None:
    def flush_half(done: int, whole: int) -> None:
        if done < whole / 2:
            flush(disk)

    merge(disk, sync=False, progress=flush_half)
    commit_names(disk)
    copy = after_power_failure(tmp_path / "image", tmp_path / "copy")
    with mounted(copy, tmp_path / "then", *options_of(copy)) as place:
        assert (place / "out").exists()
        with pytest.raises(TVMergeError):
            Checkpoint(place / "out")


@pytest.mark.parametrize(
    ("sync", "output_bytes", "flushed"),
    [
        (None, SYNC_FROM_BYTES, True),
        (None, SYNC_FROM_BYTES - 1, False),
        (True, 1, True),
        (False, SYNC_FROM_BYTES, False),
    ],
)
def test_large_outputs_are_flushed_unless_that_is_refused(
    sync: bool | None, output_bytes: int, flushed: bool
) -> None:
    assert RunOptions(sync=sync).flushes(output_bytes) is flushed
