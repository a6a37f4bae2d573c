"""Cards compute the processor's bytes: every method and dtype, whatever runs beside what.

Needs a card, or the host shim in its place (test_cuda_shim.py runs this file so).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cards.card_merges import METHODS, merged, models, text_of
from oracles.arithmetic import random_array
from support.checkpoints import FLOATS, digests, write_model

from tvmerge import Checkpoint, TaskVector, _core
from tvmerge.algebra.sweep import sweep
from tvmerge.engine import run_options
from tvmerge.engine.devices import close_cards
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import DeviceError, MemoryLimitError
from tvmerge.merging.merge import save_checkpoint
from tvmerge.recipe import build, parse_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _core.cards(), reason=f"no card: {_core.cuda_problem()}"),
]


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little memory for units, so that tensors of this size are cut into several."""
    monkeypatch.setattr(run_options, "_BYTES_PER_THREAD_OF_CARDS", 6 * 1024 * 1024)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "dtypes", [*([dtype] for dtype in FLOATS), ["BF16", "F32", "F16", "F8_E4M3"]], ids="-".join
)
def test_a_card_writes_the_bytes_and_the_receipt_of_the_processor(
    tmp_path: Path, method: str, dtypes: list[str]
) -> None:
    text = text_of(models(tmp_path, dtypes, wild=False), method)
    assert merged(text, tmp_path / "cuda", "cuda") == merged(text, tmp_path / "cpu", "cpu")


@pytest.mark.parametrize(
    "method",
    [
        "task_arithmetic",
        "ties",
        "dare_ties",
        "sce",
        "ram",
        "arcee_fusion",
        "consensus_ta",
        "emr of b",
        "nuslerp of rows",
    ],
)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_nan_and_infinity_come_out_alike(tmp_path: Path, method: str, dtype: str) -> None:
    text = text_of(models(tmp_path, [dtype], wild=True), method)
    assert merged(text, tmp_path / "cuda", "cuda") == merged(text, tmp_path / "cpu", "cpu")


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_nothing(tmp_path: Path, threads: int) -> None:
    text = text_of(models(tmp_path, ["BF16"], wild=False), "ties")
    expected = merged(text, tmp_path / "cpu", "cpu")
    assert merged(text, tmp_path / "cuda", "cuda", threads) == expected


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 1023, 1024, 1025, 65535, 65536, 65537, 70001])
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_size_of_tensor(tmp_path: Path, size: int, dtype: str) -> None:
    generator = np.random.default_rng(size)
    held = [
        Checkpoint(
            write_model(
                tmp_path / str(k), {"w": random_array(generator, dtype, (size,), wild=True)}
            )
        )
        for k in range(4)
    ]
    model = Checkpoint.average(held, [1.5, -0.3, 0.4, -0.2], normalize=False)
    found = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        options = RunOptions(device=device)
        save_checkpoint(model.coefficients, model.donor, out, dtype=None, options=options)
        found[device] = digests(out)["model.safetensors"]
    assert found["cuda"] == found["cpu"]


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_vectors_sweeps_and_models_in_memory(tmp_path: Path, dtype: str) -> None:
    """Outputs of another dtype than their inputs', several at once, and none in a file."""
    models(tmp_path, [dtype], wild=False)
    base, tuned = Checkpoint(tmp_path / "base"), Checkpoint(tmp_path / "a")
    for device in ("cpu", "cuda"):
        place = tmp_path / device
        (tuned - base).save(place / "vector", device=device)
        stored = TaskVector(place / "vector")
        (base - 0.5 * stored).save(place / "applied", device=device)
        sweep(base + stored, [-0.3, 0.2, 0.7], place / "swept", options=RunOptions(device=device))
        text = text_of(tmp_path, "ties")
        scaled = build(parse_recipe(Path("r"), text.encode()))
        sweep(scaled, [0.5, 1.5], place / "agreed", options=RunOptions(device=device))
        held = (base - 0.5 * stored).state_dict(device=device)
        assert all(tensor.isfinite().all() for tensor in held.values())
        np.save(place / "held.npy", held["layers.0.w"].float().numpy())
    files = [
        f for f in sorted((tmp_path / "cpu").rglob("*")) if f.suffix in (".safetensors", ".npy")
    ]
    assert len(files) == 8
    for file in files:
        assert (
            file.read_bytes()
            == (tmp_path / "cuda" / file.relative_to(tmp_path / "cpu")).read_bytes()
        )


@pytest.mark.skipif(len(_core.cards()) < 2, reason="one card only")
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp", "dare_ties"])
def test_two_cards_share_the_work(tmp_path: Path, method: str) -> None:
    text = text_of(models(tmp_path, ["BF16"], wild=False), method)
    expected = merged(text, tmp_path / "cpu", "cpu")
    assert merged(text, tmp_path / "cuda", "cuda:0,1", threads=4) == expected


def test_little_memory_of_the_card_is_enough(tmp_path: Path) -> None:
    text = text_of(models(tmp_path, ["BF16"], wild=False), "ties")
    expected = merged(text, tmp_path / "cpu", "cpu")
    try:
        assert merged(text, tmp_path / "cuda", "cuda", threads=2, memory=24) == expected
    finally:
        close_cards()


def test_too_little_memory_of_the_card_is_an_error(tmp_path: Path) -> None:
    models(tmp_path, ["F32"], wild=False)
    tuned, base = Checkpoint(tmp_path / "a"), Checkpoint(tmp_path / "base")
    with pytest.raises(MemoryLimitError, match="--memory-device"):
        (base + 0.5 * (tuned - base)).save(tmp_path / "out", device="cuda", device_memory_mib=1)
    close_cards()
    assert not (tmp_path / "out").exists()


def test_a_card_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    models(tmp_path, ["F32"], wild=False)
    tuned, base = Checkpoint(tmp_path / "a"), Checkpoint(tmp_path / "base")
    with pytest.raises(DeviceError, match="there is no card 99"):
        (base + 0.5 * (tuned - base)).save(tmp_path / "out", device="cuda:99")
    assert not (tmp_path / "out").exists()
