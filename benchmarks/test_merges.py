"""Whole merges (base and three subtractions): the engine, numpy, mergekit, cat + cp.

    make bench PARAMETERS=1.1e9

Each writes the same model to the same disk, in a process of its own where the peer has one. Read
ratios within one run: absolute times on shared machines mean little. peft 0.21.2 is not here: it
combines adapters of one base (add_weighted_adapter), not full fine-tunes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes  # noqa: F401 (makes bfloat16 known to numpy)
import numpy as np
import pytest
import yaml
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors.numpy import load_file

from benchmarks.conftest import MERGEKIT_FLAGS, SCALE, Models
from benchmarks.peak import peak_rss_mib

pytestmark = pytest.mark.benchmark(group="task arithmetic")
ROUNDS = 5
# Absolute error allowed beside one unit in the last place: FusionBench computes in bfloat16.
PEERS = {"sd-mecha": 0.0, "fusion-bench": 2**-12, "reminis": 0.0}


def run(benchmark: BenchmarkFixture, models: Models, command: list[str], rounds: int) -> None:
    """Time a whole process, output cleared before each round; peak memory into extra_info."""
    peaks = []
    benchmark.pedantic(
        lambda: peaks.append(peak_rss_mib(command)), setup=models.clear, rounds=rounds
    )
    benchmark.extra_info["peak_rss_mib"] = max(peaks)
    assert any(models.out.glob("*.safetensors"))


def test_cat_inputs_and_cp_base(benchmark: BenchmarkFixture, models: Models) -> None:
    inputs = " ".join(f"{folder}/*.safetensors" for folder in models.inputs)
    script = f"cat {inputs} > /dev/null && cp -r {models.base} {models.out}"
    run(benchmark, models, ["sh", "-c", script], ROUNDS)


def test_tvmerge(benchmark: BenchmarkFixture, models: Models) -> None:
    subtract = [word for path in models.tuned for word in ("--subtract", f"{path}={SCALE}")]
    command = [sys.executable, "-m", "tvmerge", "apply", str(models.base), str(models.out)]
    run(benchmark, models, [*command, *subtract, "--quiet"], ROUNDS)
    assert_one_tensor_right(models)


def test_mergekit(benchmark: BenchmarkFixture, models: Models, mergekit: str) -> None:
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(models.base),
        "models": [{"model": str(path), "parameters": {"weight": -SCALE}} for path in models.tuned],
        "dtype": "bfloat16",
    }
    config = models.base.parent / "mergekit.yaml"
    config.write_text(yaml.safe_dump(recipe))
    run(benchmark, models, [mergekit, str(config), str(models.out), *MERGEKIT_FLAGS], rounds=1)
    # It subtracts in bfloat16: an element can be off by a quarter of its value.
    assert_one_tensor_right(models, atol=2**-12)


@pytest.mark.parametrize("peer", PEERS)
def test_peer(benchmark: BenchmarkFixture, models: Models, peers: Path, peer: str) -> None:
    python = peers / peer / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"{peers} has no environment {peer}: run `make bench`")
    script = Path(__file__).parent / "peers" / f"{peer.replace('-', '_')}_merge.py"
    folders = map(str, (models.out, *models.inputs))
    run(benchmark, models, [str(python), str(script), *folders], rounds=1)
    assert_one_tensor_right(models, atol=PEERS[peer])


def test_numpy(benchmark: BenchmarkFixture, models: Models) -> None:
    folders = map(str, (models.out, *models.inputs))
    run(benchmark, models, [sys.executable, "-m", "benchmarks.numpy_merge", *folders], rounds=2)
    assert_one_tensor_right(models)


def assert_one_tensor_right(models: Models, atol: float = 0.0) -> None:
    """A benchmark of a wrong result would be worth nothing."""
    name = "model.norm.weight"
    base, *tuned = (tensor(folder, name).astype(np.float64) for folder in models.inputs)
    expected = base - SCALE * sum(one - base for one in tuned)
    found = tensor(models.out, name).astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=2**-8, atol=atol)


def tensor(folder: Path, name: str) -> np.ndarray:
    """One tensor of a checkpoint, which a peer may have left without an index."""
    for file in sorted(folder.glob("*.safetensors")):
        state = load_file(file)
        if name in state:
            found: np.ndarray = state[name]
            return found
    raise KeyError(f"{folder}: no {name}")
