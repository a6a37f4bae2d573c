"""tvmerge beside cat + cp and beside the I/O floor, in turn, as a markdown table.

    python -m benchmarks.models MODELS --parameters 1.1e9
    python -m benchmarks.compare MODELS --rounds 5
    python -m benchmarks.compare MODELS --case vector --threads 1 --cold

All of MODELS (base, tuned1, tuned2, ...) takes part: with --tuned 9 it is a merge of ten inputs.
What was written is flushed before each run, so that nobody pays for who came before.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic

import click

from benchmarks import floor
from benchmarks.conftest import SCALE
from tvmerge.files.page_cache import forget_all

CASES = ("apply", "vector", "stored", "diff")


@dataclass(frozen=True, slots=True)
class Case:
    """What is merged: the files read, the command, the files that a plain copy would write."""

    inputs: tuple[Path, ...]
    command: tuple[str, ...]
    out: Path
    copied: Path | None
    dtype: str | None

    @property
    def files(self) -> list[Path]:
        """All weights files read."""
        return [file for folder in self.inputs for file in sorted(folder.glob("*.safetensors"))]


def make_case(models: Path, kind: str) -> Case:
    """Set a case up: stored vectors, and an example of the output to copy, are made beside."""
    base, tuned, out = models / "base", sorted(models.glob("tuned*")), models / "out"
    if kind == "vector":
        example = _made(models / "vector1", "vector", base, tuned[0])
        command = ("vector", str(base), str(tuned[0]), str(out))
        return Case((base, tuned[0]), command, out, example, "F32")
    if kind == "diff":
        return Case((base, tuned[0]), ("diff", str(base), str(tuned[0])), out, None, None)
    if kind == "stored":
        tuned = [
            _made(models / f"vector{number}", "vector", base, folder)
            for number, folder in enumerate(tuned, 1)
        ]
    terms = [word for folder in tuned for word in ("--subtract", f"{folder}={SCALE}")]
    return Case((base, *tuned), ("apply", str(base), str(out), *terms), out, base, None)


def _made(folder: Path, command: str, *inputs: Path) -> Path:
    if not folder.exists():
        _tvmerge(command, *map(str, inputs), str(folder), "--quiet")
    return folder


def _tvmerge(*words: str) -> bytes:
    command = [sys.executable, "-m", "tvmerge", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def settle(case: Case, *, cold: bool) -> None:
    """Remove the last output, finish its writing, and empty the cache of the inputs or fill it."""
    shutil.rmtree(case.out, ignore_errors=True)
    os.sync()
    if not cold:
        _cat(case)
        return
    forget_all(case.files)


def _cat(case: Case) -> None:
    subprocess.run(["cat", *map(str, case.files)], check=True, stdout=subprocess.DEVNULL)


def cat_and_cp(case: Case, _threads: int) -> dict[str, float]:
    """Read all inputs, then copy what the output is as large as."""
    started = monotonic()
    _cat(case)
    if case.copied:
        subprocess.run(["cp", "-r", str(case.copied), str(case.out)], check=True)
    return {"cat + cp": monotonic() - started}


def io_floor(case: Case, threads: int) -> dict[str, float]:
    """The same reads and writes with no arithmetic."""
    write = "pwrite" if case.copied else "none"
    options = (f"threads={threads}", f"write={write}")
    return {"floor": floor.run(case.inputs, case.out, *options, dtype=case.dtype)["seconds"]}


def tvmerge(case: Case, threads: int) -> dict[str, float]:
    """The whole process, and what it says its own work took."""
    started = monotonic()
    said = json.loads(_tvmerge(*case.command, "--json", "--threads", str(threads)))
    found = {"tvmerge": monotonic() - started}
    return found | ({"tvmerge, engine": said["seconds"]} if "seconds" in said else {})


CONTENDERS: tuple[Callable[[Case, int], dict[str, float]], ...] = (cat_and_cp, io_floor, tvmerge)


def compete(case: Case, *, rounds: int, threads: int, cold: bool) -> dict[str, list[float]]:
    """Seconds of every round; who goes first changes from round to round."""
    seconds: dict[str, list[float]] = {}
    for number in range(rounds):
        first = number % len(CONTENDERS)
        for contender in CONTENDERS[first:] + CONTENDERS[:first]:
            settle(case, cold=cold)
            for name, took in contender(case, threads).items():
                seconds.setdefault(name, []).append(took)
    shutil.rmtree(case.out, ignore_errors=True)
    return seconds


def table(title: str, seconds: dict[str, list[float]]) -> str:
    """Markdown: seconds of each, and ratios within the rounds."""
    lines = [f"| {title} | min | median | max |", "|---|---|---|---|"]
    for name in sorted(seconds):
        lines.append(_row(f"{name}, s", seconds[name]))
    for ours in ("tvmerge", "tvmerge, engine"):
        for other in ("cat + cp", "floor"):
            if ours in seconds:
                pairs = zip(seconds[ours], seconds[other], strict=True)
                lines.append(_row(f"{ours} / {other}", [one / two for one, two in pairs]))
    return "\n".join(lines)


def _row(name: str, values: list[float]) -> str:
    return f"| {name} | {min(values):.2f} | {median(values):.2f} | {max(values):.2f} |"


@click.command()
@click.argument("models", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--case", "kinds", multiple=True, type=click.Choice(CASES), default=("apply",))
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option("--cold", is_flag=True, help="Empty the page cache of the inputs before each run.")
def main(models: Path, kinds: tuple[str, ...], rounds: int, threads: int, cold: bool) -> None:
    """Compare tvmerge with cat + cp and with the floor on MODELS."""
    floor.build()
    for kind in kinds:
        case = make_case(models.resolve(), kind)
        read = sum(file.stat().st_size for file in case.files)
        title = f"{kind}, {len(case.inputs)} inputs, {read / 1e9:.1f} GB, {threads} threads"
        title += ", cold" if cold else ", warm"
        seconds = compete(case, rounds=rounds, threads=threads, cold=cold)
        click.echo(table(title, seconds) + "\n")


if __name__ == "__main__":
    main()
