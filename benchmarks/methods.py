"""Every merge method beside task arithmetic, whole processes taking turns.

    python -m benchmarks.methods MODELS --rounds 5

MODELS holds base, tuned1, tuned2 and tuned3 (benchmarks.models), best in the page cache. Prints
seconds, their ratio to task arithmetic by medians, and peak memory as a markdown table.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import yaml

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
}


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


@click.command()
@click.argument("models", type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", default="", help="Methods whose name contains this.")
def main(models: Path, rounds: int, only: str) -> None:
    """Compare merge methods on MODELS."""
    methods = [name for name in CASES if only in name or name == "task_arithmetic"]
    out, text = models / "merged", models / "recipe.yaml"
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    peaks: dict[str, float] = {}
    for _ in range(rounds):
        for name in methods:
            text.write_text(recipe(models, name))
            command = [sys.executable, "-m", "tvmerge", "merge", str(text), str(out)]
            started = time.monotonic()
            peaks[name] = peak_rss_mib(command)
            seconds[name].append(time.monotonic() - started)
            shutil.rmtree(out)
            os.sync()  # or the next one waits for what this one left the disk to do
    text.unlink()
    yardstick = median(seconds["task_arithmetic"])
    click.echo(
        "| method | min s | median s | task arithmetic = 1 | peak MiB |\n|---|---|---|---|---|"
    )
    for name in methods:
        held = seconds[name]
        click.echo(
            f"| {name} | {min(held):.2f} | {median(held):.2f} | {median(held) / yardstick:.1f} | "
            f"{peaks[name]:.0f} |"
        )


if __name__ == "__main__":
    main()
