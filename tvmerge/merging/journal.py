"""The journal of an unfinished merge: which merge it is, and which batches are done.

JSON lines, each behind a checksum of its own. The first line names the merge; every further one is
the record of a batch. What follows a line that does not hold (a crash cut it off) is worth nothing
and is written over. Opening it locks its folder: one process at a time writes there. The lock is on
the folder rather than on the file, which is gone at the moment when the folder gets its last name;
the file is locked too, for file systems that lock only files.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tvmerge.errors import OutputError
from tvmerge.plans.record import Record

FORMAT = "tvmerge journal 1"
# Whoever may write beside the destination could have put a link to somebody's file there.
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_SUM_DIGITS = 16


class Journal:
    """An open and locked journal. Made by `Journal.open`."""

    def __init__(self, folder: int, file: int) -> None:
        self._folder, self._file = folder, file
        self.merge: Mapping[str, Any] | None = None
        # It holds something, but does not say which merge it belongs to.
        self.is_damaged = False
        self.records: dict[int, Record] = {}
        self._read()

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open or create the journal at `path`, its folder locked.

        Raises OutputError where another process holds it, FileNotFoundError where the folder is
        gone, or was published this moment. On a file system that knows no locks two merges into
        one folder are not kept apart.
        """
        with ExitStack() as opened:
            folder = os.open(path.parent, _OPEN_FOLDER)
            opened.callback(os.close, folder)
            _lock(folder, path)
            if not os.path.samestat(os.fstat(folder), path.parent.lstat()):
                raise FileNotFoundError(path)
            file = os.open(path, _OPEN, 0o666)
            opened.callback(os.close, file)
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OutputError(f"{path}: is a device or a pipe. Remove it")
            _lock(file, path)
            journal = cls(folder, file)
            opened.pop_all()
            return journal

    def begin(self, merge: Mapping[str, Any]) -> None:
        """Start over, with the merge that follows."""
        self.merge, self.records = None, {}
        os.lseek(self._file, 0, os.SEEK_SET)
        os.ftruncate(self._file, 0)
        self._append({"format": FORMAT, "pid": os.getpid(), "merge": merge})
        self.merge = merge

    def resume(self) -> None:
        """Go on with the merge that is there, in this process."""
        self._append({"pid": os.getpid()})

    def add(self, record: Record) -> None:
        """Write down that a batch is done."""
        self._append(record.to_json())
        self.records[record.number] = record

    def close(self) -> None:
        """Release the lock."""
        os.close(self._file)
        os.close(self._folder)

    def restore(self, path: Path) -> None:
        """Write it anew at `path`, from where it was removed; the folder has stayed locked."""
        merge, records = self.merge, self.records
        assert merge is not None
        os.close(self._file)
        self._file = os.open(path, _OPEN, 0o666)
        self.begin(merge)
        for record in records.values():
            self.add(record)

    def _append(self, value: Mapping[str, Any]) -> None:
        data = _line(value)
        while data:
            data = data[os.write(self._file, data) :]

    def _read(self) -> None:
        text = b"".join(iter(lambda: os.read(self._file, 2**20), b""))
        values, length = parse(text)
        merge = values[0].get("merge") if values and values[0].get("format") == FORMAT else None
        if not isinstance(merge, dict):
            self.is_damaged = bool(text)
            return
        self.merge = merge
        self.records = {record.number: record for record in _records(values[1:])}
        os.ftruncate(self._file, length)
        os.lseek(self._file, length, os.SEEK_SET)


def parse(text: bytes) -> tuple[list[dict[str, Any]], int]:
    """A journal's objects up to the first line that does not hold, and their length in bytes."""
    values: list[dict[str, Any]] = []
    length = 0
    for line in text.splitlines(keepends=True):
        checksum, _, body = line.partition(b" ")
        if not line.endswith(b"\n") or checksum != _checksum(body):
            break
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            break
        if not isinstance(value, dict):
            break
        values.append(value)
        length += len(line)
    return values, length


def _records(values: list[dict[str, Any]]) -> list[Record]:
    records = []
    for value in values:
        if "pid" in value:
            continue  # another process has gone on here
        try:
            records.append(Record.from_json(value))
        except (LookupError, TypeError, ValueError, AttributeError):
            break  # from another version
    return records


def _line(value: Mapping[str, Any]) -> bytes:
    body = json.dumps(value).encode() + b"\n"
    return _checksum(body) + b" " + body


def _checksum(body: bytes) -> bytes:
    return blake2b(body, digest_size=_SUM_DIGITS // 2).hexdigest().encode()


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        values, _ = parse(path.read_bytes() if path.exists() else b"")
        pids = [value["pid"] for value in values if isinstance(value.get("pid"), int)]
        who = f" (process {pids[-1]})" if pids else ""
        raise OutputError(
            f"{path.parent}: another merge{who} is writing there. Wait for it, or name another "
            "folder"
        ) from error
    except OSError:
        pass  # no locks here (some network file systems)
