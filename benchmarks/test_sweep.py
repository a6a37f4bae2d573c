"""Five scales of one edit: one sweep against five merges, and a model in memory against files.

make bench PARAMETERS=1.1e9
"""

from __future__ import annotations

import sys

import pytest
import torch
import yaml
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import Models
from benchmarks.peak import peak_rss_mib
from tvmerge import Checkpoint

pytestmark = pytest.mark.benchmark(group="five scales")
SCALES = (0.1, 0.2, 0.3, 0.4, 0.5)
ROUNDS = 3


def recipe(models: Models, name: str, lambda_: float) -> str:
    """A recipe that subtracts every fine-tune; its path."""
    path = models.base.parent / f"{name}.yaml"
    content = {
        "merge_method": "task_arithmetic",
        "base_model": str(models.base),
        "models": [{"model": str(one), "parameters": {"weight": -1.0}} for one in models.tuned],
        "parameters": {"lambda": lambda_},
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


def commands(benchmark: BenchmarkFixture, models: Models, *commands: list[str]) -> None:
    """Time all of the commands together; peak memory into extra_info."""
    peaks = []

    def run() -> None:
        for command in commands:
            peaks.append(peak_rss_mib([sys.executable, "-m", "tvmerge", *command, "--quiet"]))

    benchmark.pedantic(run, setup=models.clear, rounds=ROUNDS)
    benchmark.extra_info["peak_rss_mib"] = max(peaks)
    assert len(list(models.out.glob("*/config.json"))) == len(SCALES)


def test_one_sweep(benchmark: BenchmarkFixture, models: Models) -> None:
    scales = ",".join(map(str, SCALES))
    config = recipe(models, "sweep", 1.0)
    commands(benchmark, models, ["sweep", config, str(models.out), "--scale", scales])


def test_five_merges(benchmark: BenchmarkFixture, models: Models) -> None:
    each = [
        ["merge", recipe(models, f"merge-{scale}", scale), str(models.out / f"{scale}")]
        for scale in SCALES
    ]
    commands(benchmark, models, *each)


def test_one_model_in_memory_at_five_scales(benchmark: BenchmarkFixture, models: Models) -> None:
    """Without the time to start Python and to load the model for the first time."""
    base, *tuned = map(Checkpoint, models.inputs)
    loaded = (base - sum(one - base for one in tuned)).load_into(module_like(base))

    def run() -> None:
        for scale in SCALES:
            loaded.rescale(scale)

    benchmark.pedantic(run, rounds=ROUNDS)
    assert loaded.edit.changed


def module_like(checkpoint: Checkpoint) -> torch.nn.Module:
    """A module with the checkpoint's tensors as parameters: the engine needs no more of a model."""
    root = torch.nn.Module()
    for name, tensor in checkpoint.state_dict().items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(last, torch.nn.Parameter(tensor))
    return root
