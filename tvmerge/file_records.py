"""What a file is, for receipts and for checking them: size, digest, time of the last change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tvmerge.batches import cut, run_batches
from tvmerge.digest import EMPTY, add, bytes_digest, file_digest
from tvmerge.errors import StorageError
from tvmerge.jobs import Copy, Range
from tvmerge.plan import Plan
from tvmerge.receipt import FileRecord
from tvmerge.run_options import RunOptions
from tvmerge.safetensors import read_header
from tvmerge.untrusted import open_regular_file, read_exactly

_LENGTH_BYTES = 8
_BLOCK_BYTES = 2**20


def weights_record(name: str, head: bytes, state: bytes, size_bytes: int) -> FileRecord:
    """The record of a safetensors file that opens with `head`, its data summed up to `state`."""
    return FileRecord(name, size_bytes, file_digest(head, state), bytes_digest([head]))


def other_record(root: Path, name: str) -> FileRecord:
    """The record of any other file below the folder `root`; reads it once."""
    path = root / name
    with open_regular_file(path) as file:
        digest = bytes_digest(iter(lambda: file.read(_BLOCK_BYTES), b""))
        return FileRecord(name, file.tell(), digest)


def read_head(path: Path) -> bytes:
    """What precedes a safetensors file's data: length and header, checked beforehand.

    Raises StorageError, which names the file, where it cannot be read any more.
    """
    try:
        with open_regular_file(path) as file:
            length = read_exactly(file, _LENGTH_BYTES)
            return length + read_exactly(file, int.from_bytes(length, "little"))
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror or error}") from error


def data_states(paths: Sequence[Path], options: RunOptions) -> list[bytes]:
    """The digest states of the data of safetensors files, all read once.

    Raises FormatError where one is not valid, StorageError where it cannot be read.
    """
    jobs = tuple(job for number, path in enumerate(paths) for job in _reads(number, path))
    plan = Plan(variants=1, shards=(), inputs=tuple(paths), jobs=jobs)
    whole = sum(job.bytes_read for job in jobs)
    batches = cut(plan, (), batch_bytes=options.batch_bytes)
    states: Mapping[int, list[bytes]] = defaultdict(list)
    workspace = options.on_processor().workspace(whole)
    for record in run_batches(batches, workspace, options.progress, whole=whole):
        for file, state in record.input_states.items():
            states[file].append(state)
    return [add(EMPTY, *states[number]) for number in range(len(paths))]


def _reads(number: int, path: Path) -> Iterator[Copy]:
    for entry in read_header(path).entries:
        place = Range(number, entry.begin, entry.dtype, digested=True)
        yield Copy(entry.name, place, entry.size_bytes, targets=(), same_as=())
