"""Files computed from others, kept where every run finds them for as long as somebody uses them.

They lie in `$TVMERGE_CACHE`, by default `$XDG_CACHE_HOME/tvmerge`, each in a folder whose name
says what it was made of. A folder is locked by those who use it and removed by the last of them;
what a killed process has left is removed by the next one that computes something, and not used:
after a power failure it may hold zeros. What takes long may be left for a run that goes on: it
stays for as long as that has something to go on from, and is looked at before it is used.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from weakref import finalize

from tvmerge.errors import StorageError, storage_errors

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_PART = ".part"
_WANTED = "wanted by"  # a file with the path for whose sake a folder stays
_KEY_BYTES = 16
# In each of them another process has removed the folder between two calls.
_TRIES = 1000


class Kept:
    """A file that stays until this object, and all others for it, are gone. Made by `keep`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._end = finalize(self, _end, path.parent, lock, os.getpid())


def place() -> Path:
    """Where computed files lie."""
    given = os.environ.get("TVMERGE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(given or Path(home) / "tvmerge").absolute() / "computed"


def key_of(told: Sequence[Any]) -> str:
    """A name for what is made of what is told: plain values and paths."""
    return blake2b(repr(told).encode(), digest_size=_KEY_BYTES).hexdigest()


@dataclass(frozen=True, slots=True)
class Left:
    """For what may be left behind: it stays while `wanted_by` exists.

    `is_intact` says of what somebody has left whether it is what was written.
    """

    wanted_by: Path
    is_intact: Callable[[Path], bool]


def keep(
    key: str, name: str, size_bytes: int, make: Callable[[Path], None], left: Left | None = None
) -> Kept:
    """What is made of what `key` says: the file or folder `name`.

    `make(path)` writes it where it is not there yet; with `left`, it may be left from an earlier
    run, and for a later one. Raises StorageError where there is no room for it or it cannot be
    written; what `make` raises.
    """
    root = place()
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _sweep(root)
        for _ in range(_TRIES):
            found = _try(root / key / name, size_bytes, make, left)
            if found is not None:
                return found
    raise StorageError(f"{root}: other processes remove {key} again and again. Try again")


def forget(key: str) -> None:
    """Leave for no later run what is made of what `key` says: it goes with its last user."""
    folder = place() / key
    with suppress(OSError):
        (folder / _WANTED).unlink(missing_ok=True)
        _release(folder, os.open(folder, _OPEN_FOLDER), os.getpid())


def _try(
    path: Path, size_bytes: int, make: Callable[[Path], None], left: Left | None
) -> Kept | None:
    path.parent.mkdir(exist_ok=True, mode=0o700)
    with ExitStack() as opened:
        try:
            lock = os.open(path.parent, _OPEN_FOLDER)
        except FileNotFoundError:
            return None
        opened.callback(os.close, lock)
        if left is not None:
            _look_at(lock, path, left)
        if not _locked(lock, path, fcntl.LOCK_SH) or not path.exists():
            if not _locked(lock, path, fcntl.LOCK_EX):
                return None
            if not path.exists():
                _make(path, size_bytes, make)
            if left is not None:
                (path.parent / _WANTED).write_bytes(os.fsencode(left.wanted_by))
            # One kind of lock becomes the other by way of none.
            if not _locked(lock, path, fcntl.LOCK_SH) or not path.exists():
                return None
        opened.pop_all()
        return Kept(path, lock)


def _look_at(lock: int, path: Path, left: Left) -> None:
    """Remove what nobody uses and somebody has left, if it is not whole."""
    with suppress(BlockingIOError):  # somebody uses it, and has looked
        alone = _locked(lock, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if alone and path.exists() and not left.is_intact(path):
            shutil.rmtree(path)


def _locked(lock: int, path: Path, kind: int) -> bool:
    """Wait for the lock; false where the folder is another one by then."""
    fcntl.flock(lock, kind)
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), path.parent.lstat())
    return False


def _make(path: Path, size_bytes: int, make: Callable[[Path], None]) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size_bytes:
        raise StorageError(
            f"{path.parent}: what is computed for this run takes {size_bytes:,} bytes, "
            f"{free:,} are free. Free some space, or name another disk's folder in TVMERGE_CACHE"
        )
    part = path.with_name(path.name + _PART)
    if part.is_dir():
        shutil.rmtree(part)
    try:
        make(part)
        part.rename(path)
    except BaseException:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise


def _sweep(root: Path) -> None:
    """Remove what nobody uses any more."""
    for folder in root.iterdir():
        with suppress(OSError):
            _release(folder, os.open(folder, _OPEN_FOLDER), os.getpid())


def _release(folder: Path, lock: int, process: int) -> None:
    """Close the lock, and remove the folder if it was the last."""
    if os.getpid() != process:  # a forked child, which shares the lock
        return
    try:
        with suppress(OSError):  # somebody else's lock
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), folder.lstat()) and not _is_wanted(folder):
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _end(folder: Path, lock: int, process: int) -> None:
    """As `_release`; what was left for a run that has come to its end goes as well."""
    _release(folder, lock, process)
    if os.getpid() == process:
        with suppress(OSError):
            _sweep(folder.parent)


def _is_wanted(folder: Path) -> bool:
    """Whether a run has left it that can still be gone on with."""
    with suppress(OSError, ValueError):
        path = Path(os.fsdecode((folder / _WANTED).read_bytes()))
        return path.is_absolute() and path.exists()
    return False
