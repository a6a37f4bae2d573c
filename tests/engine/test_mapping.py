"""Inputs that are mapped where they lie give what inputs that are read give, in every pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import DTYPES, write_model
from support.method_models import recipe

from tvmerge import Checkpoint, diff
from tvmerge.engine import run_options
from tvmerge.engine.run_options import MIB, RunOptions
from tvmerge.files.page_cache import PageCache, forget
from tvmerge.merging.merge import save_checkpoint
from tvmerge.recipe import build, parse_recipe

MODELS = ("base", "a", "b")
# Windows are 4 MiB: tensors that hold several, end in one, lie within one, and are too small.
SHAPES = {"embed": (1100, 1024), "w.0": (1500, 768), "w.1": (129, 67), "norm": (768,)}
# (what every tuned model has, what the recipe has)
METHODS: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "task_arithmetic": ({"weight": 0.5}, {}),
    "ties": ({"weight": 0.5, "density": 0.3}, {}),
    "dare_ties": ({"weight": 0.5, "density": 0.5}, {}),
    "della": ({"weight": 0.5, "density": 0.5, "epsilon": 0.2}, {}),
    "breadcrumbs": ({"weight": 0.5, "density": 0.6, "gamma": 0.1}, {}),
    "sce": ({}, {"select_topk": 0.4}),
    "model_stock": ({}, {}),
    "arcee_fusion": ({}, {}),
}


@pytest.fixture(scope="module", params=["BF16", "F32"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of 6 to 12 MB whose tensors begin anywhere within a page."""
    folder = tmp_path_factory.mktemp("models")
    generator = np.random.default_rng(0)
    base = {name: generator.standard_normal(shape) for name, shape in SHAPES.items()}
    for model in MODELS:
        held = {
            name: (value + 0.1 * generator.standard_normal(value.shape) * (model != "base"))
            for name, value in base.items()
        }
        typed = {name: value.astype(DTYPES[request.param]) for name, value in held.items()}
        # Longer by itself than what is tried before a window is mapped whole.
        typed["ids"] = np.arange(300_000, dtype=np.int64)
        write_model(folder / model, typed, config={"architectures": [model]})
    return folder


def evict(models: Path) -> bool:
    """Take the models out of the page cache: what comes back is mapped, however long it takes,
    where for cached files the clock decides. False where they stay."""
    files = [models / name / "model.safetensors" for name in MODELS]
    for path in files:
        forget(path, flush=True)
    return not any(PageCache(path).cached_bytes(0, 2 * MIB) for path in files)


def bytes_read() -> int:
    """What this process has asked the kernel to copy from files so far."""
    with Path("/proc/self/io").open() as file:
        return int(file.readline().split(": ")[1])


def merged(text: str, out: Path, **options: int) -> tuple[bytes, object, int]:
    """The model, what its receipt says of every tensor, and how much was read."""
    model = build(parse_recipe(Path("recipe.yaml"), text.encode()))
    before = bytes_read()
    save_checkpoint(model.weighting, model.donor, out, dtype=None, options=RunOptions(**options))
    read = bytes_read() - before
    receipt = json.loads((out / "tvmerge_receipt.json").read_text())
    kept = {key: receipt[key] for key in ("inputs", "outputs", "tensors") if key in receipt}
    return (out / "model.safetensors").read_bytes(), kept, read


@pytest.mark.parametrize("method", METHODS)
def test_every_pass_sees_the_same(
    method: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, common = METHODS[method]
    tuned = MODELS[1:2] if method == "arcee_fusion" else MODELS[1:]
    text = recipe(models, method, dict.fromkeys(tuned, own), **common)
    evict(models)
    mapped = merged(text, tmp_path / "mapped", threads=3)
    monkeypatch.setattr(run_options, "_MAPPED_BYTES", 0)
    read = merged(text, tmp_path / "read", threads=1)
    assert mapped[:2] == read[:2]


def test_what_is_mapped_is_not_read(models: Path, tmp_path: Path) -> None:
    text = recipe(models, "task_arithmetic", {"a": {"weight": 0.5}, "b": {"weight": 0.2}})
    if not evict(models):
        pytest.skip("this file system keeps its files in memory")
    *_, read = merged(text, tmp_path / "out", threads=2)
    files = [models / name / "model.safetensors" for name in MODELS]
    assert read < 0.3 * sum(path.stat().st_size for path in files)


def test_diff_sees_the_same(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = Checkpoint(models / "base").donor, Checkpoint(models / "a").donor
    mapped = diff(base, tuned, options=RunOptions(threads=2))
    monkeypatch.setattr(run_options, "_MAPPED_BYTES", 0)
    assert diff(base, tuned, options=RunOptions(threads=1)) == mapped


def test_what_is_mapped_stays_within_the_limit() -> None:
    most = RunOptions(threads=2).workspace().mapped_bytes()
    assert most > 0
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // MIB
    for left in (1, 20, 100, 1000):  # of which buffers take 24 MiB
        limit = resident + left + 25  # in reserve
        given = RunOptions(threads=2, memory_mib=limit).workspace()
        mapped = given.mapped_bytes()
        assert given.buffer_bytes + mapped <= (left + 1) * MIB
        assert mapped <= most
        assert (mapped > 0) == (left > 24)
        assert given.mapped_bytes(beside_bytes=1000 * MIB) == 0
