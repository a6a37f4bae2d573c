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
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import click

from benchmarks import floor
from benchmarks.methods import recipe
from benchmarks.models import main as make_models
from tvmerge import _core

ROOT = Path(__file__).parents[2]
SOURCES = ("combine", "consensus", "delta_sums", "digest", "gram", "scan")
ROOFS = {"copy, device to device", "PCIe, host to device", "PCIe, device to host"}
METHODS = ("task_arithmetic", "ties", "dare_ties", "slerp")
PEER_METHODS = ("task_arithmetic", "ties")
# The page cache's own memory: what a merge takes that no disk holds up.
MEMORY = Path("/dev/shm")


def time_kernels(build: Path) -> list[dict[str, Any]]:
    """Compile kernels.cu for this card with the engine's kernels, run it."""
    program = build / "kernels"
    cuda = [str(ROOT / f"csrc/cuda/{name}.cu") for name in SOURCES]
    plain = [str(ROOT / f"csrc/{name}.cpp") for name in ("kernels", "kernels_generic")]
    options = ["-std=c++17", "-O3", "-arch=native", "-fmad=false", "--expt-relaxed-constexpr"]
    subprocess.run(
        ["nvcc", *options, f"-I{ROOT / 'csrc'}", str(Path(__file__).with_name("kernels.cu")),
         *cuda, *plain, "-o", str(program)],
        check=True,
    )  # fmt: skip
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


def merge_once(text: Path, out: Path, device: str) -> dict[str, float]:
    """Seconds of the whole process, and of its engine."""
    command = [sys.executable, "-m", "tvmerge", "merge", str(text), str(out), "--device", device]
    started = monotonic()
    done = subprocess.run(
        [*command, "--json", "--no-sync", "--memory", "8192"], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    whole = monotonic() - started
    shutil.rmtree(out)
    return {"process": whole, "engine": json.loads(done.stdout)["seconds"]}


def peer_once(text: Path, out: Path) -> dict[str, float]:
    """mergekit with its fastest flags on a card."""
    command = [sys.executable, "-m", "mergekit.scripts.run_yaml", str(text), str(out), "--cuda",
               "--no-copy-tokenizer", "--low-cpu-memory", "--read-to-gpu"]  # fmt: skip
    started = monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    whole = monotonic() - started
    if done.returncode:
        raise RuntimeError(f"mergekit: {done.stderr[-1500:]}")
    shutil.rmtree(out)
    return {"process": whole}


def time_merges(models: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """Every method on both devices, into memory and onto the disk; inputs lie in the page cache."""
    inputs = [models / "base", *sorted(models.glob("tuned*"))]
    for place, out in (("memory", MEMORY / "tvmerge-gpu-out"), ("disk", models / "out")):
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(rounds):
            seconds = floor.run(inputs, out, f"threads={_threads()}", "write=pwrite")["seconds"]
            yield {"what": "floor", "device": "cpu", "to": place, "engine": seconds}
        for method in METHODS:
            text = models / "recipe.yaml"
            text.write_text(recipe(models, method))
            for _ in range(rounds):
                for device in ("cuda", "cpu"):
                    found = merge_once(text, out, device)
                    yield {"what": method, "device": device, "to": place, **found}


def time_peer(models: Path) -> Iterator[dict[str, Any]]:
    """mergekit --cuda on the same files, once each."""
    if find_spec("mergekit") is None:
        return
    for method in PEER_METHODS:
        text = models / "recipe.yaml"
        text.write_text(recipe(models, method) + "dtype: bfloat16\n")
        try:
            found = peer_once(text, models / "out")
        except RuntimeError as error:
            yield {"what": f"mergekit {method}", "error": str(error)}
            continue
        yield {"what": f"mergekit {method}", "device": "cuda", "to": "disk", **found}


def merge_table(found: list[dict[str, Any]]) -> str:
    """Medians by what, device and place."""
    lines = ["| merge | device | to | engine s | process s |", "|---|---|---|---|---|"]
    keys = dict.fromkeys((one["what"], one["device"], one["to"]) for one in found if "to" in one)
    for what, device, place in keys:
        held = [
            o for o in found if (o["what"], o.get("device"), o.get("to")) == (what, device, place)
        ]
        cells = [
            f"{median(o[key] for o in held):.2f}" if key in held[0] else ""
            for key in ("engine", "process")
        ]
        lines.append(f"| {what} | {device} | {place} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _threads() -> int:
    return len(os.sched_getaffinity(0))


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
    click.echo(f"{_core.cards()[0][1]}, {_threads()} threads\n")
    found["kernels"] = time_kernels(work)
    click.echo(kernel_table(found["kernels"]) + "\n")
    models = work / f"models-{parameters}"
    if not models.exists():
        make_models([str(models), "--parameters", parameters], standalone_mode=False)
    found["merges"] = []
    try:
        for one in (*time_merges(models, rounds), *time_peer(models)):
            found["merges"].append(one)
    finally:
        click.echo(merge_table(found["merges"]))
        if json_path:
            json_path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
