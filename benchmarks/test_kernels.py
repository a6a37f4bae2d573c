"""The engine on files in memory (/dev/shm): combine per dtype, vector, diff; GB moved per second.

`extra_info.bytes_moved` over the time is the rate; one thread, so that it is per core.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors.numpy import save_file

from tvmerge import Checkpoint, diff
from tvmerge.engine.run_options import RunOptions

pytestmark = pytest.mark.benchmark(group="one core, files in memory")
ELEMENTS = 1 << 23
DTYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


@pytest.fixture
def folder() -> Iterator[Path]:
    where = "/dev/shm" if Path("/dev/shm").is_dir() else None
    path = Path(tempfile.mkdtemp(dir=where))
    yield path
    shutil.rmtree(path)


def write_models(folder: Path, dtype: str) -> list[Checkpoint]:
    values = np.random.default_rng(0).standard_normal(ELEMENTS, dtype=np.float32)
    for number, name in enumerate(("base", "a", "b", "c")):
        (folder / name).mkdir()
        tensor = (values + 0.1 * number * np.roll(values, 1)).astype(DTYPES[dtype])
        save_file({"w": tensor}, folder / name / "model.safetensors")
    return [Checkpoint(folder / name) for name in ("base", "a", "b", "c")]


@pytest.mark.parametrize("dtype", DTYPES)
def test_three_subtractions(benchmark: BenchmarkFixture, folder: Path, dtype: str) -> None:
    base, *tuned = write_models(folder, dtype)
    model = base
    for one in tuned:
        model = model - 0.3 * (one - base)
    out = folder / "out"
    report = benchmark.pedantic(
        lambda: model.save(out, threads=1),
        setup=lambda: shutil.rmtree(out, ignore_errors=True),
        rounds=10,
        warmup_rounds=1,
    )
    benchmark.extra_info["bytes_moved"] = report.bytes_moved
    assert report.changed_elements


def test_diff(benchmark: BenchmarkFixture, folder: Path) -> None:
    base, tuned, *_ = write_models(folder, "BF16")
    found = benchmark.pedantic(
        lambda: diff(base.donor, tuned.donor, options=RunOptions(threads=1)), rounds=10
    )
    assert found.total.changed_elements
