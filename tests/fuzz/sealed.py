"""Receipts and journals: documents behind checksums, which damaged ones are given anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from hashlib import blake2b
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from fuzz.mutation import mutated_bytes, mutated_json
from fuzz.own_folder import own_folder
from tvmerge.engine.edit import Edit
from tvmerge.merging.journal import Journal
from tvmerge.plans.outcome import COMBINED, COPIED, TensorOutcome
from tvmerge.plans.record import Record
from tvmerge.receipts.parsing import parse_receipt
from tvmerge.receipts.receipt import (
    SEAL,
    FileRecord,
    InputRecord,
    Receipt,
    Recipe,
    RecipeText,
    seal,
)

_DIGEST = "tvd1:" + "0123456789abcdef" * 2


@cache
def receipt() -> bytes:
    """A receipt's file."""
    shard = FileRecord("model.safetensors", 1234, _DIGEST, header_digest="blake2b:" + "0" * 32)
    config = FileRecord("sub/config.json", 17, "blake2b:" + "f" * 32)
    source = FileRecord("model.safetensors", 1234, _DIGEST, mtime_ns=1_700_000_000_123_456_789)
    made = Receipt(
        version="0.2.0",
        recipe=Recipe("model", 0, "BF16", RecipeText("linear", "merge_method: linear\n")),
        inputs=(
            InputRecord("base", "/models/base", 1.5, (source,)),
            InputRecord("./a", "/models/a", -0.5, (source,)),
        ),
        files=(shard, config),
        tensors=(
            TensorOutcome("a", "BF16", 12, COMBINED, "", Edit(3, 11, 8, 0.5, 0.25, 0.125)),
            TensorOutcome("b", "F32", 2, COMBINED, "", Edit(1, 2, 0, float("nan"), 1e300, -1e300)),
            TensorOutcome("ids", "I64", 4, COPIED, "not floating point", None, differs=True),
        ),
        run={"threads": 2, "seconds": 0.5, "host": "x"},
    )
    return made.to_bytes()


def make_receipt(random: Random) -> bytes:
    """A damaged receipt, in most cases with the digest that belongs to it."""
    before, _, after = receipt().rpartition(SEAL)
    run = after.partition(b",")[2]
    if random.random() < 0.6:
        before = mutated_json(random, before + b"}")[:-1]
    if random.random() < 0.4:
        before = mutated_bytes(random, before)
    if random.random() < 0.2:
        run = mutated_bytes(random, run)
    text = before + SEAL + json.dumps(seal(before)).encode() + b"," + run
    return mutated_bytes(random, text) if random.random() < 0.1 else text


def parse_sound_receipt(case: bytes) -> bool:
    """What is accepted can be written, and is then read as the same."""
    found = parse_receipt(case)
    written = found.to_bytes()
    assert parse_receipt(written).to_bytes() == written
    for record in found.files:
        assert ".." not in Path(record.name).parts and not Path(record.name).is_absolute()
    return True


@cache
def journal() -> bytes:
    """A journal's file: the merge, two batches, another process in between."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / ".journal"
        opened = Journal.open(path)
        opened.begin({"out": "x", "inputs": [["/models/base", 1234, 17]], "coefficients": [1.5]})
        for number in (0, 1):
            opened.add(
                Record(
                    number=number,
                    edits=((Edit(1, 2, 3, 0.5, float("inf"), 0.25),), (Edit(), Edit())),
                    different=(0, 7),
                    input_states={0: bytes(range(64)), 3: bytes(64)},
                    output_states={1: bytes(64)},
                    bytes_read=123,
                    bytes_written=45,
                    direct_bytes=3,
                    cloned_bytes=7,
                    seconds=0.5,
                )
            )
            opened.resume()
        opened.close()
        return path.read_bytes()


def make_journal(random: Random) -> bytes:
    """A damaged journal: lines cut, or changed behind a checksum that fits."""
    lines = journal().splitlines(keepends=True)
    for number in random.sample(range(len(lines)), random.randint(0, 2)):
        body = lines[number].partition(b" ")[2].rstrip(b"\n")
        body = (mutated_json if random.random() < 0.7 else mutated_bytes)(random, body) + b"\n"
        lines[number] = blake2b(body, digest_size=8).hexdigest().encode() + b" " + body
    text = b"".join(lines)
    return mutated_bytes(random, text) if random.random() < 0.4 else text


def parse_journal(case: bytes) -> bool:
    """What holds is kept as it was, what follows is cut off, and the same is read again."""
    path = own_folder() / ".journal"
    path.write_bytes(case)
    opened = Journal.open(path)
    opened.close()
    kept = path.read_bytes()
    assert case.startswith(kept)
    assert opened.merge is None or isinstance(opened.merge, Mapping)
    assert all(isinstance(record, Record) for record in opened.records.values())
    again = Journal.open(path)
    again.close()
    assert repr(again.records) == repr(opened.records)  # NaN is not equal to itself
    return opened.merge is not None and kept == case
