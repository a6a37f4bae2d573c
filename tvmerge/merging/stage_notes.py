"""What is written beside a stage's files: their digests, and what was read for them.

So a run that goes on after a crash can tell a stage that is whole from one that a power failure has
taken, and has the digests of its inputs for the receipt without reading them again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from tvmerge.engine.digest import file_digest
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import TVMergeError
from tvmerge.files.weights import read_rest
from tvmerge.receipts.file_records import data_states
from tvmerge.receipts.receipt import FileRecord

_NAME = "notes.json"


@dataclass(frozen=True, slots=True)
class StageNotes:
    """The digest of every file by its name, and the records of all input files by their paths."""

    digests: Mapping[str, str]
    known: Mapping[Path, FileRecord]

    def write(self, folder: Path) -> None:
        """Put them into the stage's folder."""
        known = {os.fspath(path): astuple(record) for path, record in self.known.items()}
        (folder / _NAME).write_text(json.dumps([dict(self.digests), known]))


def read_notes(folder: Path) -> StageNotes | None:
    """Those of a stage's folder; None where they are missing or damaged."""
    try:
        digests, known = json.loads((folder / _NAME).read_bytes())
        records = {Path(path): FileRecord(*record) for path, record in known.items()}
        return StageNotes(dict(digests), records)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def is_intact(folder: Path, options: RunOptions) -> bool:
    """Whether the stage's files are what was written; they are read for that."""
    notes = read_notes(folder)
    if notes is None:
        return False
    paths = [folder / name for name in notes.digests]
    try:
        states = data_states(paths, replace(options, progress=None))
        found = [
            file_digest(read_rest(path), state) for path, state in zip(paths, states, strict=True)
        ]
    except (OSError, TVMergeError):
        return False
    return found == list(notes.digests.values())
