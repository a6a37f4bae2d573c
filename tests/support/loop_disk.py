"""File systems in images of their own, mounted through loop devices: to see what a disk holds."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_IMAGE_BYTES = 400 * 2**20  # sparse; XFS takes no less than 300 MiB
_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
}
FILE_SYSTEMS = tuple(_MAKE)


def make_image(image: Path, kind: str) -> Path:
    """An empty file system; skips the test where it cannot be made or mounted."""
    make = _MAKE[kind]
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk image")
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not installed")
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    subprocess.run([*make, os.fspath(image)], check=True, capture_output=True)
    return image


@contextmanager
def mounted(image: Path, at: Path, *options: str) -> Iterator[Path]:
    """The image's file system, at the folder `at`; skips the test where that is forbidden."""
    at.mkdir(exist_ok=True)
    chosen = ",".join(("loop", *options))
    command = ["mount", "-o", chosen, os.fspath(image), os.fspath(at)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a disk image cannot be mounted here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", os.fspath(at)], check=True)


def used_bytes(place: Path) -> int:
    """What a file system holds, once all of it is on its disk."""
    subprocess.run(["sync", "-f", os.fspath(place)], check=True)
    return shutil.disk_usage(place).used
