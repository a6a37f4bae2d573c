"""A card measured: kernels beside its copy rate, merges beside the floor and mergekit.

    python -m benchmarks.gpu WORK [--json FILE] [--parameters 1.1e9] [--rounds 3]

Needs torch or CUDA's nvcc on the path, no network. WORK is a folder on the disk to be measured; it
keeps the models. Prints markdown tables; --json has every number.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any, NamedTuple

import click

from benchmarks import floor
from benchmarks.methods import recipe
from benchmarks.models import main as make_models
from tvmerge import _core
from tvmerge.engine.run_options import RunOptions
from tvmerge.merging.merge import save_checkpoint
from tvmerge.recipe import build, load_recipe

ROOT = Path(__file__).parents[2]
SOURCES = ("combine", "consensus", "delta_sums", "digest", "gram", "scan")
METHODS = ("task_arithmetic", "ties", "dare_ties", "slerp")
PEER_METHODS = ("task_arithmetic", "ties")


class Row(NamedTuple):
    """One timing: of a merge `here` (in this process) or of a whole `process`."""

    what: str
    device: str
    where: str
    seconds: float


def time_kernels(build: Path) -> list[dict[str, Any]]:
    """Compile kernels.cu for this card with the engine's kernels, run it."""
    sources = [Path(__file__).with_name("kernels.cu")]
    sources += [ROOT / f"csrc/cuda/{name}.cu" for name in SOURCES]
    sources += [ROOT / f"csrc/kernels/{name}.cpp" for name in ("kernels", "kernels_generic")]
    options = ["-std=c++17", "-O3", "-arch=native", "-fmad=false", "--expt-relaxed-constexpr"]

    def compiled(source: Path) -> str:
        made = str(build / f"{source.stem}{source.suffix[1:]}.o")
        command = ["nvcc", *options, f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", made]
        subprocess.run(command, check=True)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    program = build / "kernels"
    subprocess.run(["nvcc", "-arch=native", *objects, "-o", str(program)], check=True)
    done = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def kernel_table(found: list[dict[str, Any]]) -> str:
    """Every kernel's rate, and its share of the device's copy."""
    roof = next(one["gb_per_s"] for one in found if one["name"] == "copy, device to device")
    lines = ["| kernel | GB/s | share of copy |", "|---|---|---|"]
    for one in found:
        share = "" if one["name"].startswith("PCIe") else f"{one['gb_per_s'] / roof:.2f}"
        lines.append(f"| {one['name']} | {one['gb_per_s']:.0f} | {share} |")
    return "\n".join(lines)


def merge_here(text: Path, out: Path, device: str) -> float:
    """Seconds of one merge in this process, whose card is open."""
    model = build(load_recipe(text))
    started = monotonic()
    options = RunOptions(device=device, sync=False)
    save_checkpoint(model.weighting, model.donor, out, dtype=None, options=options)
    seconds = monotonic() - started
    shutil.rmtree(out)
    return seconds


def merge_process(text: Path, out: Path, device: str) -> float:
    """Seconds of a process that starts, opens the card and merges."""
    command = [sys.executable, "-m", "tvmerge", "merge", str(text), str(out), "--device", device]
    started = monotonic()
    done = subprocess.run([*command, "-q", "--no-sync"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    seconds = monotonic() - started
    shutil.rmtree(out)
    return seconds


def peer_process(text: Path, out: Path) -> float:
    """Seconds of mergekit with its fastest flags on a card."""
    command = [sys.executable, "-m", "mergekit.scripts.run_yaml", str(text), str(out), "--cuda",
               "--no-copy-tokenizer", "--low-cpu-memory", "--read-to-gpu"]  # fmt: skip
    started = monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = monotonic() - started
    if done.returncode:
        raise RuntimeError(f"mergekit: {done.stderr[-1500:]}")
    shutil.rmtree(out)
    return seconds


def time_merges(models: Path, rounds: int) -> Iterator[Row]:
    """The floor, every method on both devices in turn, and mergekit; inputs in the page cache."""
    inputs, out = [models / "base", *sorted(models.glob("tuned*"))], models / "out"
    shutil.rmtree(out, ignore_errors=True)
    threads = len(os.sched_getaffinity(0))
    for _ in range(rounds):
        options = (f"threads={threads}", "write=pwrite")
        yield Row("floor", "cpu", "here", floor.run(inputs, out, *options)["seconds"])
    text = models / "recipe.yaml"
    for method in METHODS:
        text.write_text(recipe(models, method))
        for _ in range(rounds):
            for device in ("cuda", "cpu"):
                yield Row(method, device, "here", merge_here(text, out, device))
        for device in ("cuda", "cpu"):
            yield Row(method, device, "process", merge_process(text, out, device))
    if find_spec("mergekit") is None:
        return
    for method in PEER_METHODS:
        text.write_text(recipe(models, method) + "dtype: bfloat16\n")
        yield Row(f"mergekit {method}", "cuda", "process", peer_process(text, out))


def merge_table(rows: list[Row]) -> str:
    """Medians, in this process and of whole processes."""
    lines = ["| merge | device | s | whole process s |", "|---|---|---|---|"]
    for what, device in dict.fromkeys((row.what, row.device) for row in rows):
        cells = []
        for where in ("here", "process"):
            held = [r.seconds for r in rows if (r.what, r.device, r.where) == (what, device, where)]
            cells.append(f"{median(held):.2f}" if held else "")
        lines.append(f"| {what} | {device} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@click.option("--parameters", default="1.1e9", show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(work: Path, json_path: Path | None, parameters: str, rounds: int) -> None:
    """Measure the first card."""
    if not _core.cards():
        raise click.ClickException(f"no card: {_core.cuda_problem()}")
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"cards": _core.cards(), "parameters": parameters}
    click.echo(f"{_core.cards()[0][1]}, {os.cpu_count()} processors\n")
    found["kernels"] = time_kernels(work)
    click.echo(kernel_table(found["kernels"]) + "\n")
    models = work / f"models-{parameters}"
    if not models.exists():
        make_models([str(models), "--parameters", parameters], standalone_mode=False)
    rows: list[Row] = []
    try:
        for row in time_merges(models, rounds):
            rows.append(row)
    finally:  # what there is, if the machine goes away
        click.echo(merge_table(rows))
        found["merges"] = [row._asdict() for row in rows]
        if json_path:
            json_path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
