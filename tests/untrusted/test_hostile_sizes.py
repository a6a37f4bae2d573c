"""Files made to take all memory or time: refused with a message, at once, in little memory."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from support import torch_files
from support.checkpoints import INDEX, write_index
from untrusted.hostile import GIB, one, opened_within_limits, raw

from tvmerge.checkpoints.stored import open_stored
from tvmerge.errors import FormatError
from tvmerge.files.safetensors import MOST_TENSORS, read_header
from tvmerge.receipts.receipt import RECEIPT_NAME

pytestmark = pytest.mark.slow

TINY = b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'

HEADERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "too many tensors": (
        lambda: b"{" + b",".join(TINY % i for i in range(MOST_TENSORS + 1)) + b"}",
        f"the header has {MOST_TENSORS + 1:,} entries, expected at most {MOST_TENSORS:,}",
    ),
    "33 million empty objects": (
        lambda: b'{"a":[' + b"{}," * 33_000_000 + b"{}]}",
        "the header holds more than 6,000,000 values",
    ),
    "100 MB of brackets": (lambda: b"[" * 99_999_999, "holds more than 6,000,000 values"),
    "metadata alone": (
        lambda: b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(4_000_000)) + b"}}",
        "holds more than 6,000,000 values",
    ),
    "one name repeated late": (
        lambda: b"{" + b",".join(b'"%d":0' % i for i in range(300_000)) + b',"299999":0}',
        "the header holds the name '299999' twice",
    ),
    "a shape whose product never ends": (
        lambda: one(b'"dtype":"U8","data_offsets":[0,1],"shape":[' + b"9" * 18
                    + (b"," + b"9" * 18) * 300_000 + b"]"),
        "is not a list of sizes, 64 at most",
    ),
    "a number of 50 million digits": (
        lambda: one(b'"dtype":"U8","shape":[' + b"9" * 50_000_000 + b'],"data_offsets":[0,1]'),
        "shape [inf] is not a list of sizes",
    ),
    "a name of 50 million characters": (
        lambda: one(b'"dtype":"U8","shape":[],"data_offsets":[0,1]', b"n" * 50_000_000),
        "a name has 50,000,000 characters, expected at most 4096",
    ),
    "a name of wide characters": (
        lambda: one(b"", "\U0001f600".encode() * 12_000_000),
        "a name has 12,000,000 characters, expected at most 4096",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_large_header_is_refused_within_a_gibibyte_and_seconds(name: str, tmp_path: Path) -> None:
    make, fault = HEADERS[name]
    (tmp_path / "model.safetensors").write_bytes(raw(make()))
    (message,) = opened_within_limits(tmp_path)
    assert fault in message
    assert len(message) < 1000


PICKLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "mappings": (lambda: b"}" * 60_000_000, "takes more than 4,000,000 steps"),
    "mappings kept": (lambda: b"}\x94" * 30_000_000, "takes more than 4,000,000 steps"),
    "marks": (lambda: b"(" * 60_000_000, "takes more than 4,000,000 steps"),
    "a deep nest": (lambda: b")" + b"\x85" * 3_000_000 + b".", "holds a tuple, expected tensors"),
    "a deep name": (lambda: b"})" + b"\x85" * 3_000_000 + b"Ns.", "keys are not names"),
    "a deep call": (
        lambda: b"ccollections\nOrderedDict\n)" + b"\x85" * 3_000_000 + b"R.",
        "calls collections.OrderedDict with",
    ),
    "one wide name": (  # takes four times its size
        lambda: (
            b"}X" + struct.pack("<I", 60_000_004) + b"\xf0\x9f\x98\x80" + b"x" * 60_000_000 + b"Ns."
        ),
        "holds a None under",
    ),
    "a record that is no pickle": (lambda: bytes(65_000_000), "expected at most 64,000,000"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_a_large_pickle_is_refused_within_a_gibibyte_and_seconds(name: str, tmp_path: Path) -> None:
    make, fault = PICKLES[name]
    (tmp_path / "pytorch_model.bin").write_bytes(torch_files.archive(make(), {}))
    (message,) = opened_within_limits(tmp_path)
    assert fault in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("records", "fault"), [(600_000, "is a zip archive without data.pkl"), (600_001, "expected at")]
)
def test_a_large_zip_directory_is_refused_within_limits(
    records: int, fault: str, tmp_path: Path
) -> None:
    entry = struct.Struct("<4s6H3L5H2L")
    sizes = (0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry.pack(b"PK\1\2", *sizes) + b"a/%06x" % i for i in range(records))
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0, 0, 0, 0, records, records,
                       len(directory), 30)  # fmt: skip
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 30 + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    start = b"PK\3\4".ljust(30, b"\0")
    (tmp_path / "pytorch_model.bin").write_bytes(start + directory + wide + locator + end)
    (message,) = opened_within_limits(tmp_path)
    assert fault in message


def test_as_many_tensors_as_allowed_are_read_within_a_gibibyte(tmp_path: Path) -> None:
    text = b"{" + b",".join(TINY % i for i in range(MOST_TENSORS)) + b"}"
    (tmp_path / "model.safetensors").write_bytes(raw(text))
    assert opened_within_limits(tmp_path) == ["opened"]


def test_a_large_index_is_refused_within_a_gibibyte_and_seconds(tmp_path: Path) -> None:
    shards = write_index(tmp_path, {f"t{i}": f"m{i}.safetensors" for i in range(10_001)})
    (tmp_path / "many").mkdir()
    tensors = write_index(tmp_path / "many", dict.fromkeys(map(str, range(MOST_TENSORS + 1)), "m"))
    (tmp_path / "large").mkdir()
    large = tmp_path / "large" / INDEX
    large.write_bytes(b"")
    os.truncate(large, 64 * GIB)  # sparse
    found = opened_within_limits(shards, tensors, large)
    assert "names 10,001 tensors in 10,001 files, expected at most" in found[0]
    assert "names 500,001 tensors in 1 files, expected at most 500,000" in found[1]
    assert "has more than 100,000,000 bytes, which no such file needs" in found[2]


RECEIPTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty objects": (lambda: b'{"run":[' + b"{}," * 49_000_000 + b"{}]}", "holds more than 8,500"),
    "objects": (lambda: b'{"run":[' + b'{"":0},' * 2_600_000 + b"0]}", "expected the format"),
    "texts": (lambda: b'{"run":[' + b'"ab",' * 7_900_000 + b"0]}", "expected the format"),
    "one text": (lambda: b'{"run":"' + b"x" * 149_000_000 + b'"}', "expected the format"),
    "one wide text": (lambda: b'{"run":"\xf0\x9f\x98\x80' + b"x" * 140_000_000 + b'"}', "ASCII"),
    "more than a receipt": (lambda: b" " * 150_000_001, "has more than 150,000,000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECEIPTS)
def test_a_large_receipt_is_refused_within_a_gibibyte_and_seconds(
    name: str, tmp_path: Path
) -> None:
    make, fault = RECEIPTS[name]
    (tmp_path / RECEIPT_NAME).write_bytes(make())
    (message,) = opened_within_limits(tmp_path)
    assert fault in message
    assert len(message) < 1000


def test_shards_are_not_all_read_before_the_first_that_the_index_contradicts(
    tmp_path: Path,
) -> None:
    """Else an index of one line could make the reader hold ten thousand headers."""
    (tmp_path / "a.safetensors").write_bytes(
        raw(one(b'"dtype":"U8","shape":[1],"data_offsets":[0,1]', b"unknown"), b"x")
    )
    (tmp_path / "b.safetensors").write_bytes(b"not read")
    write_index(tmp_path, {"x": "a.safetensors", "y": "b.safetensors"})
    with pytest.raises(FormatError, match=r"'unknown' of 'a.safetensors' is not in the weight_map"):
        open_stored(tmp_path)


def test_a_recipe_of_the_largest_size_is_checked_within_limits(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("".join(f"key{i}: 1\n" for i in range(18_000)))
    (tmp_path / "list.yaml").write_text("a: [" + "x," * 49_000 + "]")
    keys, flat = opened_within_limits(tmp_path / "keys.yaml", tmp_path / "list.yaml")
    assert "key0: unknown key" in keys
    assert "a: unknown key" in flat
    assert max(len(keys), len(flat)) < 10_000


def test_every_header_length_that_a_file_can_claim_is_checked_before_it_is_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.safetensors"
    for exponent in range(2, 64):
        path.write_bytes(struct.pack("<Q", 1 << exponent) + b"{}")
        with pytest.raises(FormatError, match=f"claims {1 << exponent} bytes; the file has 10"):
            read_header(path)
