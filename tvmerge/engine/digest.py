"""Digests of safetensors files that a merge takes while it reads and writes.

A file's digest covers its header byte for byte and the data of every tensor. The engine sums a
64-byte state over the data (csrc/core/digest.hpp has the definition); states of parts add up in any
order, so threads, batches and machines can each take their share. Damage shows; a forger is not
kept out: for that, compare SHA-256 with the place you had the file from.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import blake2b

_LANES = struct.Struct("<8Q")
_SCHEME = "tvd1"

EMPTY = bytes(_LANES.size)


def add(*states: bytes) -> bytes:
    """The state of all parts together, from the states of the parts."""
    lanes = zip(*map(_LANES.unpack, states), strict=True)
    return _LANES.pack(*(sum(lane) % 2**64 for lane in lanes)) if states else EMPTY


def file_digest(head: bytes, state: bytes) -> str:
    """The digest of a file with the opening bytes `head` (length and header) and the data `state`.

    `tvd1:` and 32 hexadecimal digits: BLAKE2b, 16 bytes long, of `state` followed by `head`.
    """
    return f"{_SCHEME}:{blake2b(state + head, digest_size=16).hexdigest()}"


def bytes_digest(parts: Iterable[bytes]) -> str:
    """The digest of any other file: `blake2b:` and 32 hexadecimal digits."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return f"blake2b:{digest.hexdigest()}"
