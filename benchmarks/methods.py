"""Every merge method beside task arithmetic, whole processes taking turns.

    python -m benchmarks.methods MODELS --rounds 5
    python -m benchmarks.methods MODELS --rounds 5 --mergekit build/bench/mergekit/bin/mergekit-yaml

MODELS holds base, tuned1, tuned2 and tuned3 (benchmarks.models), best in the page cache. Prints
seconds, their ratio to task arithmetic by medians, and peak memory as a markdown table.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import yaml

from benchmarks.conftest import MERGEKIT_FLAGS
from benchmarks.peak import peak_rss_mib

HALF = {"weight": 0.3, "density": 0.5}
# By method: parameters of every model, of the merge, how many models, and what the base is.
CASES: dict[str, tuple[dict[str, float], dict[str, Any], int, str]] = {
    "task_arithmetic": ({"weight": 0.3}, {}, 3, "base"),
    "linear": ({"weight": 0.3}, {}, 3, "none"),
    "ties": ({"weight": 0.3, "density": 0.2}, {}, 3, "base"),
    "dare_linear": (HALF, {}, 3, "base"),
    "dare_ties": (HALF, {}, 3, "base"),
    "breadcrumbs": (HALF, {}, 3, "base"),
    "breadcrumbs_ties": (HALF, {}, 3, "base"),
    "della": (HALF, {}, 3, "base"),
    "della_linear": (HALF, {}, 3, "base"),
    "sce": ({}, {"select_topk": 0.2}, 3, "base"),
    "ram": ({}, {"epsilon": 0.001}, 3, "base"),
    "ramplus_tl": ({}, {"epsilon": 0.001}, 3, "base"),
    "negmerge": ({"weight": 1.0}, {}, 3, "base"),
    "consensus_ta": ({"weight": 1.0}, {}, 3, "base"),
    "emr": ({"weight": 1.0}, {}, 3, "base"),
    "nearswap": ({}, {"t": 0.01}, 1, "base"),
    "slerp": ({}, {"t": 0.3}, 1, "listed"),
    "nuslerp": ({"weight": 0.5}, {}, 2, "none"),
    "multislerp": ({"weight": 0.5}, {}, 3, "base"),
    "karcher": ({}, {}, 3, "none"),
    "model_stock": ({}, {}, 3, "base"),
    "arcee_fusion": ({}, {}, 1, "base"),
    "passthrough": ({"scale": 0.5}, {}, 1, "none"),
}


BEYOND_MERGEKIT = ("negmerge", "consensus_ta", "emr")


def recipe(models: Path, method: str) -> str:
    """The method's case as YAML."""
    own, parameters, count, base = CASES[method]
    names = ["base"] if base == "listed" else []
    names += [f"tuned{number}" for number in range(1, count + 1)]
    content: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": str(models / name), "parameters": own} for name in names],
        "parameters": parameters,
    }
    if base != "none":
        content["base_model"] = str(models / "base")
    return yaml.safe_dump(content)


@dataclass(frozen=True, slots=True)
class Taken:
    """What the runs of one method took."""

    seconds: list[float] = field(default_factory=list)
    peaks_mib: list[float] = field(default_factory=list)

    def run(self, command: list[str], out: Path) -> None:
        """Run the command once, and remove what it has written to `out`."""
        started = time.monotonic()
        self.peaks_mib.append(peak_rss_mib(command))
        self.seconds.append(time.monotonic() - started)
        shutil.rmtree(out)
        os.sync()  # or the next one waits for what this one left the disk to do


@click.command()
@click.argument("models", type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", default="", help="Methods whose name contains this.")
@click.option(
    "--mergekit",
    type=click.Path(exists=True, dir_okay=False),
    help="Its mergekit-yaml, to run each method that it has once.",
)
def main(models: Path, rounds: int, only: str, mergekit: str | None) -> None:
    """Compare merge methods on MODELS."""
    methods = [name for name in CASES if only in name or name == "task_arithmetic"]
    ours = {name: Taken() for name in methods}
    theirs = {name: Taken() for name in methods if mergekit and name not in BEYOND_MERGEKIT}
    out, text = models / "merged", models / "recipe.yaml"
    for _ in range(rounds):
        for name in methods:
            text.write_text(recipe(models, name))
            ours[name].run([sys.executable, "-m", "tvmerge", "merge", str(text), str(out)], out)
    for name, taken in theirs.items():
        text.write_text(recipe(models, name) + "dtype: bfloat16\n")
        taken.run([str(mergekit), str(text), str(out), *MERGEKIT_FLAGS], out)
    text.unlink()
    yardstick = median(ours["task_arithmetic"].seconds)
    head = "| method | min s | median s | task arithmetic = 1 | peak MiB |"
    rule = "|---|---|---|---|---|"
    if mergekit:
        head, rule = head + " mergekit s | of ours | its peak MiB |", rule + "---|---|---|"
    click.echo(f"{head}\n{rule}")
    for name, taken in ours.items():
        middle = median(taken.seconds)
        row = (
            f"| {name} | {min(taken.seconds):.2f} | {middle:.2f} | {middle / yardstick:.1f} | "
            f"{max(taken.peaks_mib):.0f} |"
        )
        if name in theirs:
            (seconds,), (peak,) = theirs[name].seconds, theirs[name].peaks_mib
            row += f" {seconds:.1f} | {seconds / middle:.0f} | {peak:,.0f} |"
        elif mergekit:
            row += " | | |"
        click.echo(row)


if __name__ == "__main__":
    main()
