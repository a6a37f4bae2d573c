"""Headers: every way a file can be bad is a FormatError that names the file and the fault."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.checkpoints import DTYPES, write_file

from tvmerge.errors import FormatError, StorageError
from tvmerge.files.safetensors import DTYPE_BITS, layout, read_header

HUGE = 2**62


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


SOUND = {"a": entry(), "b": entry("U8", [3], [8, 11])}
DATA = bytes(range(11))

BAD = {
    "empty file": (b"", "the file has 0 bytes; a header length alone takes 8"),
    "five bytes": (b"12345", "the file has 5 bytes"),
    "length beyond the file": (struct.pack("<Q", 100) + b"{}", "claims 100 bytes; the file has 10"),
    "huge length": (struct.pack("<Q", 2**63) + b"{}", f"claims {2**63} bytes; the file has 10"),
    "length zero": (raw(b""), "the header is not JSON"),
    "not JSON": (raw(b"{'a': 1}"), "the header is not JSON"),
    "a pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "bytes; the file has 15"),
    "two values": (raw(b"{}{}"), "the header is not JSON"),
    "a list": (raw([]), "the header is a JSON list, expected an object"),
    "a number": (raw(b"7"), "the header is a JSON int, expected an object"),
    "NaN as an entry": (raw(b'{"a": NaN}'), "tensor 'a': expected exactly dtype, shape and"),
    "invalid UTF-8": (raw(b'{"a\xff": 1}'), "the header is not JSON"),
    "UTF-16": (raw("{}".encode("utf-16-le")), "the header is not JSON"),
    "byte order mark": (raw(b"\xef\xbb\xbf{}"), "the header is not JSON"),
    "half a surrogate pair": (raw(b'{"\\ud800": {}}'), "is not text"),
    "surrogate in metadata": (raw(b'{"__metadata__": {"a": "\\udfff"}}'), "is not text"),
    "deep nesting": (raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "the header is not JSON"),
    "endless number": (raw(b'{"a": ' + b"9" * 5000 + b"}"), "tensor 'a': expected exactly"),
    "same name twice": (
        raw(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
        "the header holds the name 'a' twice",
    ),
    "same field twice": (
        raw(b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"x"),
        "the header holds the name 'dtype' twice",
    ),
    "metadata a list": (raw({"__metadata__": []}), "__metadata__ must map strings to strings"),
    "metadata of numbers": (raw({"__metadata__": {"n": 1}}), "must map strings to strings"),
    "metadata nested": (raw({"__metadata__": {"n": {}}}), "must map strings to strings"),
    "entry not an object": (raw({"a": [1]}), "tensor 'a': expected exactly dtype, shape and data"),
    "entry without dtype": (raw({"a": {"shape": [], "data_offsets": [0, 1]}}), "exactly dtype"),
    "entry with more": (raw({"a": entry() | {"x": 1}}, bytes(8)), "tensor 'a': expected exactly"),
    "unknown dtype": (raw({"a": entry("F33")}, bytes(8)), "tensor 'a': unknown dtype 'F33'"),
    "dtype a number": (raw({"a": entry(32)}, bytes(8)), "tensor 'a': unknown dtype 32"),
    "dtype in lower case": (raw({"a": entry("f32")}, bytes(8)), "unknown dtype 'f32'"),
    "negative size": (raw({"a": entry(shape=[-2])}, bytes(8)), "shape [-2] is not a list of sizes"),
    "two negative sizes": (raw({"a": entry(shape=[-2, -1])}, bytes(8)), "is not a list of sizes"),
    "minus zero": (raw(b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "list of sizes"),
    "size a bool": (raw({"a": entry(shape=[True, 2])}, bytes(8)), "shape [True, 2] is not a list"),
    "size a float": (raw({"a": entry(shape=[2.0])}, bytes(8)), "shape [2.0] is not a list"),
    "size a string": (raw({"a": entry(shape=["2"])}, bytes(8)), "shape ['2'] is not a list"),
    "shape a number": (raw({"a": entry(shape=2)}, bytes(8)), "shape 2 is not a list of sizes"),
    "size past 64 bits": (raw({"a": entry(shape=[2**64])}, bytes(8)), "is not a list of sizes"),
    "overflowing shape": (raw({"a": entry(shape=[HUGE, HUGE])}, bytes(8)), "no countable"),
    "overflow hidden by 0": (raw({"a": entry("U8", [HUGE, HUGE, 0], [0, 0])}), "no countable"),
    "half a byte": (raw({"a": entry("F4", [3], [0, 1])}, b"x"), "no countable"),
    "one offset": (raw({"a": entry(offsets=[0])}, bytes(8)), "[0] are not two byte positions"),
    "three offsets": (raw({"a": entry(offsets=[0, 8, 8])}, bytes(8)), "not two byte positions"),
    "negative offset": (raw({"a": entry(offsets=[-8, 0])}, bytes(8)), "not two byte positions"),
    "offset a float": (raw({"a": entry(offsets=[0, 8.0])}, bytes(8)), "not two byte positions"),
    "end before begin": (raw({"a": entry(offsets=[8, 0])}, bytes(8)), "span -8 bytes, but F32"),
    "offsets too long": (raw({"a": entry(offsets=[0, 12])}, bytes(12)), "span 12 bytes, but F32"),
    "overlap": (
        raw({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
        "tensor 'b' overlaps the one before it: it begins at byte 4 of the data, expected 8",
    ),
    "shared range": (raw({"a": entry(), "b": entry()}, bytes(8)), "overlaps the one before it"),
    "hole": (raw({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)), "'b' leaves a hole"),
    "hole at the start": (raw({"a": entry(offsets=[4, 12])}, bytes(12)), "'a' leaves a hole"),
    "truncated": (raw(SOUND, DATA[:-1]), "(truncated)"),
    "trailing bytes": (raw(SOUND, DATA + b"!"), "(bytes that belong to no tensor)"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "fault"), BAD.values(), ids=list(BAD))
def test_a_bad_file_is_refused_with_its_name_and_the_fault(
    content: bytes, fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a valid safetensors file: ")
    assert fault in message
    assert len(message) < 2000


def test_a_sound_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    content = raw(SOUND | {"__metadata__": {"format": "pt"}}, DATA)
    path.write_bytes(content)
    header = read_header(path)
    start = len(content) - len(DATA)
    found = [(e.name, e.dtype, e.shape, e.begin - start, e.end - start) for e in header.entries]
    assert found == [("a", "F32", (2,), 0, 8), ("b", "U8", (3,), 8, 11)]
    assert header.metadata == {"format": "pt"}
    assert header.size_bytes == len(content)


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_of_the_format_has_its_size(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    size = 16 * DTYPE_BITS[dtype] // 8
    path.write_bytes(raw({"a": entry(dtype, [4, 4], [0, size])}, bytes(size)))
    assert safetensors.deserialize(path.read_bytes())[0][1]["dtype"] == dtype
    assert read_header(path).entries[0].size_bytes == size


def test_empty_and_0d_tensors_are_read(tmp_path: Path) -> None:
    held = {"none": np.zeros((3, 0, 2), np.float32), "one": np.array(2.5, np.float16)}
    header = read_header(write_file(tmp_path / "weights.safetensors", held))
    assert {e.name: (e.elements, e.size_bytes) for e in header.entries} == {
        "none": (0, 0),
        "one": (1, 2),
    }


def test_a_header_known_from_a_whole_file_does_not_vouch_for_a_truncated_one(
    tmp_path: Path,
) -> None:
    whole, same, short = tmp_path / "whole", tmp_path / "same", tmp_path / "short"
    content = raw({"a": entry()}, bytes(8))
    whole.write_bytes(content)
    same.write_bytes(content)
    short.write_bytes(content[:-1])
    known = read_header(whole)
    assert read_header(same) is known
    with pytest.raises(FormatError, match=r"short: .*truncated"):
        read_header(short)


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing\.safetensors: cannot read: No such file"):
        read_header(tmp_path / "missing.safetensors")
    with pytest.raises(StorageError, match="cannot read: Is a directory"):
        read_header(tmp_path)


# ---- against the format's own library --------------------------------------------------------


def assert_as_the_library_reads(path: Path, content: bytes) -> None:
    """Either FormatError, or the library accepts the file and reads the same out of it."""
    path.write_bytes(content)
    try:
        header = read_header(path)
    except FormatError:
        return
    theirs = {
        name: (info["dtype"], tuple(info["shape"]), bytes(info["data"]))
        for name, info in safetensors.deserialize(content)
    }
    assert theirs == {e.name: (e.dtype, e.shape, content[e.begin : e.end]) for e in header.entries}
    with safetensors.safe_open(path, "np") as file:
        assert (file.metadata() or {}) == dict(header.metadata)


# Becomes a number that Python does not turn into text by default.
ENDLESS = "<endless>"
ODD_VALUES = st.sampled_from(
    [0, 1, -1, 2, 8, 2**31, 2**63, 2**64, ENDLESS, 1.5, 1e300, True, None, "F32", "F4", "", [],
     [0], [1, 2], [0, 8], [8, 11], [8, 0], {}, {"a": 1}, "\ud800", "\0"]
)  # fmt: skip
valid_headers = st.dictionaries(
    st.text(max_size=4),
    st.tuples(st.sampled_from([*DTYPES, "F4", "F8_E8M0"]), st.lists(st.integers(0, 4), max_size=3)),
    max_size=4,
)


def written(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    """A valid file; names that mean something else, and halves of bytes, left out."""
    kept = [
        (name, dtype, tuple(shape))
        for name, (dtype, shape) in tensors.items()
        if name != "__metadata__" and np.prod(shape) * DTYPE_BITS[dtype] % 8 == 0
    ]
    head, entries, size = layout(kept, {"format": "pt"})
    assert all(size >= placed.end for placed in entries)
    return head + bytes(i % 251 for i in range(size - len(head)))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tensors=valid_headers)
def test_what_layout_writes_the_library_reads(
    tmp_path: Path, tensors: dict[str, tuple[str, list[int]]]
) -> None:
    content = written(tensors)
    path = tmp_path / "weights.safetensors"
    assert_as_the_library_reads(path, content)
    assert len(read_header(path).entries) == len(safetensors.deserialize(content))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tensors=valid_headers, data=st.data())
def test_mutated_bytes_are_refused_or_read_as_the_library_does(
    tmp_path: Path, tensors: dict[str, tuple[str, list[int]]], data: st.DataObject
) -> None:
    content = bytearray(written(tensors))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        removed = data.draw(st.integers(0, 3))
        put = data.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"0", b"-", b'"', b"[", b"}", b" "]))
        )
        content[start : start + removed] = put
    if data.draw(st.booleans()) and len(content) >= 8:  # keep the length true, to get further
        end = content.rfind(b"}") + 1
        content[:8] = struct.pack("<Q", max(end - 8, 0))
    assert_as_the_library_reads(tmp_path / "weights.safetensors", bytes(content))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tensors=valid_headers, data=st.data())
def test_mutated_headers_are_refused_or_read_as_the_library_does(
    tmp_path: Path, tensors: dict[str, tuple[str, list[int]]], data: st.DataObject
) -> None:
    content = written(tensors)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    name = data.draw(st.sampled_from(sorted(header)))
    field = data.draw(st.sampled_from([*sorted(header[name]), "x", None]))
    value = data.draw(ODD_VALUES)
    if field is None:
        header[name] = value
    elif isinstance(header[name].get(field), list) and header[name][field]:
        place = data.draw(st.integers(0, len(header[name][field]) - 1))
        header[name][field][place] = value
    else:
        header[name][field] = value
    text = json.dumps(header).replace(f'"{ENDLESS}"', "9" * 5000).encode()
    assert_as_the_library_reads(tmp_path / "weights.safetensors", raw(text, content[8 + length :]))
