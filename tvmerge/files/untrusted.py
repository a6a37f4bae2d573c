"""Input that anybody may have written: read, parsed and quoted within bounds.

A checkpoint from the internet may hold pipes and devices in place of files, JSON that takes a
hundred times its size in memory, and names that rewrite the reader's terminal.
"""

from __future__ import annotations

import errno
import json
import os
import reprlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from tvmerge.errors import FormatError, StorageError

# No count, size or offset has more digits; longer ones take quadratic time to convert.
_MOST_DIGITS = 19
_SEPARATORS = (b",", b":", b"[", b"{")


def open_regular_file(path: Path, *, whole: bool = True) -> BinaryIO:
    """Open a file for reading, unbuffered; never waits for the other end of a pipe.

    Of one that is not to be read as a `whole` the kernel reads what is asked for and no more.

    Raises FormatError for a device, pipe or socket, OSError where the system refuses.
    """
    # Non-blocking for the pipe that `path` may be; a regular file does not mind.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise FormatError(f"{path}: is a device or a pipe, expected a regular file. Remove it")
        if not whole:  # else megabytes behind a header come with it
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, *, most_bytes: int) -> bytes:
    """The whole content of a regular file of at most `most_bytes`.

    Raises FormatError for a larger file and for what is no regular file, StorageError where
    reading fails.
    """
    try:
        with open_regular_file(path) as file:
            # One byte more than allowed: a file in /proc, or one that grows, has no size to ask.
            content = read_exactly(file, most_bytes + 1)
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror or error}") from error
    if len(content) > most_bytes:
        raise FormatError(
            f"{path}: has more than {most_bytes:,} bytes, which no such file needs. "
            "Check that it is the file that you mean"
        )
    return content


def read_exactly(file: BinaryIO, size_bytes: int) -> bytes:
    """The next `size_bytes` of an unbuffered file; fewer only where it ends."""
    pieces: list[bytes] = []
    while size_bytes > 0:
        piece = file.read(size_bytes)
        if not piece:
            break
        pieces.append(piece)
        size_bytes -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def parse_json(text: bytes, *, most_values: int) -> Any:
    """The value of a UTF-8 JSON text with unique names in every object.

    Whole numbers of more than 19 digits come back as floats. `most_values` bounds time and memory:
    it is compared with the separators in `text`, those inside strings included. Raises ValueError
    whose text completes a sentence: "the header " + "is not JSON (...)".
    """
    check_values(text, most_values=most_values)
    try:
        # Decoded here, since json.loads would guess UTF-16 and others from bytes.
        return json.loads(text.decode(), object_pairs_hook=_unique, parse_int=_whole_number)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"is not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError("is not JSON that anything writes (nested too deeply)") from error


def check_values(text: bytes, *, most_values: int) -> None:
    """Raise ValueError, as parse_json does, for a JSON text of more values."""
    if sum(map(text.count, _SEPARATORS)) > most_values:
        raise ValueError(f"holds more than {most_values:,} values")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"holds the name {shown(name)} twice")
            seen.add(name)
    return found


def _whole_number(digits: str) -> int | float:
    """A float, which callers refuse, for what is no size: -0, and more digits than any has."""
    return int(digits) if digits != "-0" and len(digits) <= _MOST_DIGITS else float(digits)


def first_non_text(strings: Iterable[str]) -> str | None:
    """The first string that is not Unicode text: JSON can spell half of a surrogate pair."""
    for string in strings:
        try:
            string.encode()
        except UnicodeEncodeError:
            return string
    return None


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 120
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = 8
        self.maxlevel = 3


_short = _Short()


def shown(value: object) -> str:
    """A value as a message quotes it: as repr() does, but short however large the value is."""
    return _short.repr(value)


def printable(text: str) -> str:
    """`text` in one line, with what could steer a terminal, or cannot be encoded, spelled out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, most: int = 300) -> str:
    """`text`, with a part left out where it has more than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 60]}...{text[-50:]}"
