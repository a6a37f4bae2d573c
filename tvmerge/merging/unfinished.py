"""The unfinished folder of a merge: hidden beside its destination, whose name it takes at the end.

`.NAME.unfinished` holds the shards as `*.part` and the journal. It is found again by the same
command, which goes on from there; nothing in it loads as a model before the merge is complete.
Whatever ends a run in which a batch was finished leaves it; any other end takes it away.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tvmerge.errors import (
    ConfigError,
    FormatError,
    MismatchError,
    NothingChangedError,
    OutputError,
    StorageError,
    TVMergeError,
    storage_errors,
)
from tvmerge.merging.journal import Journal

_SUFFIX = ".unfinished"
_PART = ".part"
_JOURNAL = ".journal"  # hidden: no file that is copied from a base has such a name
# In each of them another process has published or removed the folder between two calls.
_TRIES = 1000
# What renaming a folder says where a full folder, or a file, has the name.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
# After these the work done is worth nothing: another try would end in the same way.
_FINAL = (ConfigError, FormatError, MismatchError, NothingChangedError, OutputError)


class InputChangedError(StorageError):
    """An input was changed while it was read: what was made of it means nothing."""


class Unfinished:
    """A claimed folder. `merge` says which merge it belongs to, input files with size and time."""

    def __init__(self, folder: Path, target: Path, journal: Journal) -> None:
        self.folder, self.target, self.journal = folder, target, journal
        self.holds_stages = False  # written for it elsewhere, for as long as this folder is there

    def part(self, name: str) -> Path:
        """Where the shard `name` (a relative path) is written."""
        return self.folder / (name + _PART)

    def reopen(self, name: str) -> Path:
        """As `part`; a shard that a killed run had already given its name gets this one back."""
        part, named = self.part(name), self.folder / name
        part.parent.mkdir(parents=True, exist_ok=True)
        if named.exists() and not part.exists():
            named.rename(part)
        return part

    def name_parts(self, heads: Mapping[str, bytes]) -> None:
        """Give the finished shards their heads (length and header) and then their names.

        Without its head no shard can be opened: written last, it is not on the disk long before
        the rest after a power failure.
        """
        for name, head in heads.items():
            part = self.part(name)
            if part.exists():
                with part.open("r+b") as file:
                    file.write(head)
                part.rename(self.folder / name)

    def tidy(self, parts: Iterable[Path]) -> None:
        """Remove all but the journal and `parts`: a killed run may have left copies behind that
        the inputs do not have any more."""
        kept = {self.folder / _JOURNAL, *parts}
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):
                    path.rmdir()
            elif path not in kept:
                path.unlink()

    def own_files(self) -> frozenset[Path]:
        """What lies in the folder only until it is published."""
        return frozenset({self.folder / _JOURNAL})

    def publish(self, *, sync: bool) -> None:
        """Make the folder the destination; with `sync` it is on the disk when this returns."""
        journal = self.folder / _JOURNAL
        if sync:  # while there still is a journal to go on from
            _sync_tree(self.folder)
        journal.unlink()
        try:
            if sync:
                _sync(self.folder)
            self.folder.rename(self.target)  # takes the place of an empty folder, of nothing else
        except OSError as error:
            self.journal.restore(journal)
            if error.errno not in _TAKEN:
                raise
            raise OutputError(
                f"{self.target}: was taken while the merge ran. Name another one"
            ) from error
        if sync:
            _sync(self.target.parent)

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """Remove all but the journal."""
        for entry in self.folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != _JOURNAL:
                entry.unlink()


@contextmanager
def claimed(
    target: Path, merge: Mapping[str, Any], *, size_bytes: int, restart: bool
) -> Iterator[Unfinished]:
    """Claim the unfinished folder of `target` for `merge`, new or as a run of it has left it.

    Raises OutputError where the place cannot be written, has less than `size_bytes` free, is held
    by another process, or holds another merge's work (unless `restart`: that is removed then).
    """
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        work = _open(target)
    except OutputError:
        _remove_empty(made)
        raise
    try:
        _take_over(work, merge, restart=restart)
    except BaseException:
        if work.journal.merge is None and not work.journal.is_damaged:
            work.remove()
            _remove_empty(made)
        work.journal.close()
        raise
    try:
        _check_space(work, size_bytes)
        yield work
    except BaseException as error:
        done = work.journal.records or work.holds_stages
        if done and not isinstance(error, (*_FINAL, InputChangedError)):
            _tell(error, work)
        work.remove()
        _remove_empty(made)
        raise
    finally:
        work.journal.close()


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _place(target: Path) -> Path:
    return target.parent / f".{target.name}{_SUFFIX}"


def unfinished_bytes(target: Path) -> int | None:
    """What an unfinished merge into `target` takes on the disk; None: there is none."""
    folder = _place(target)
    return _held_bytes(folder) if folder.is_dir() else None


def _held_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def _open(target: Path) -> Unfinished:
    folder = _place(target)
    for _ in range(_TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return Unfinished(folder, target, Journal.open(folder / _JOURNAL))
        except FileNotFoundError:
            continue  # its owner has published it this moment
        except OutputError:
            raise
        except OSError as error:
            with suppress(OSError):
                folder.rmdir()  # only where it was made just now: it is empty
            raise OutputError(
                f"{target}: cannot write there: {error.strerror or error} "
                f"({error.filename or target.parent}). Name another folder"
            ) from error
    raise OutputError(f"{folder}: other merges take it away again and again. Name another folder")


def _take_over(work: Unfinished, merge: Mapping[str, Any], *, restart: bool) -> None:
    if work.target.exists() and (not work.target.is_dir() or any(work.target.iterdir())):
        raise OutputError(f"{work.target}: was taken by another merge. Name another folder")
    before = work.journal.merge
    if before == merge and not restart:
        with storage_errors(work.target):
            work.journal.resume()
        return
    if before is not None and not restart:
        raise OutputError(
            f"{work.folder}: holds an unfinished merge that this one cannot continue: "
            f"{_difference(before, merge)}. Finish it with its own command, or discard it with "
            "--restart"
        )
    if work.journal.is_damaged and not restart and len(list(work.folder.iterdir())) > 1:
        raise OutputError(
            f"{work.folder}: holds an unfinished merge whose journal cannot be read. Discard it "
            "with --restart"
        )
    with storage_errors(work.target):
        work.clear()
        work.journal.begin(merge)


def _difference(before: Mapping[str, Any], merge: Mapping[str, Any]) -> str:
    try:
        known = {path: rest for path, *rest in before["inputs"]}
    except (LookupError, TypeError, ValueError):
        return "another version of tvmerge began it"
    for path, *rest in merge["inputs"]:
        if path in known and known[path] != rest:
            return f"the input {path} has changed since"
    if known.keys() != {path for path, *_ in merge["inputs"]}:
        return "it has other inputs"
    return "it has other coefficients or options, or another version of tvmerge began it"


def _check_space(work: Unfinished, size_bytes: int) -> None:
    # The blocks of parts that are there already need not be free.
    left_bytes = size_bytes - _held_bytes(work.folder)
    try:
        check_space(work.target, left_bytes, shutil.disk_usage(work.folder).free)
    except OutputError as error:
        if work.journal.records:  # which an OutputError would take away
            raise StorageError(str(error)) from error
        raise


def check_space(target: Path, size_bytes: int, free: int) -> None:
    """Raise OutputError where an output of `size_bytes` does not fit in the bytes that are free."""
    if free < size_bytes:
        raise OutputError(
            f"{target}: the output takes {size_bytes:,} bytes, the disk has {free:,} free. "
            "Free some space, or write to another disk"
        )


def _tell(error: BaseException, work: Unfinished) -> None:
    """Raise the error again with word of what was left; the folder stays."""
    hint = (
        f"What is done is kept in {work.folder}: run the same command again to go on; --restart "
        "(in Python, restart=True) discards it"
    )
    if isinstance(error, KeyboardInterrupt):
        raise KeyboardInterrupt(hint) from error
    if isinstance(error, TVMergeError):
        raise type(error)(f"{str(error).rstrip('.')}. {hint}") from error
    if hasattr(error, "add_note"):  # from Python 3.11 on
        error.add_note(hint)
    raise error


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
