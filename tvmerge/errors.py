"""Every error that tvmerge raises on purpose, and the exit code that the command line gives it.

    TVMergeError                 1
    ├── ConfigError              2   a configuration, option or expression that means nothing
    ├── FormatError              3   a file that is not what it claims to be
    ├── MismatchError            4   inputs that do not fit together
    ├── OutputError              5   a place that cannot be written, or must not be
    ├── NothingChangedError      6   a merge that left everything as it was
    ├── StorageError             7   the disk failed: read error, short file, no space
    ├── MemoryLimitError         8   the memory limit cannot be kept
    └── DeviceError              9   a card cannot be used, or failed

Messages say what, where, expected, found and what to do. Interrupts end with 130.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class TVMergeError(Exception):
    """Root of all errors raised on purpose."""

    exit_code = 1


class ConfigError(TVMergeError, ValueError):
    """A configuration, option or expression that means nothing."""

    exit_code = 2


class FormatError(TVMergeError, ValueError):
    """A file that is not what it claims to be."""

    exit_code = 3


class MismatchError(TVMergeError, ValueError):
    """Inputs that do not fit together: shapes, names, kinds."""

    exit_code = 4


class OutputError(TVMergeError, OSError):
    """An output place that cannot be written, or must not be."""

    exit_code = 5


class NothingChangedError(TVMergeError, RuntimeError):
    """A merge that left everything as it was, where it should have changed something."""

    exit_code = 6


class StorageError(TVMergeError, OSError):
    """The disk failed: a read error, a file that became shorter, no space left."""

    exit_code = 7


class MemoryLimitError(TVMergeError, MemoryError):
    """The memory limit cannot be kept."""

    exit_code = 8


class DeviceError(TVMergeError, RuntimeError):
    """A card that cannot be used (no build, no driver, no card, too old), or failed."""

    exit_code = 9


INTERRUPTED_EXIT_CODE = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known name nearest to `name`, or an empty string."""
    import difflib  # by those alone who have mistyped something

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


@contextmanager
def storage_errors(place: str | os.PathLike[str], doing: str = "write") -> Iterator[None]:
    """Raise StorageError for what the operating system refuses while `place` is written."""
    try:
        yield
    except TVMergeError:
        raise
    except OSError as error:
        raise StorageError(f"{place}: cannot {doing}: {error.strerror or error}") from error
