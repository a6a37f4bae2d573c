"""Merges of bfloat16 alone have loops of their own (kernels_fused.hpp): bits and edits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.arithmetic import linear, magnitude, random_array, within
from support.checkpoints import read_model, write_model

from tvmerge import Checkpoint, _core
from tvmerge.engine.run_options import RunOptions
from tvmerge.merging.merge import save_checkpoint
from tvmerge.receipts.parsing import read_receipt

# Around a row of 32 elements and a tile of 1024, and a few tiles with an end.
SIZES = (1, 31, 32, 33, 1023, 1024, 1056, 5003)


def models(folder: Path, count: int, *, wild: bool) -> list[Checkpoint]:
    generator = np.random.default_rng(count)
    return [
        Checkpoint(
            write_model(
                folder / str(number),
                {f"w{n}": random_array(generator, "BF16", (n,), wild=wild) for n in SIZES},
            )
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("wild", [False, True], ids=["usual", "wild"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17])
def test_bits_and_edits_are_right_and_the_same_for_every_instruction_set(
    tmp_path: Path, count: int, wild: bool
) -> None:
    inputs = models(tmp_path, count, wild=wild)
    coefficients = [0.7, *(0.31 - 0.1 * k for k in range(count - 1))]
    merged = Checkpoint.average(inputs, coefficients, normalize=False)
    seen = set()
    for isa in _core.available_isas():
        out = tmp_path / f"out-{isa}"
        save_checkpoint(
            merged.coefficients, merged.donor, out, dtype=None, options=RunOptions(isa=isa)
        )
        edits = tuple(repr(tensor.edit) for tensor in read_receipt(out).tensors)
        seen.add((edits, (out / "model.safetensors").read_bytes()))
    assert len(seen) == 1
    held = [read_model(Path(model.donor.source)) for model in inputs]
    for name, result in read_model(out).items():
        arrays = [one[name] for one in held]
        error = (count + 1) * 2.0**-23 * magnitude(arrays, coefficients)
        assert within(result, linear(arrays, coefficients), error, "BF16").all(), name
