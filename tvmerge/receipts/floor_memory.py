"""The floor that `tvmerge bench` measured last on this machine, for the receipts of later merges.

Kept per device and number of threads in `$XDG_CACHE_HOME/tvmerge/floor.json`. It is a help, not a
result: where it cannot be read or written nothing fails, and receipts say null.
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from pathlib import Path


def remember(folder: Path, threads: int, bytes_per_second: float) -> None:
    """Keep the floor's rate for the device that `folder` is on."""
    with suppress(OSError):
        place = _place()
        known = _known(place) | {_key(folder, threads): bytes_per_second}
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_suffix(f".{os.getpid()}.new")
        new.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
        new.replace(place)


def share_of_floor(folder: Path, threads: int, moved_bytes: int, seconds: float) -> float | None:
    """The floor's time for so many bytes over `seconds`: 1 is as fast as the disk allows.

    None where `tvmerge bench` has not been run on this device with as many threads. Above 1 where
    the disk was faster than then, as it is for files in the page cache.
    """
    try:
        rate = _known(_place()).get(_key(folder, threads))
    except OSError:
        return None
    return moved_bytes / rate / seconds if rate and seconds else None


def _key(folder: Path, threads: int) -> str:
    return f"{platform.node()} device {folder.stat().st_dev} threads {threads}"


def _place() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(home) / "tvmerge" / "floor.json"


def _known(place: Path) -> dict[str, float]:
    try:
        content = json.loads(place.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {str(k): v for k, v in content.items() if isinstance(v, float) and 0 < v < 1e15}
