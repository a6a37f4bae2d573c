"""The digest of a tensor's bytes, word by word as csrc/core/digest.hpp defines it."""

from __future__ import annotations

import numpy as np

STRIPE_BYTES = 64
LANES = 8
# The first 64 bytes of the fraction of pi.
KEYS = (
    0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89,
    0x452821E638D01377, 0xBE5466CF34E90C6C, 0xC0AC29B7C97C50DD, 0x3F84D5B5B5470917,
)  # fmt: skip
STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd
MODULUS = 2**64


def digest(data: bytes, position: int) -> bytes:
    """The lanes' state, 64 bytes, of a tensor that begins at byte `position` of its file."""
    lanes = [0] * LANES
    padded = data + bytes(-len(data) % STRIPE_BYTES)
    words = np.frombuffer(padded, "<u8").reshape(-1, LANES).tolist()
    for number, stripe in enumerate(words):
        moved = (position + number * STRIPE_BYTES) * STEP
        for lane, word in enumerate(stripe):
            mixed = word ^ (KEYS[lane] + moved) % MODULUS
            lanes[lane] += (mixed % 2**32) * (mixed >> 32)
            lanes[lane ^ 1] += word
    return b"".join((lane % MODULUS).to_bytes(8, "little") for lane in lanes)
