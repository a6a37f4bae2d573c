"""A file of weights in any format that is read where it lies: safetensors, or torch.save's.

What a file holds says which it is: what links into the hub's cache lead to has no ending.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tvmerge.errors import StorageError
from tvmerge.files import safetensors, torch_file
from tvmerge.files.safetensors import Header
from tvmerge.files.untrusted import open_regular_file, read_exactly

_LENGTH_BYTES = 8


def read_header(path: Path) -> Header:
    """The tensors of the file at `path`, and where in it they lie.

    Raises FormatError for what is no such file, or damaged; StorageError where reading fails.
    """
    if torch_file.is_torch_file(path, _read(path, [(0, torch_file.MAGIC_BYTES)])):
        return torch_file.read_header(path)
    return safetensors.read_header(path)


def read_rest(path: Path) -> bytes:
    """All bytes of a file that belong to no tensor, in their order; it was checked beforehand.

    Of a safetensors file these are the header's length and the header.
    """
    start = _read(path, [(0, torch_file.MAGIC_BYTES)])
    if not torch_file.is_torch_file(path, start):
        return _read(path, [(0, _LENGTH_BYTES + int.from_bytes(start[:_LENGTH_BYTES], "little"))])
    header = torch_file.read_header(path)
    covered = [*torch_file.covered(header.entries), (header.size_bytes, header.size_bytes)]
    ends = [0, *(end for _, end in covered)]
    return _read(path, [(end, begin) for end, (begin, _) in zip(ends, covered, strict=False)])


def _read(path: Path, ranges: Iterable[tuple[int, int]]) -> bytes:
    """The bytes of some ranges of a file, one after the other; fewer where it ends."""
    pieces = []
    try:
        with open_regular_file(path, whole=False) as file:
            for begin, end in ranges:
                if begin < end:
                    file.seek(begin)
                    pieces.append(read_exactly(file, end - begin))
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror or error}") from error
    return b"".join(pieces)
