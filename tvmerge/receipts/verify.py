"""Whether an output is, byte for byte, what its receipt says, and its inputs still what they were.

Every file is read once: safetensors files by the engine, as a merge reads them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tvmerge.engine.digest import bytes_digest, file_digest
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import FormatError, StorageError
from tvmerge.files.weights import read_header, read_rest
from tvmerge.receipts.file_records import data_states, other_record
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.receipt import RECEIPT_NAME, FileRecord, InputRecord, Receipt


@dataclass(frozen=True, slots=True)
class Fault:
    """A file that is not what the receipt says, and in what."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and all that is not as the receipt says."""

    files: int
    bytes_read: int
    faults: tuple[Fault, ...]

    @property
    def intact(self) -> bool:
        """Whether every byte is what the receipt says."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class _Expected:
    """A file, and what it should be; `label` names it in a message."""

    label: str
    root: Path
    record: FileRecord

    @property
    def path(self) -> Path:
        return self.root / self.record.name

    def fault(self, what: str) -> Fault:
        return Fault(self.label, what)


def verify(
    folder: str | os.PathLike[str],
    receipt: Receipt | None = None,
    *,
    inputs: bool = False,
    options: RunOptions | None = None,
) -> Verification:
    """Compare the output folder with its receipt; with `inputs`, the recorded inputs as well.

    Raises FormatError where there is no receipt or it is damaged, StorageError where a file cannot
    be read.
    """
    root = Path(folder)
    receipt = receipt or read_receipt(root)
    expected = [_Expected(record.name, root, record) for record in receipt.files]
    if inputs:
        expected += input_files(receipt)
    found = [*_unlisted(root, receipt), *faults(expected, options or RunOptions())]
    size = sum(one.record.size_bytes for one in expected)
    return Verification(len(expected), size, tuple(found))


def input_files(receipt: Receipt) -> list[_Expected]:
    """The files of all inputs, each once."""
    files = {}
    for record in receipt.inputs:
        root = _folder(record)
        for file in record.files:
            files[root / file.name] = _Expected(f"input {root / file.name}", root, file)
    return list(files.values())


def _folder(record: InputRecord) -> Path:
    """Where the input's files lie: it is a folder, or one of them, or their index."""
    path = Path(record.path)
    if path.exists():
        return path if path.is_dir() else path.parent
    is_file = path.suffix == ".json" or path.name in {file.name for file in record.files}
    return path.parent if is_file else path


def quick_faults(expected: Iterable[_Expected]) -> Iterator[Fault]:
    """What sizes and headers alone give away."""
    for one in expected:
        fault = _by_size(one) or (_by_header(one) if one.record.header_digest else None)
        if fault is not None:
            yield fault


def faults(expected: Iterable[_Expected], options: RunOptions) -> Iterator[Fault]:
    """What is not as it should be, byte for byte; each file is read once."""
    weights: list[_Expected] = []
    for one in expected:
        fault = _by_size(one)
        if fault is None and one.record.header_digest is not None:
            fault = _by_header(one)
            if fault is None:
                weights.append(one)
        elif fault is None and _digest(one) != one.record.digest:
            fault = one.fault("its content was changed")
        if fault is not None:
            yield fault
    states = data_states([one.path for one in weights], options)
    for one, state in zip(weights, states, strict=True):
        if file_digest(read_rest(one.path), state) != one.record.digest:
            yield one.fault("its tensor data was changed (its header is as it was)")


def _by_size(one: _Expected) -> Fault | None:
    try:
        status = one.path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return one.fault("is missing")
    except (OSError, ValueError) as error:
        raise StorageError(f"{one.path}: cannot read: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        return one.fault("is no regular file")
    if status.st_size != one.record.size_bytes:
        had = f"{one.record.size_bytes:,}"
        return one.fault(f"has {status.st_size:,} bytes, expected {had}")
    return None


def _by_header(one: _Expected) -> Fault | None:
    try:
        read_header(one.path)
    except FormatError:
        return one.fault("its header was changed: it is not valid any more")
    if bytes_digest([read_rest(one.path)]) != one.record.header_digest:
        return one.fault("its header was changed")
    return None


def _digest(one: _Expected) -> str:
    try:
        return other_record(one.root, one.record.name).digest
    except OSError as error:
        raise StorageError(f"{one.path}: cannot read: {error.strerror or error}") from error


def _unlisted(root: Path, receipt: Receipt) -> Iterator[Fault]:
    """Files that nobody wrote down: a loader may take them for the model's own.

    Hidden ones are left alone: they are those of git, the hub and the desktop.
    """
    known = {file.name for file in receipt.files} | {RECEIPT_NAME}
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = (Path(place) / name).relative_to(root).as_posix()
            if not name.startswith(".") and path not in known:
                yield Fault(path, "is not in the receipt: it was added later")
