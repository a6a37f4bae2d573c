"""The oracle: linear combinations in float64, rounded once, independent of the engine.

Rounding to 16- and 8-bit formats looks the value up among all codes of the format. A cast by
`ml_dtypes` would round twice: float64 goes through float32 there, and 1 + 2**-8 + 2**-40 comes out
of `astype(bfloat16)` as 1.0 (engine/test_rounding.py says so).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache

import numpy as np
from support.checkpoints import DTYPES, codes

CANONICAL_NAN = {
    "F64": 0x7FF8_0000_0000_0000, "F32": 0x7FC0_0000, "F16": 0x7E00, "BF16": 0x7FC0,
    "F8_E4M3": 0x7F, "F8_E5M2": 0x7E,
}  # fmt: skip
MANTISSA_BITS = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7, "F8_E4M3": 3, "F8_E5M2": 2}


def decode(array: np.ndarray) -> np.ndarray:
    """Any float array as float64, exactly."""
    with np.errstate(invalid="ignore"):  # signalling NaNs are among the codes
        return array.astype(np.float64)


def linear(arrays: Sequence[np.ndarray], coefficients: Sequence[float]) -> np.ndarray:
    """sum_k c_k * x_k in float64, in the order given."""
    with np.errstate(all="ignore"):
        total = coefficients[0] * decode(arrays[0])
        for array, coefficient in zip(arrays[1:], coefficients[1:], strict=True):
            total = total + coefficient * decode(array)
    return total


def magnitude(arrays: Sequence[np.ndarray], coefficients: Sequence[float]) -> np.ndarray:
    """sum_k |c_k * x_k|: what rounding errors of the sum are measured against."""
    return linear([np.abs(decode(array)) for array in arrays], np.abs(coefficients).tolist())


@cache
def finite_values(dtype: str) -> np.ndarray:
    """The values of the non-negative finite codes 0, 1, 2, ... of an 8- or 16-bit format."""
    kind = DTYPES[dtype]
    half = np.arange(1 << (8 * kind.itemsize - 1), dtype=f"u{kind.itemsize}").view(kind)
    values = decode(half)
    return values[np.isfinite(values)]


@cache
def midpoints(dtype: str) -> np.ndarray:
    """The rounding boundaries of an 8- or 16-bit format; the last one is where overflow begins."""
    values = finite_values(dtype)
    beyond = values[-1] + (values[-1] - values[-2])
    return (values + np.append(values[1:], beyond)) / 2


def round_once(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 to `dtype`, to nearest, ties to even, with one canonical NaN; no double rounding."""
    values = np.asarray(values, dtype=np.float64)
    kind = DTYPES[dtype]
    if kind.itemsize >= 4:
        with np.errstate(all="ignore"):
            rounded = values.astype(kind)
        bits = codes(rounded).copy()
    else:
        borders = midpoints(dtype)
        size = np.abs(values)
        code = np.searchsorted(borders, size, side="left")
        at = np.minimum(code, len(borders) - 1)
        code = code + ((borders[at] == size) & (code % 2 == 1))
        sign = np.signbit(values).astype(np.int64) << (8 * kind.itemsize - 1)
        overflows_to_nan = (code == len(borders)) & (dtype == "F8_E4M3")
        values = np.where(overflows_to_nan, np.nan, values)
        bits = (code | sign).astype(f"u{kind.itemsize}")
    bits = np.where(np.isnan(values), CANONICAL_NAN[dtype], bits).astype(f"u{kind.itemsize}")
    return bits.view(kind)


def random_array(
    generator: np.random.Generator, dtype: str, shape: tuple[int, ...], *, wild: bool
) -> np.ndarray:
    """Values as weights have them; wild: half of them are any bits (NaN, inf, subnormal, huge)."""
    kind = DTYPES[dtype]
    usual = round_once(generator.standard_normal(shape), dtype).reshape(shape)
    anything = np.frombuffer(generator.bytes(usual.nbytes), kind).reshape(shape)
    return np.where(generator.random(shape) < 0.5, anything, usual) if wild else usual


_PI = (
    0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89,
    0x452821E638D01377, 0xBE5466CF34E90C6C, 0xC0AC29B7C97C50DD, 0x3F84D5B5B5470917,
)  # fmt: skip


def digest_state(content: bytes, begin: int, end: int) -> list[int]:
    """The eight lanes of docs/receipt.md for a tensor that lies at [begin, end) of a file."""
    lanes = [0] * 8
    for position in range(begin, end, 64):
        stripe = content[position : min(position + 64, end)].ljust(64, b"\0")
        for j, key in enumerate(_PI):
            word = int.from_bytes(stripe[8 * j : 8 * j + 8], "little")
            mixed = word ^ (key + position * 0x9E3779B97F4A7C15) % 2**64
            lanes[j] += (mixed % 2**32) * (mixed >> 32)
            lanes[j ^ 1] += word
    return [lane % 2**64 for lane in lanes]


def file_digest(content: bytes) -> str:
    """The digest of a safetensors file, from its bytes alone."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    lanes = [0] * 8
    for tensor in header.values():
        begin, end = tensor["data_offsets"]
        state = digest_state(content, start + begin, start + end)
        lanes = [(a + b) % 2**64 for a, b in zip(lanes, state, strict=True)]
    data = b"".join(lane.to_bytes(8, "little") for lane in lanes)
    return "tvd1:" + hashlib.blake2b(data + content[:start], digest_size=16).hexdigest()


def places(array: np.ndarray) -> np.ndarray:
    """Codes as integers in the order of their values: neighbours differ by 1, 0 and -0 are both 0.

    As Python integers in an object array, since 64-bit codes would overflow.
    """
    bits = codes(array).astype(object)
    sign = 1 << (8 * array.dtype.itemsize - 1)
    return np.where(bits >= sign, sign - bits, bits)


def is_nan(array: np.ndarray) -> np.ndarray:
    """NaN of any of the formats."""
    return np.isnan(decode(array))


def ulps(left: np.ndarray, right: np.ndarray) -> int:
    """The largest distance in units in the last place; huge where only one of two is NaN."""
    if left.size == 0:
        return 0
    left, right = np.ravel(left), np.ravel(right)
    distance = np.abs(places(left) - places(right))
    one, other = is_nan(left), is_nan(right)
    distance[one & other] = 0
    distance[one ^ other] = 2**64
    return int(distance.max())


def within(out: np.ndarray, exact: np.ndarray, error: np.ndarray, dtype: str) -> np.ndarray:
    """Where `out` is the rounding of some number in `exact` +- `error`.

    Rounding is monotonic: that is so when it lies between the roundings of the two ends.
    """
    with np.errstate(all="ignore"):
        low, high = (round_once(exact + sign * error, dtype) for sign in (-1, 1))
    inside = (places(low) <= places(out)) & (places(out) <= places(high))
    may_be_nan = is_nan(low) | is_nan(high)
    return np.where(is_nan(out), may_be_nan, inside | may_be_nan).astype(bool)
