"""How much of a file lies in the page cache: what a merge need not read from the disk."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

_PAGE_BYTES = mmap.PAGESIZE
# Asked for at a time: one byte for each page comes back.
_WINDOW_BYTES = 2**30
_DROPS = 5
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


class PageCache:
    """Which pages of a file were in memory when it was looked at."""

    def __init__(self, path: Path) -> None:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.size_bytes = os.fstat(file).st_size
            self._pages = b"".join(
                _resident(file, offset, min(_WINDOW_BYTES, self.size_bytes - offset))
                for offset in range(0, self.size_bytes, _WINDOW_BYTES)
            )
        finally:
            os.close(file)

    def cached_bytes(self, offset_bytes: int, size_bytes: int) -> int:
        """How many bytes of a range are cached, to about a page."""
        if size_bytes <= 0:
            return 0
        first, last = offset_bytes // _PAGE_BYTES, (offset_bytes + size_bytes - 1) // _PAGE_BYTES
        pages = self._pages.count(1, first, last + 1)
        return size_bytes * pages // (last + 1 - first)


def forget(
    path: str | os.PathLike[str], begin: int = 0, end: int = 0, *, flush: bool = False
) -> None:
    """Drop a range of a file from the page cache; 0, 0: all of it.

    What has not been written yet stays, unless it is `flush`ed.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if flush:
            os.fsync(file)
        os.posix_fadvise(file, begin, end - begin, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def forget_all(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Drop whole files, written or not yet.

    Several times: one request leaves what is still in some processor's queue.
    """
    for path in [*paths] * _DROPS:
        forget(path, flush=True)


def _resident(file: int, offset_bytes: int, size_bytes: int) -> bytes:
    """One byte for each page, 1 where it is in memory.

    Linux tells it of a file that the caller owns or may write; of any other it says that all of
    it is. Where it cannot be found out at all, nothing counts as cached.
    """
    pages = -(-size_bytes // _PAGE_BYTES)
    found = ctypes.create_string_buffer(pages)
    address = _libc.mmap(None, size_bytes, mmap.PROT_READ, mmap.MAP_SHARED, file, offset_bytes)
    if address == _MAP_FAILED:
        return bytes(pages)
    try:
        if _libc.mincore(address, size_bytes, found) != 0:
            return bytes(pages)
    finally:
        _libc.munmap(address, size_bytes)
    return found.raw
