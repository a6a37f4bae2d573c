"""Files of torch.save written by hand, opcode by opcode, sound and such as torch never writes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

PROTOCOL = b"\x80\x02"
ORDERED = b"ccollections\nOrderedDict\n)R"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"
STOP = b"."


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def whole(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def sizes(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def storage(key: str, elements: int, kind: str = "FloatStorage") -> bytes:
    named = b"ctorch\n" + kind.encode() + b"\n"
    return b"(" + text("storage") + named + text(key) + text("cpu") + whole(elements) + b"tQ"


def tensor(
    of: bytes, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, more: bytes = b""
) -> bytes:
    """A call of _rebuild_tensor_v2, with the storage that the opcodes `of` put down."""
    arguments = of + whole(offset) + sizes(shape) + sizes(strides) + b"\x89" + ORDERED + more
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def parameter(of: bytes) -> bytes:
    return PARAMETER + of + b"\x88" + ORDERED + b"\x87R"


def mapping(values: Mapping[str, bytes]) -> bytes:
    """An OrderedDict with attributes, as a module's state dict is one."""
    items = b"".join(text(name) + value for name, value in values.items())
    return ORDERED + b"(" + items + b"u" + b"}" + text("_metadata") + ORDERED + b"sb"


def archive(
    pickle: bytes,
    records: Mapping[str, bytes],
    *,
    byteorder: bytes | None = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """The bytes of the zip archive."""
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", compression) as file:
        file.writestr("archive/data.pkl", pickle)
        if byteorder is not None:
            file.writestr("archive/byteorder", byteorder)
        for key, content in records.items():
            file.writestr(f"archive/data/{key}", content)
        file.writestr("archive/version", b"3\n")
    return into.getvalue()


def one_tensor(pickled: bytes | None = None, elements: int = 6) -> bytes:
    """A file of one storage of float32, and the tensor `a` of shape (2, 3) unless told."""
    named = mapping({"a": tensor(storage("0", 6), (2, 3), (3, 1))}) if pickled is None else pickled
    return archive(PROTOCOL + named + STOP, {"0": bytes(range(4 * elements))})


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
