"""A folder for targets that read files: each process has one, which goes when the process ends."""

from __future__ import annotations

import atexit
import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


def own_folder() -> Path:
    """The folder of this process."""
    return _folder_of(os.getpid())


@cache
def _folder_of(_process: int) -> Path:
    # In memory where the system has such a place: millions of files are written.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = TemporaryDirectory(prefix="tvmerge-fuzz-", dir=place)
    atexit.register(folder.cleanup)
    return Path(folder.name)
