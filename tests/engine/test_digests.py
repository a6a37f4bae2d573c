"""What the engine says that it has read is the digest of it, whoever takes it: the sum or a pass of
its own, with any instruction set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.digests import digest
from support.checkpoints import DTYPES, FLOATS

from tvmerge import _core

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Within a stripe, at its ends, at those of rows, tiles and slices.
SIZES = (1, 31, 32, 33, 1000, 1024, 1057, 5000)
HEAD_BYTES = 24  # before the tensor in its file


def digests(
    folder: Path, arrays: list[np.ndarray], coefficients: list[tuple[float, ...]], isa: str
) -> list[bytes]:
    """Those of the inputs of one job with so many sums, each tensor at HEAD_BYTES of its file."""
    size, dtype = arrays[0].size, DTYPE_NAMES[arrays[0].dtype]
    for number, array in enumerate(arrays):
        (folder / str(number)).write_bytes(bytes(HEAD_BYTES) + array.tobytes())
    memory = [np.empty(arrays[0].nbytes, np.uint8) for _ in coefficients]
    sums = [
        _core.Output(file=n, offset_bytes=0, dtype=dtype, reference=0, coefficients=list(one))
        for n, one in enumerate(coefficients)
    ]
    sources = [_core.Source(n, HEAD_BYTES, dtype, digested=True) for n in range(len(arrays))]
    merged = _core.merge(
        [str(folder / str(number)) for number in range(len(arrays))],
        [(out.ctypes.data, out.nbytes) for out in memory],
        [_core.CombineJob(sources=sources, elements=size, outputs=sums)],
        [],
        threads=1,
        slice_bytes=1 << 14,
        buffer_bytes=1 << 24,
        isa=isa,
    )
    return list(merged.input_digests)


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "coefficients",
    [
        [(1.0,)],
        [(1.0, -0.5)],
        [(1.0, 0.5, -1.5)],
        [(1.0, 0.5, 0.5, 0.5)],
        [(1.0,) * 6],
        [(1.0, 0.0, 0.5)],  # one is read, and no term
        [(1.0, 0.5), (1.0, 0.25)],
    ],
)
def test_every_input_is_digested_once(
    coefficients: list[tuple[float, ...]], dtype: str, isa: str, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    for size in SIZES:
        arrays = [generator.standard_normal(size).astype(DTYPES[dtype]) for _ in coefficients[0]]
        arrays[-1][size // 2] = np.nan  # is summed once more
        expected = [digest(array.tobytes(), HEAD_BYTES) for array in arrays]
        assert digests(tmp_path, arrays, coefficients, isa) == expected, size
