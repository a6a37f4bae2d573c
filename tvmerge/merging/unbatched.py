"""Publishes an output that is written in one go: no batches, no way to go on after a crash.

All else is as for a merge: the folder appears whole or not at all, with a receipt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tvmerge.checkpoints.stored import Origin, Stored, file_status
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import NothingChangedError, storage_errors
from tvmerge.merging.output import index_files
from tvmerge.merging.unfinished import Unfinished, claimed
from tvmerge.plans.outcome import TensorOutcome
from tvmerge.plans.shards import OutShard
from tvmerge.receipts.file_records import data_states, other_record, weights_record
from tvmerge.receipts.making import input_record, machine, read_origins
from tvmerge.receipts.receipt import RECEIPT_NAME, FileRecord, Receipt, Recipe
from tvmerge.version import __version__

Write = Callable[[Unfinished], Sequence[TensorOutcome]]


def save_unbatched(
    out: str | os.PathLike[str],
    recipe: Recipe,
    terms: Mapping[Stored, float],
    shards: Sequence[OutShard],
    write: Write,
    options: RunOptions,
) -> Receipt:
    """Write a task vector to the folder `out`, whose place was checked before.

    `terms` are the coefficients of all inputs, `write` writes the shards' parts but for their heads
    and says what became of each tensor. Raises NothingChangedError where nothing was stored,
    StorageError where the disk fails or an input is changed meanwhile; `out` does not exist then.
    """
    started = time.monotonic()
    size_bytes = sum(shard.size_bytes for shard in shards)
    origins = {stored: stored.origin or _origin(stored) for stored in terms}
    merge = {
        "tvmerge": __version__,
        "kind": recipe.kind,
        "form": recipe.form,
        "inputs": [
            [os.fspath(path), *status]
            for origin in origins.values()
            for path, *status in origin.files
        ],
    }
    target = Path(out).resolve()
    with claimed(target, merge, size_bytes=size_bytes, restart=options.restart) as work:
        with storage_errors(out):
            work.tidy(())
        tensors = tuple(write(work))
        if not any(tensor.edit and tensor.edit.changed for tensor in tensors):
            raise NothingChangedError(
                f"{out}: nothing of the task vector would be left: all of it is zero, or has no "
                "place in this form. Store it whole"
            )
        read = read_origins(list(origins.values()), options)
        with storage_errors(out):
            work.name_parts({shard.name: shard.head for shard in shards})
            for name, content in index_files(shards).items():
                (work.folder / name).write_bytes(content)
            receipt = Receipt(
                version=__version__,
                recipe=recipe,
                inputs=tuple(input_record(one, c, read) for one, c in terms.items()),
                files=_files(work, shards, options),
                tensors=tensors,
                run={
                    "seconds": time.monotonic() - started,
                    "bytes_read": sum(record.size_bytes for record in read.values()),
                    "bytes_written": size_bytes,
                    "threads": options.thread_count(),
                    **machine(options),
                },
            )
            (work.folder / RECEIPT_NAME).write_bytes(receipt.to_bytes())
            work.publish(sync=options.flushes(size_bytes))
    return receipt


def _origin(stored: Stored) -> Origin:
    return Origin(tuple(file_status(file) for file, _ in stored.shards), None)


def _files(
    work: Unfinished, shards: Sequence[OutShard], options: RunOptions
) -> tuple[FileRecord, ...]:
    """The records of what lies in the folder, by name."""
    paths = [work.folder / shard.name for shard in shards]
    states = data_states(paths, replace(options, progress=None))
    found = {
        shard.name: weights_record(shard.name, shard.head, state, shard.size_bytes)
        for shard, state in zip(shards, states, strict=True)
    }
    for path in work.folder.iterdir():
        if path.name not in found and path not in work.own_files():
            found[path.name] = other_record(work.folder, path.name)
    return tuple(found[name] for name in sorted(found))
