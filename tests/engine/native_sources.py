"""Arrays as the native engine's sources: one file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from support.checkpoints import write_file

from tvmerge import _core
from tvmerge.files.safetensors import read_header


def native_sources(
    folder: Path, arrays: Sequence[np.ndarray]
) -> tuple[list[str], list[_core.Source]]:
    """The files of `folder`, written where they are not there yet, and the tensor in each."""
    paths, sources = [], []
    for number, array in enumerate(arrays):
        path = folder / f"{number}.safetensors"
        if not path.exists():
            write_file(path, {"w": array})
        entry = read_header(path).entries[0]
        paths.append(str(path))
        sources.append(_core.Source(number, entry.begin, entry.dtype))
    return paths, sources
