"""Opens LoRA adapters as task vectors, and as the models that they make of a base."""

from __future__ import annotations

import os
from pathlib import Path

from tvmerge.checkpoints.matching import refuse_quantised
from tvmerge.checkpoints.stored import KIND_KEY, TASK_VECTOR, Stored, file_status
from tvmerge.errors import ConfigError
from tvmerge.inputs.adapter import Adapter, adapter_folder, matched, read_adapter
from tvmerge.inputs.expanding import Expansion
from tvmerge.inputs.low_rank import Added

# What is computed and how: raised when either changes.
_FORM = "2"


def open_adapter(
    path: str | os.PathLike[str], folder: Path, base: Stored | None, threads: int | None
) -> Stored:
    """The task vector of the adapter in `folder`, which was asked for as `path`.

    `base` is what the adapter belongs to: it has to fit then, before anything is computed. Raises
    ConfigError where the adapter saved whole tensors and no base is given, MismatchError where
    it does not fit, FormatError where it is no plain LoRA, StorageError where the disk fails.
    """
    adapter = read_adapter(folder)
    if base is not None:
        adapter = matched(adapter, base)
    saved = [target.name for target in adapter.targets.values() if target.saved]
    if saved and base is None:
        raise ConfigError(
            f"{path}: the adapter saved {len(saved)} tensors whole ({saved[0]}): what it adds is "
            "their difference from the base. Name it: TaskVector(path, base=...)"
        )
    # Without such tensors, what is added is the same for every base.
    return _opened(path, adapter, base if saved else None, tuned=False, threads=threads)


def open_tuned(path: str | os.PathLike[str], base: Stored, *, threads: int | None = None) -> Stored:
    """The tensors that the adapter at `path` changes, as `base` has them with it, in float32.

    Computed by `threads` (None: all). Raises FormatError where there is no adapter, and as
    `open_adapter`.
    """
    folder = adapter_folder(Path(path))
    adapter = read_adapter(Path(path) if folder is None else folder)
    return _opened(path, matched(adapter, base), base, tuned=True, threads=threads)


def open_added(
    path: str | os.PathLike[str], layout: Stored, *, threads: int | None = None
) -> Stored:
    """What the adapter at `path` adds to a model that has the tensors of `layout`, in other values.

    Computed by `threads` (None: all). Raises ConfigError where the adapter saved whole tensors:
    what it adds is not known then. Raises FormatError and MismatchError as `open_tuned`.
    """
    folder = adapter_folder(Path(path))
    adapter = matched(read_adapter(Path(path) if folder is None else folder), layout)
    saved = [target.name for target in adapter.targets.values() if target.saved]
    if saved:
        raise ConfigError(
            f"{path}: the adapter saved {len(saved)} tensors whole ({saved[0]}): what it adds is "
            "their difference from a model that is not written yet. Merge that model first, and "
            "name its folder"
        )
    return _opened(path, adapter, None, tuned=False, threads=threads)


def _opened(
    path: str | os.PathLike[str],
    adapter: Adapter,
    base: Stored | None,
    *,
    tuned: bool,
    threads: int | None,
) -> Stored:
    if base is not None:
        refuse_quantised([base])
    held = () if base is None else tuple(file_status(file) for file, _ in base.shards)
    expansion = Expansion(
        tensors=[Added(one, adapter.file, base, tuned) for one in adapter.targets.values()],
        files=(adapter.file, adapter.config.path),
        metadata={"format": "pt"} if tuned else {"format": "pt", KIND_KEY: TASK_VECTOR},
        made_of=(_FORM, tuned, held),
    )
    stem = "tuned" if tuned else "vector"
    return expansion.open(adapter.folder, os.fspath(path), stem=stem, threads=threads)
