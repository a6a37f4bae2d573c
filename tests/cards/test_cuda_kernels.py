"""The kernels for cards by themselves, byte for byte against the processor's plain ones.

cuda_kernels calls them as card.cu does: all dtypes and their mixtures, sizes around the edges
of blocks, tiles and stretches, NaN, infinity and subnormals, several orders of threads; once under
AddressSanitizer and UndefinedBehaviorSanitizer.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cards import shim_build

pytestmark = pytest.mark.slow


def checks(program: Path, *arguments: str) -> int:
    """How many comparisons it has made."""
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stderr == ""
    return int(done.stdout.split()[0])


@pytest.mark.parametrize(
    ("one_in", "orders", "least"),
    [("3", ["ascending"], 7_000), ("8", ["descending", "random"], 5_000)],
)
def test_kernels_give_the_processors_bytes(one_in: str, orders: Sequence[str], least: int) -> None:
    program = shim_build.kernel_tests(shim_build.OPTIMISED)
    assert checks(program, one_in, "1", *orders) >= least


def test_kernels_stay_within_their_memory() -> None:
    program = shim_build.kernel_tests(shim_build.SANITIZED)
    assert checks(program, "20", "7", "descending", "random") >= 2_500
