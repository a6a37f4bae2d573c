"""The index of a sharded checkpoint: which tensor lies in which file. It is not trusted."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NoReturn

from tvmerge.errors import FormatError
from tvmerge.files.safetensors import MOST_TENSORS
from tvmerge.files.untrusted import parse_json, shown

_VALUES_PER_TENSOR = 4
_MOST_SHARDS = 10_000  # all are open during a merge


def bad_index(index: Path, what: str) -> NoReturn:
    """Raise FormatError for what the index says."""
    raise FormatError(f"{index}: {what}")


def parse_index(index: Path, text: bytes) -> dict[str, str]:
    """The weight_map of an index's JSON text: tensor name to file name below its folder.

    Raises FormatError, with the path `index`, where there is none, where a file name leaves the
    folder, and for more than 500,000 tensors or 10,000 files.
    """
    try:
        content = parse_json(text, most_values=_VALUES_PER_TENSOR * MOST_TENSORS)
    except ValueError as error:
        bad_index(index, f"the index {error}")
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(file, str) for file in weight_map.values())
    ):
        bad_index(index, "expected a weight_map from tensor names to file names")
    names = set(weight_map.values())
    if len(weight_map) > MOST_TENSORS or len(names) > _MOST_SHARDS:
        bad_index(
            index,
            f"names {len(weight_map):,} tensors in {len(names):,} files, "
            f"expected at most {MOST_TENSORS:,} in {_MOST_SHARDS:,}",
        )
    for name in sorted(names):
        _check_shard_name(index, name)
    return weight_map


def _check_shard_name(index: Path, name: str) -> None:
    """An index may come from anywhere: it must not point out of its own folder."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        bad_index(index, f"shard path {shown(name)} leaves the folder; expected a plain file name")
