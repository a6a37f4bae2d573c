"""What nvcc makes of the kernels, where it is found: no card is needed to look at that.

The arithmetic has to be IEEE's, rounded once where the source says so; nothing that a kernel holds
may go through memory.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
NAMES = [path.stem for path in SOURCES]
# As cmake/cuda.cmake has them.
FLAGS = ("-std=c++17", "-O3", "-fmad=false", "--expt-relaxed-constexpr", f"-I{ROOT / 'csrc'}")
ARCHITECTURES = (80, 90, 100)
# Of one thread: with 256 threads in a block, two blocks find room on a multiprocessor.
MOST_REGISTERS = 128
# Whole tiles go by 8 or 16 bytes, digests by 16.
WIDE_LOADS = {
    "combine": ("ld.global.v4.u32", "ld.global.v2.u32", "st.global.v4.u32", "st.global.v2.u32"),
    "consensus": ("ld.global.v4.u32", "st.global.v4.u32"),
    "digest": ("ld.global.v2.u64",),
    "scan": ("ld.global.v4.u32",),
}
FUSED = {"combine", "consensus", "gram"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc, the CUDA compiler, is not here"),
]


def nvcc(*arguments: str) -> str:
    done = subprocess.run(["nvcc", *FLAGS, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return done.stderr


@functools.cache
def ptx(source: Path) -> str:
    """Its PTX for the oldest architecture, from which later ones' differs in scheduling only."""
    done = subprocess.run(
        ["nvcc", *FLAGS, "-arch=compute_80", "-ptx", str(source), "-o", "/dev/stdout"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def operations(source: Path) -> set[str]:
    lines = (line.strip() for line in ptx(source).splitlines())
    found = (
        re.match(r"(?:@!?%p\d+ )?([a-z][a-z0-9]*(?:\.[a-z0-9_:]+)+)\s", line) for line in lines
    )
    return {match[1] for match in found if match}


def name_of(mangled: str) -> str:
    """A kernel's own name and what its template got."""
    if shutil.which("c++filt") is None:
        return mangled
    plain = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    plain = re.sub(r"\(anonymous namespace\)::|tvmerge::|cuda::|^void ", "", plain.strip())
    return re.sub(r"\([^()]*(?:\([^()]*\)[^()]*)*\)$", "", plain)


def used_of_all(architecture: int) -> dict[tuple[str, str], tuple[int, int, int]]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        every = pool.map(lambda source: used(source, architecture), SOURCES)
    return {
        (source.stem, name): numbers
        for source, kernels in zip(SOURCES, every, strict=True)
        for name, numbers in kernels.items()
    }


def used(source: Path, architecture: int) -> dict[str, tuple[int, int, int]]:
    """Of every kernel: registers, bytes of stack, bytes spilled."""
    code = f"arch=compute_{architecture},code=sm_{architecture}"
    said = nvcc("-gencode", code, "-Xptxas", "-v", "-cubin", "-o", "/dev/null", str(source))
    entries = re.findall(
        r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        said,
        re.DOTALL,
    )
    return {
        name_of(name): (int(registers), int(stack), int(stores) + int(loads))
        for name, stack, stores, loads, registers in entries
    }


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_arithmetic_is_that_of_ieee(source: Path) -> None:
    found = operations(source)
    kinds = {operation for operation in found if re.search(r"\.f(32|64)$", operation)}
    loose = [operation for operation in kinds if re.search(r"\.(ftz|approx|full|sat)\b", operation)]
    assert not loose
    # What rounds says how: to nearest; and nothing is fused but what the source fuses.
    rounding = {o for o in kinds if o.split(".")[0] in ("add", "sub", "mul", "div", "rcp", "fma")}
    assert all(".rn." in operation for operation in rounding), rounding
    assert not [o for o in found if o.startswith(("mad.rn", "sqrt.", "sin.", "ex2.", "lg2."))]
    # Sums of products that the source does not fuse are none.
    if source.stem not in FUSED:
        assert not [o for o in found if o.startswith("fma.")]
    assert not [o for o in found if o.startswith(("red.", "atom.")) and ".f" in o]


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_nothing_is_held_in_memory(source: Path) -> None:
    assert not [o for o in operations(source) if o.startswith(("ld.local", "st.local"))]
    assert ".local " not in ptx(source)


@pytest.mark.parametrize("name", WIDE_LOADS)
def test_memory_is_read_and_written_by_many_bytes(name: str) -> None:
    found = operations(ROOT / "csrc" / "cuda" / f"{name}.cu")
    assert set(WIDE_LOADS[name]) <= {
        o.replace(".b32", ".u32").replace(".b64", ".u64") for o in found
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_fit_into_registers(architecture: int) -> None:
    rows = [(*names, *numbers) for names, numbers in used_of_all(architecture).items()]
    for file, name, registers, stack, spilled in rows:
        print(  # noqa: T201
            f"sm_{architecture} {file:10} {registers:4} registers {stack:4} B stack "
            f"{spilled:4} B spilled  {name}"
        )
    assert len(rows) >= 10
    assert not [row for row in rows if row[4]], "spilled"
    assert not [row for row in rows if row[2] > MOST_REGISTERS], "too many registers"
