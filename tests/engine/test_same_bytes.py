"""How a merge runs changes no bit of it: threads, slices, instruction set, the caller's modes."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles.arithmetic import random_array
from support.checkpoints import FLOATS, digests, write_model

from tvmerge import Checkpoint, _core
from tvmerge.engine.run_options import RunOptions
from tvmerge.merging.merge import save_checkpoint

ISAS = _core.available_isas()
FE_DOWNWARD = 0x400


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """Three models of odd sizes and mixed dtypes, wild values included, large enough to slice."""
    generator = np.random.default_rng(7)
    folder = tmp_path_factory.mktemp("large")
    sizes = {"F64": 3001, "F32": 70_001, "F16": 150_003, "BF16": 100_001, "F8_E4M3": 90_001,
             "F8_E5M2": 65_537}  # fmt: skip
    models = []
    for k in range(3):
        held = {
            dtype: random_array(generator, FLOATS[(i + k) % 6], (size,), wild=True)
            for i, (dtype, size) in enumerate(sizes.items())
        }
        held["ids"] = np.arange(200_000) + k // 2
        models.append(Checkpoint(write_model(folder / str(k), held, shards=k + 1)))
    return models


def model_digests(folder: Path) -> dict[str, str]:
    """Of all files but the card, which names its folder, and the receipt, which tells the time."""
    held = digests(folder)
    return {n: d for n, d in held.items() if n not in ("README.md", "tvmerge_receipt.json")}


RUNS = [
    RunOptions(threads=threads, slice_bytes=slice_bytes, isa=isa, memory_mib=2048)
    for isa in ISAS
    for threads, slice_bytes in (
        (1, 1 << 40), (1, 1), (2, 100_000), (7, 1), (7, 1 << 19), (3, 1 << 17),
    )
]  # fmt: skip


def test_threads_slices_and_instruction_sets_give_the_same_bytes(
    large: list[Checkpoint], tmp_path: Path
) -> None:
    model = Checkpoint.average(large, [2.0, -0.7, -0.3], normalize=False)
    seen = set()
    for number, options in enumerate(RUNS):
        out = tmp_path / str(number)
        report = save_checkpoint(model.coefficients, model.donor, out, dtype=None, options=options)
        held = model_digests(out)
        seen.add((tuple(held.items()), report.changed_elements, report.differing_tensors))
    assert len(seen) == 1
    assert report.differing_tensors == ("ids",)


def test_an_unknown_instruction_set_is_refused(large: list[Checkpoint], tmp_path: Path) -> None:
    model = large[0] + 0.5 * (large[1] - large[0])
    with pytest.raises(ValueError, match=r"'mmx' cannot be used here: this machine has .*generic"):
        save_checkpoint(
            model.coefficients,
            model.donor,
            tmp_path / "out",
            dtype=None,
            options=RunOptions(isa="mmx"),
        )
    assert list(tmp_path.iterdir()) == []


def combination_of(models: list[Checkpoint], out: Path) -> dict[str, str]:
    model = Checkpoint.average(models, [2.0, -0.7, -0.3], normalize=False)
    save_checkpoint(model.coefficients, model.donor, out, dtype=None, options=RunOptions(threads=2))
    return model_digests(out)


@pytest.mark.skipif("avx2" not in ISAS, reason="the constant is that of x86")
def test_the_callers_rounding_mode_changes_nothing(large: list[Checkpoint], tmp_path: Path) -> None:
    expected = combination_of(large, tmp_path / "nearest")
    libm = ctypes.CDLL("libm.so.6")
    assert libm.fesetround(FE_DOWNWARD) == 0
    try:
        out = combination_of(large, tmp_path / "downward")
    finally:
        libm.fesetround(0)
    assert out == expected


LIMITED = """
import os, resource, sys
from tvmerge import Checkpoint
models = [Checkpoint(path) for path in sys.argv[2:]]
with open("/proc/self/statm") as file:
    held = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
limit = held + 340 * 2**20  # room for 64 buffers of 4 MiB and a few threads' stacks of 8 MiB
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
Checkpoint.average(models, [2.0, -0.7, -0.3], normalize=False).save(
    sys.argv[1], threads=64)
"""


def test_fewer_threads_than_asked_give_the_same_bytes(
    large: list[Checkpoint], tmp_path: Path
) -> None:
    """Where the system gives no more threads the ones that run do the work."""
    expected = combination_of(large, tmp_path / "expected")
    inputs = [str(model.donor.source) for model in large]
    subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "out"), *inputs], check=True, timeout=300
    )
    assert model_digests(tmp_path / "out") == expected
