"""Files of torch.save, read where they lie: the same as torch reads, nothing of them ever run."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from support.torch_files import (
    ORDERED,
    PROTOCOL,
    STOP,
    archive,
    mapping,
    one_tensor,
    parameter,
    storage,
    tensor,
    text,
    write,
)  # fmt: skip

from tvmerge.errors import FormatError
from tvmerge.files.weights import read_header, read_rest

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "U16": torch.uint16, "BOOL": torch.bool, "C64": torch.complex64,
}  # fmt: skip


def state_dict() -> dict[str, torch.Tensor]:
    fused = torch.randn(12, 5)
    return {
        **{code: torch.randn(3, 4).to(dtype) for code, dtype in DTYPES.items()},
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "embedding": fused,
        "head": fused,  # tied
        "query": fused[:4],
        "key": fused[4:8],
        "row of a column": fused[2:3, :].t(),  # strides that a size of 1 makes meaningless
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_lie_where_torch_finds_them(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(state_dict(), path, pickle_protocol=protocol)
    # torch itself refuses later protocols without its unrestricted unpickler
    expected = torch.load(path, weights_only=protocol < 3, mmap=True)
    content, header = path.read_bytes(), read_header(path)
    assert header.size_bytes == len(content)
    assert {entry.name for entry in header.entries} == expected.keys()
    assert [e.begin for e in header.entries] == sorted(e.begin for e in header.entries)
    for entry in header.entries:
        held = expected[entry.name].detach()
        assert entry.shape == tuple(held.shape)
        assert DTYPES.get(entry.dtype) == held.dtype
        data = held.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert content[entry.begin : entry.end] == data, entry.name


def test_a_modules_state_dict_with_its_attributes_is_read(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "x.pt")
    assert {e.name for e in read_header(tmp_path / "x.pt").entries} == module.state_dict().keys()


def test_the_rest_is_every_byte_of_no_tensor_in_its_order(tmp_path: Path) -> None:
    path = write(tmp_path / "x.bin", one_tensor())
    content, (entry,) = path.read_bytes(), read_header(path).entries
    assert read_rest(path) == content[: entry.begin] + content[entry.end :]
    held = torch.randn(64)
    torch.save({"all": held, "a part": held[3:9]}, path)
    assert len(read_rest(path)) == path.stat().st_size - 256


def refusal(content: bytes, tmp_path: Path) -> str:
    path = write(tmp_path / "pytorch_model.bin", content)
    with pytest.raises(FormatError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be read as it is: the file ")
    assert message.endswith("contiguous, with safetensors.torch.save_file")
    return message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("saved", "what"),
    [
        ({"model": {"a": torch.ones(1)}, "epoch": 1}, "a mapping under 'model', expected tensors"),
        ({"lr": 0.5}, "a float under 'lr', expected tensors only"),
        (torch.ones(2), "holds a tensor, expected tensors by name"),
        ({"w": torch.ones(4, 3).t()}, "'w' as a view that is not contiguous (strides [1, 3]"),
        ({"w": torch.ones(3).expand(4, 3)}, "'w' as a view that is not contiguous (strides [0, 1]"),
        ({"w": torch.ones(4, 3).to_sparse()}, "needs 'torch._utils._rebuild_sparse_tensor'"),
        ({"w": torch.ones(2, dtype=torch.complex128)}, "needs 'torch.ComplexDoubleStorage'"),
        ({"w": torch.ones(2, dtype=torch.cfloat).conj()}, "a conjugate or negative view"),
        ({3: torch.ones(1)}, "a mapping whose keys are not names"),
        (torch.nn.Linear(1, 1), "needs 'torch.nn.modules.linear.Linear' to be read"),
    ],
)  # fmt: skip
def test_what_is_no_plain_state_dict_is_refused(saved: object, what: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "x")
    assert what in refusal((tmp_path / "x").read_bytes(), tmp_path)


def test_the_format_before_torch_1_6_is_told(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "x", _use_new_zipfile_serialization=False)
    assert "format of torch before 1.6" in refusal((tmp_path / "x").read_bytes(), tmp_path)


A = tensor(storage("0", 6), (2, 3), (3, 1))
ZEROS = {"0": bytes(24)}
EVIL = pickle.dumps(print, 2)[2:-1]


def of(value: bytes) -> bytes:
    return archive(PROTOCOL + mapping({"a": value}) + STOP, ZEROS)


BAD = {
    "big-endian": (archive(PROTOCOL + mapping({"a": A}) + STOP, ZEROS, byteorder=b"big"), "order"),
    "compressed": (
        archive(PROTOCOL + mapping({"a": A}) + STOP, ZEROS, compression=zipfile.ZIP_DEFLATED),
        "compressed or encrypted",
    ),
    "cut off": (one_tensor()[:-30], "cut off, or no zip"),
    "another zip": (archive(b"", {}).replace(b"data.pkl", b"tata.pkl"), "without data.pkl"),
    "an unknown call": (of(EVIL), "needs '__builtin__.print' to be read"),
    "a quantised tensor": (of(b"ctorch._utils\n_rebuild_qtensor\n"), "_utils._rebuild_qtensor'"),
    "a call of a dtype": (of(b"ctorch\nfloat32\n)R"), "calls torch.float32 with ()"),
    "a call of a tensor": (of(A + b")R"), "calls what cannot be called"),
    "attributes for a tensor": (of(A + b"}b"), "expects a dict and finds none"),
    "no storage": (of(tensor(ORDERED, (2, 3), (3, 1))), "makes no plain tensor"),
    "a name for a storage": (of(text("x") + b"Q"), "refers to 'x', expected a storage"),
    "a missing record": (of(tensor(storage("7", 6), (2, 3), (3, 1))), "no record 'data/7'"),
    "a key that climbs": (of(tensor(storage("../0", 6), (2, 3), (3, 1))), "no record 'data/../0'"),
    "a short storage": (of(tensor(storage("0", 7), (7,), (1,))), "has 24 bytes of 28"),
    "beyond its storage": (of(tensor(storage("0", 6), (2, 3), (3, 1), 1)), "does not lie in its"),
    "a negative offset": (of(tensor(storage("0", 6), (2, 3), (3, 1), -1)), "whose sizes are (-1,)"),
    "a negative size": (of(tensor(storage("0", 6), (-2, 3), (3, 1))), "whose sizes are (-2, 3)"),
    "sizes and strides": (of(tensor(storage("0", 6), (2, 3), (3,))), "2 sizes and 1 strides"),
    "65 dimensions": (of(tensor(storage("0", 1), (1,) * 65, (1,) * 65)), "of 65 sizes"),
    "an overflow": (of(tensor(storage("0", 1), (0, 2**62, 4), (0, 0, 1))), "does not lie in its"),
    "a number of 200 bytes": (of(b"\x8a\xc8" + bytes(200)), "a number of 200 bytes"),
    "no text": (of(b"X\1\0\0\0\xff"), "which is not UTF-8"),
    "half a pair": (of(b"X\3\0\0\0\xed\xa0\x80"), "which is not UTF-8"),
    "a long name": (archive(PROTOCOL + mapping({"n" * 5000: A}) + STOP, ZEROS), "5,000 characters"),
    "an empty pickle": (archive(b"", ZEROS), "a pickle that is cut off"),
    "no stop": (archive(PROTOCOL + mapping({"a": A}), ZEROS), "a pickle that is cut off"),
    "nothing to pop": (archive(b"\x80\x02.", ZEROS), "takes more than it put down"),
    "no mark": (archive(b"\x80\x02}u.", ZEROS), "lacks a mark"),
    "nothing kept": (archive(b"\x80\x02h\7.", ZEROS), "recalls what it did not keep"),
    "a mapping of itself": (archive(b"\x80\x02}q\0X\1\0\0\0ah\0s.", ZEROS), "a mapping under 'a'"),
    "an instance": (archive(b"\x80\x02(i__builtin__\nprint\n.", ZEROS), "opcode 0x69"),
    "an extension": (archive(b"\x80\x02\x82\1.", ZEROS), "opcode 0x82"),
    "a new object": (archive(b"\x80\x02ctorch\nfloat32\n)\x81.", ZEROS), "opcode 0x81"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_torch_does_not_write_is_refused(name: str, tmp_path: Path) -> None:
    content, what = BAD[name]
    assert what in refusal(content, tmp_path)


def test_the_handmade_files_are_torchs_own_but_for_their_fault(tmp_path: Path) -> None:
    named = mapping({"a": A, "b": parameter(tensor(storage("0", 6), (2,), (1,), 4))})
    path = write(tmp_path / "x.bin", one_tensor(named))
    expected = torch.load(path, weights_only=True)
    content = path.read_bytes()
    for entry in read_header(path).entries:
        held = expected[entry.name].detach().numpy()
        assert content[entry.begin : entry.end] == held.tobytes()
        assert entry.shape == held.shape


def test_a_storage_much_larger_than_its_tensors_is_told(tmp_path: Path) -> None:
    """Its other bytes would all be read for the digest, at once."""
    path = tmp_path / "x.bin"
    torch.save({"a": torch.empty(300_000_000, dtype=torch.uint8)[:5]}, path)
    assert "belong to no tensor of the model" in refusal_of(path)


def test_a_state_dict_beside_training_state_is_found(tmp_path: Path) -> None:
    held = {"state_dict": {"w": torch.ones(3)}, "epoch": 7, "loss": 0.5, "best": None}
    torch.save(held | {"optimizer": {"state": [torch.ones(9)]}}, tmp_path / "last.ckpt")
    assert [entry.name for entry in read_header(tmp_path / "last.ckpt").entries] == ["w"]


def refusal_of(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        read_header(path)
    return str(caught.value)


def test_neither_torch_nor_pickle_is_loaded_to_read_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.bin", one_tensor())
    script = (
        "import sys; from pathlib import Path; from tvmerge.files.weights import read_header\n"
        "read_header(Path(sys.argv[1])); print({'torch', 'pickle'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
