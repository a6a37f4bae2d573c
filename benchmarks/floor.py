"""The I/O floor: a merge's reads and writes by a small C++ program that computes nothing.

    python -m benchmarks.floor OUT BASE TUNED... read=pread advice=none threads=1

It shares no code with the engine, so that it can tell on it; io_floor/io_floor.cpp names the
options. OUT is a new folder, removed at the end.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tvmerge.checkpoints.stored import Stored, open_stored
from tvmerge.files.dtype import parse_dtype
from tvmerge.files.safetensors import layout

SOURCES = Path(__file__).parent / "io_floor"
PROGRAM = Path(__file__).parents[1] / "build" / "bench" / "io_floor"


def build() -> Path:
    """Compile the program if it is missing or older than its sources; raises where g++ fails."""
    newest = max(file.stat().st_mtime for file in SOURCES.iterdir())
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < newest:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        source = str(SOURCES / "io_floor.cpp")
        command = ["g++", "-O2", "-std=c++17", "-pthread", source, "-o", str(PROGRAM)]
        subprocess.run(command, check=True)
    return PROGRAM


def jobs(inputs: Sequence[Path], out: Path, *, dtype: str | None = None) -> str:
    """The program's input: one job per tensor of the first input, whose files `out` gets.

    `dtype`: of the output where it is not the first input's.
    """
    stored = [open_stored(path) for path in inputs]
    numbers = {
        file: number for number, file in enumerate(file for one in stored for file, _ in one.shards)
    }
    lines = [f"in {file}" for file in numbers]
    for number, (file, header) in enumerate(stored[0].shards):
        wanted = parse_dtype(dtype) if dtype else None
        entries = [(entry.name, wanted or entry.dtype, entry.shape) for entry in header.entries]
        _, placed, size = layout(entries, {"format": "pt"})
        lines.append(f"out {size} {out / file.name}")
        for entry in placed:
            width = entry.size_bytes // max(1, entry.elements)
            line = f"job {entry.elements} {number} {entry.begin} {width}"
            lines.append(line + _sources(stored, entry.name, numbers))
    return "\n".join(lines) + "\n"


def _sources(stored: Sequence[Stored], name: str, numbers: dict[Path, int]) -> str:
    words = ""
    for slot in (one.slots[name] for one in stored if name in one.slots):
        width = slot.entry.size_bytes // max(1, slot.entry.elements)
        words += f" {numbers[slot.file]} {slot.entry.begin} {width}"
    return words


def run(
    inputs: Sequence[Path], out: Path, *options: str, dtype: str | None = None
) -> dict[str, float]:
    """Run the program on these inputs; `out` is made before and removed after.

    Returns seconds, cpu_seconds, bytes_read, bytes_written, gb_per_s; raises CalledProcessError.
    """
    program = build()
    with tempfile.TemporaryFile() as given:
        given.write(jobs(inputs, out, dtype=dtype).encode())
        given.seek(0)
        out.mkdir(parents=True)
        try:
            done = subprocess.run([program, *options], stdin=given, capture_output=True, check=True)
        finally:
            shutil.rmtree(out)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    folders = [Path(word) for word in sys.argv[1:] if "=" not in word]
    options = [word for word in sys.argv[1:] if "=" in word]
    sys.stdout.write(json.dumps(run(folders[1:], folders[0], *options)) + "\n")


if __name__ == "__main__":
    main()
