"""Reads what torch.save has written (`pytorch_model.bin`, .pt, .pth) where it lies, without torch.

Such a file is a zip archive: a pickle, `data.pkl`, and a record for every storage, uncompressed. A
tensor that is contiguous in its storage is a range of the file, as in a safetensors file.
https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from tvmerge.errors import FormatError, StorageError
from tvmerge.files.safetensors import LONGEST_NAME, MOST_TENSORS, Entry, Header, size_in_bytes
from tvmerge.files.torch_pickle import Storage, Tensor, read_state_dict
from tvmerge.files.torch_zip import LOCAL_SIGNATURE, Archive
from tvmerge.files.untrusted import open_regular_file, read_exactly, shown

# How the two forms of torch.save's files begin; in a safetensors file these are a header of more
# bytes than any may have, or one that does not begin with a brace.
MAGIC_BYTES = 9
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9")
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")

_LARGEST_PICKLE_BYTES = 64_000_000
# Of all that belongs to no tensor, and is read for a file's digest.
_LARGEST_REST_BYTES = 200_000_000
_CONVERT = (
    "If it is damaged, fetch it again; else load it (torch.load(path, weights_only=True)), and "
    "save the tensors by name, each cloned and contiguous, with safetensors.torch.save_file"
)


def is_torch_file(path: Path, start: bytes) -> bool:
    """Whether a file that begins with these MAGIC_BYTES is one of torch.save, or should be."""
    if start[MAGIC_BYTES - 1 :] == b"{":
        return False
    return start == _LEGACY or start.startswith(LOCAL_SIGNATURE) or path.suffix in SUFFIXES


def read_header(path: Path) -> Header:
    """The tensors of a state dict that torch.save has written, in the order of the file.

    Tensors that share a storage may have places in common. Raises FormatError for whatever cannot
    be read as it lies there: no state dict, the format before torch 1.6, views that are not
    contiguous, other dtypes than those of safetensors, big-endian numbers, compression.
    """
    try:
        with open_regular_file(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            if read_exactly(file, MAGIC_BYTES) == _LEGACY:
                raise ValueError("is in the format of torch before 1.6, which has to be unpickled")
            archive = Archive(file, size)
            tensors = _tensors(archive)
            entries = sorted(_entries(archive, tensors), key=lambda entry: (entry[3:], entry.name))
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror or error}") from error
    except FormatError:  # a ValueError as well
        raise
    except ValueError as error:
        _bad(path, f"the file {error}")
    rest = size - sum(end - begin for begin, end in covered(entries))
    if rest > _LARGEST_REST_BYTES:
        _bad(path, f"{rest:,} of its {size:,} bytes belong to no tensor of the model")
    return Header(tuple(entries), {}, size)


def covered(entries: Iterable[Entry]) -> Iterator[tuple[int, int]]:
    """The ranges of bytes that `entries`, sorted by their places, cover, each byte once."""
    position = 0
    for entry in entries:
        if entry.end > position:
            yield max(entry.begin, position), entry.end
            position = entry.end


def _bad(path: Path, what: str) -> NoReturn:
    raise FormatError(f"{path}: cannot be read as it is: {what}. {_CONVERT}")


def _tensors(archive: Archive) -> dict[str, Tensor]:
    if "data.pkl" not in archive.records:
        raise ValueError("is a zip archive without data.pkl, expected what torch.save writes")
    order = b"little"
    if "byteorder" in archive.records:
        order = archive.read("byteorder", most_bytes=16)
    if order != b"little":
        raise ValueError(f"holds numbers in the byte order {shown(order)}, expected little")
    return read_state_dict(archive.read("data.pkl", most_bytes=_LARGEST_PICKLE_BYTES))


def _entries(archive: Archive, tensors: dict[str, Tensor]) -> Iterator[Entry]:
    if len(tensors) > MOST_TENSORS:
        raise ValueError(f"holds {len(tensors):,} tensors, expected at most {MOST_TENSORS:,}")
    places: dict[Storage, tuple[int, int]] = {}
    for name, tensor in tensors.items():
        if tensor.storage not in places:
            places[tensor.storage] = _place(archive, tensor.storage)
        yield _entry(name, tensor, *places[tensor.storage])


def _place(archive: Archive, storage: Storage) -> tuple[int, int]:
    """The bytes of a storage, from where to where in the file."""
    begin, end = archive.place(f"data/{storage.key}")
    size = size_in_bytes(storage.dtype or "U8", (storage.elements,))
    if size > end - begin:
        what = f"has {end - begin:,} bytes of {size:,}"
        raise ValueError(f"is damaged: the storage {shown(storage.key)} {what}")
    return begin, begin + size


def _entry(name: str, tensor: Tensor, begin: int, end: int) -> Entry:
    """The tensor's place in the file, where its storage takes the bytes from `begin` to `end`."""
    if len(name) > LONGEST_NAME:
        raise ValueError(f"has a name of {len(name):,} characters, expected at most {LONGEST_NAME}")
    if not tensor.is_contiguous:
        strides = f"strides {shown(list(tensor.strides))} for the shape {shown(list(tensor.shape))}"
        raise ValueError(f"holds {shown(name)} as a view that is not contiguous ({strides})")
    begin += size_in_bytes(tensor.dtype, (tensor.offset,))
    size = size_in_bytes(tensor.dtype, tensor.shape)
    if begin + size > end or math.prod(n or 1 for n in tensor.shape) >= 2**63:
        what = f"{tensor.dtype} of shape {shown(list(tensor.shape))} at element {tensor.offset:,}"
        raise ValueError(f"is damaged: {shown(name)}, {what}, does not lie in its storage")
    return Entry(name, tensor.dtype, tensor.shape, begin, begin + size)
