"""Finds the records of a zip archive as torch.save writes it: stored whole, none compressed.

Python's zipfile would hold a hundred times a hostile directory's size. The format: APPNOTE.TXT 6.3,
sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (its end), 4.5.3 (zip64).
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any, BinaryIO, NamedTuple

from tvmerge.files.untrusted import read_exactly, shown

LOCAL_SIGNATURE = b"PK\3\4"

_LOCAL = Struct("<4s5H3L2H")
_ENTRY = Struct("<4s6H3L5H2L")
_END = Struct("<4s4H2LH")
_END64 = Struct("<4sQ2H2L4Q")
_LOCATOR64 = Struct("<4sLQL")
_EXTRA = Struct("<2H")
_OF_ZIP64 = 1
_IN_ZIP64 = 0xFFFFFFFF  # in place of a size or offset that takes more than 32 bits
_ENCRYPTED = 1
_LARGEST_DIRECTORY_BYTES = 100_000_000
_MOST_RECORDS = 600_000


class Record(NamedTuple):
    """A record as the directory lists it: where its local header begins, and its size in bytes."""

    header_begin: int
    size_bytes: int
    stored: bool  # as it is: neither compressed nor encrypted


class Archive:
    """The records of the open `file`, by their names below the archive's own folder.

    Raises ValueError, whose text completes "the file ", where it is no sound archive.
    """

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        self._begin, directory, count = _directory(file, size_bytes)
        self.records: dict[str, Record] = {}
        folder = None  # that of the first record, as torch takes it
        for name, record in _entries(directory, count):
            folder = name.partition("/")[0] + "/" if folder is None else folder
            if not name.startswith(folder):
                continue
            if name[len(folder) :] in self.records:
                raise ValueError(f"lists its record {shown(name)} twice")
            self.records[name[len(folder) :]] = record

    def place(self, name: str) -> tuple[int, int]:
        """The bytes of a record, from where to where in the file."""
        record = self.records.get(name)
        if record is None:
            raise ValueError(f"has no record {shown(name)}")
        if not record.stored:
            raise ValueError(f"has its record {shown(name)} compressed or encrypted")
        header = _read(self._file, record.header_begin, _LOCAL, self._begin)
        if header is None or header[0] != LOCAL_SIGNATURE:
            raise ValueError(f"does not hold the record {shown(name)} where its directory says")
        begin = record.header_begin + _LOCAL.size + sum(header[-2:])
        end = begin + record.size_bytes
        if end > self._begin:
            raise ValueError(f"is too short for its record {shown(name)}")
        return begin, end

    def read(self, name: str, *, most_bytes: int) -> bytes:
        """The content of a small record."""
        begin, end = self.place(name)
        if end - begin > most_bytes:
            what = f"of {end - begin:,} bytes, expected at most {most_bytes:,}"
            raise ValueError(f"has a record {shown(name)} {what}")
        self._file.seek(begin)
        return read_exactly(self._file, end - begin)


def _directory(file: BinaryIO, size_bytes: int) -> tuple[int, bytes, int]:
    """Where the directory begins, its bytes, and the number of its entries."""
    at = size_bytes - _END.size
    end = _read(file, at, _END, size_bytes)
    if end is None or end[0] != b"PK\5\6" or end[-1]:
        raise ValueError("does not end in the directory of a zip archive: it is cut off, or no zip")
    count, length, begin = end[4:7]
    locator = _read(file, at - _LOCATOR64.size, _LOCATOR64, at)
    if locator is not None and locator[0] == b"PK\6\7":
        at, before = locator[2], at
        wide = _read(file, at, _END64, before)
        if wide is None or wide[0] != b"PK\6\6":
            raise ValueError("has no zip64 end of its directory where it says")
        count, length, begin = wide[7:10]
    if begin + length > at:
        raise ValueError("has a directory that ends behind its end")
    if length > _LARGEST_DIRECTORY_BYTES or count > _MOST_RECORDS:
        most = f"at most {_MOST_RECORDS:,} in {_LARGEST_DIRECTORY_BYTES:,}"
        raise ValueError(f"lists {count:,} records in {length:,} bytes, expected {most}")
    file.seek(begin)
    return begin, read_exactly(file, length), count


def _read(file: BinaryIO, at: int, layout: Struct, end: int) -> tuple[Any, ...] | None:
    """The fields at byte `at`; None where they do not lie before `end`."""
    if not 0 <= at <= end - layout.size:
        return None
    file.seek(at)
    text = read_exactly(file, layout.size)
    return layout.unpack(text) if len(text) == layout.size else None


def _entries(directory: bytes, count: int) -> Iterator[tuple[str, Record]]:
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > len(directory) or not directory.startswith(b"PK\1\2", at):
            raise ValueError("has a damaged directory")
        fields = _ENTRY.unpack_from(directory, at)
        flags, method, packed, size, begin = fields[3], fields[4], *fields[8:10], fields[16]
        name_end = at + _ENTRY.size + fields[10]
        name = directory[at + _ENTRY.size : name_end].decode(errors="replace")
        at = name_end + fields[11] + fields[12]
        if at > len(directory):
            raise ValueError("has a damaged directory")
        extra = directory[name_end : name_end + fields[11]]
        size, packed, begin = _widened((size, packed, begin), extra)
        stored = method == 0 and packed == size and not flags & _ENCRYPTED
        yield name, Record(begin, size, stored)


def _widened(values: tuple[int, ...], extra: bytes) -> list[int]:
    """The values, those in place of which 0xFFFFFFFF stands read from the zip64 field."""
    at = 0
    while at + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if kind == _OF_ZIP64:
            field = extra[at : at + length]
            wide = iter([field[n : n + 8] for n in range(0, len(field) - 7, 8)])
            return [
                int.from_bytes(next(wide, b""), "little") if value == _IN_ZIP64 else value
                for value in values
            ]
        at += length
    return list(values)
