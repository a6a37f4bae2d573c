"""What a file is, for receipts and for checking them: size, digest, time of the last change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tvmerge.engine.digest import EMPTY, add, bytes_digest, file_digest
from tvmerge.engine.jobs import Copy, Range
from tvmerge.engine.run_options import RunOptions
from tvmerge.files.untrusted import open_regular_file
from tvmerge.files.weights import read_header
from tvmerge.plans.batches import cut, run_batches
from tvmerge.plans.plan import Plan
from tvmerge.receipts.receipt import FileRecord

_BLOCK_BYTES = 2**20


def weights_record(name: str, rest: bytes, state: bytes, size_bytes: int) -> FileRecord:
    """The record of a file of weights, all of which is `rest` but data summed up to `state`."""
    return FileRecord(name, size_bytes, file_digest(rest, state), bytes_digest([rest]))


def other_record(root: Path, name: str) -> FileRecord:
    """The record of any other file below the folder `root`; reads it once."""
    path = root / name
    with open_regular_file(path) as file:
        digest = bytes_digest(iter(lambda: file.read(_BLOCK_BYTES), b""))
        return FileRecord(name, file.tell(), digest)


def data_states(paths: Sequence[Path], options: RunOptions) -> list[bytes]:
    """The digest states of the data of files of weights, all read once.

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
    # Tensors that are one in a file of torch count once.
    places = {(entry.begin, entry.end): entry for entry in read_header(path).entries}
    for entry in places.values():
        place = Range(number, entry.begin, entry.dtype, digested=True)
        yield Copy(entry.name, place, entry.size_bytes, targets=(), same_as=())
