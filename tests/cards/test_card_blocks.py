"""What a card keeps of a batch is taken for nothing else. Needs a card, as test_cards.py does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cards.card_merges import merged
from support.checkpoints import write_model
from support.method_models import recipe

from tvmerge import _core
from tvmerge.algebra.sweep import sweep
from tvmerge.engine import run_options
from tvmerge.engine.devices import close_cards
from tvmerge.engine.run_options import RunOptions
from tvmerge.recipe import build, parse_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _core.cards(), reason=f"no card: {_core.cuda_problem()}"),
]

SHAPE = (600, 501)  # more than a block has to have to be kept


def write_models(folder: Path, seed: int, method: str = "ties") -> str:
    """Three models of two shards, alike but for their numbers; a recipe that measures first."""
    generator = np.random.default_rng(seed)
    for model in ("base", "a", "b"):
        held = {name: generator.standard_normal(SHAPE).astype(np.float32) for name in ("x", "y")}
        write_model(folder / model, held, shards=[["x"], ["y"]])
    own = {"weight": 0.5, "density": 0.3, **({"epsilon": 0.1} if method == "della" else {})}
    return recipe(folder, method, {"a": own, "b": own})


def test_block_of_one_shard_is_not_taken_for_the_other(tmp_path: Path) -> None:
    text = write_models(tmp_path, 1)
    assert merged(text, tmp_path / "cuda", "cuda") == merged(text, tmp_path / "cpu", "cpu")


def test_file_is_read_again_by_the_next_merge(tmp_path: Path) -> None:
    # della ranks whole rows, and leaves blocks behind that ties would take.
    for seed, method in enumerate(("ties", "della", "ties")):
        text = write_models(tmp_path, seed, method)
        out = tmp_path / str(seed)
        assert merged(text, out / "cuda", "cuda") == merged(text, out / "cpu", "cpu")


def test_blocks_of_another_size_hold_nothing_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So little memory that it is cut anew between measuring and writing, for several outputs.
    monkeypatch.setattr(run_options, "_BYTES_PER_THREAD_OF_CARDS", 12 * 1024 * 1024)
    model = build(parse_recipe(Path("r"), write_models(tmp_path, 1).encode()))
    try:
        for device in ("cuda", "cpu"):
            options = RunOptions(device=device, threads=4, device_memory_mib=8)
            sweep(model, [0.5, 1, 1.5], tmp_path / device, options=options)
    finally:
        close_cards()
    files = [path.relative_to(tmp_path / "cpu") for path in tmp_path.glob("cpu/*/*.safetensors")]
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "cuda" / file).read_bytes() == (tmp_path / "cpu" / file).read_bytes()
