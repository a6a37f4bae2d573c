"""Opens what a merge reads: as it lies on the disk, or expanded to float32 first."""

from __future__ import annotations

import os
from pathlib import Path

from tvmerge.checkpoints.stored import Stored, open_stored
from tvmerge.inputs.adapter import adapter_folder
from tvmerge.inputs.lora import open_adapter
from tvmerge.inputs.packed import is_packed, open_packed


def open_input(
    path: str | os.PathLike[str], base: Stored | None = None, *, threads: int | None = None
) -> Stored:
    """A checkpoint or stored vector as `open_stored` opens it; expanded, where it is not dense.

    That is a packed vector, or the adapter of `base`, whose task vector it is then (see
    `open_packed`, `open_adapter`). `threads` expand it, None: all.
    """
    folder = adapter_folder(Path(path))
    if folder is not None:
        return open_adapter(path, folder, base, threads)
    stored = open_stored(path)
    return open_packed(stored, base, threads) if is_packed(stored) else stored
