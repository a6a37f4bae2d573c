"""What is not loaded into a model: refused before a tensor is touched, or said to be a mixture."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from in_memory.torch_models import COUNT, EMBED, HEAD, Small, bits, weights
from safetensors.torch import load_file, save_file
from support.checkpoints import write_model

from tvmerge import Checkpoint
from tvmerge.errors import (
    ConfigError,
    FormatError,
    MismatchError,
    NothingChangedError,
    StorageError,
)


def faulty(model: torch.nn.Module, expression: Checkpoint, error: str) -> None:
    """The expression is refused with MismatchError, and no tensor has been touched."""
    before = bits(model.state_dict())
    with pytest.raises(MismatchError, match=error):
        expression.load_into(model)
    assert bits(model.state_dict()) == before


def test_names_that_do_not_match_are_refused_with_a_suggestion_before_anything_is_written(
    tmp_path: Path,
) -> None:
    held = weights(0)
    held["haed.weight"] = held.pop(HEAD)
    renamed = Checkpoint(write_model(tmp_path / "renamed", held))
    faulty(
        Small(),
        renamed,
        r"(?s)head.weight: in the model, missing in the checkpoint. Did you mean 'haed.weight'"
        r".*haed.weight: in the checkpoint, missing in the model. Did you mean 'head.weight'",
    )


def test_shapes_and_integer_dtypes_that_do_not_match_are_refused(tmp_path: Path) -> None:
    wide = {EMBED: np.zeros((16, 7), np.float32), COUNT: np.zeros(3, np.int32)}
    wrong = Checkpoint(write_model(tmp_path / "wrong", weights(0, **wide)))
    faulty(
        Small(),
        wrong,
        r"(?s)steps: I64 in the model, expected I32.*"
        r"embed.weight: shape \[16, 6\] in the model, expected \[16, 7\]",
    )


def test_a_model_without_memory_is_refused(base: Checkpoint) -> None:
    with torch.device("meta"):
        model = Small()
    with pytest.raises(MismatchError, match=r"embed.weight: is a tensor without memory \(meta\)"):
        base.load_into(model)
    with pytest.raises(ConfigError, match=r"dict: expected a torch.nn.Module"):
        base.load_into({})  # type: ignore[arg-type]


def test_what_a_model_computes_itself_may_lie_in_an_old_checkpoint(tmp_path: Path) -> None:
    angles = {"angles": np.zeros(4, np.float32), "layers.0.inv_freq": np.zeros(2, np.float32)}
    old = Checkpoint(write_model(tmp_path / "old", weights(0, **angles)))
    model = Small()
    faulty(model, old, "layers.0.inv_freq: in the checkpoint, missing in the model")
    model._keys_to_ignore_on_load_unexpected = [r"inv_freq"]  # as a transformers class has it
    old.load_into(model)
    assert model.angles.tolist() == [1, 1, 1, 1]
    assert model.steps.tolist() == [7, 8, 9]


def test_an_edit_that_rounding_takes_away_is_an_error(base: Checkpoint, tuned: Checkpoint) -> None:
    model = Small()
    loaded = (base + (tuned - base)).load_into(model)
    with pytest.raises(NothingChangedError, match=r"now holds .*base again, bit for bit"):
        loaded.rescale(1e-12)
    assert model.embed.weight.detach().numpy().tobytes() == weights(0)[EMBED].tobytes()
    loaded.rescale(0)  # that was asked for


def test_an_edit_of_which_rounding_leaves_next_to_nothing_is_an_error(
    base: Checkpoint, tmp_path: Path
) -> None:
    # A thousandth of a bfloat16 step on every element but one.
    rough = {n: t.bfloat16().float().numpy() for n, t in base.state_dict().items() if n != COUNT}
    start = Checkpoint(write_model(tmp_path / "rough", weights(0, **rough)))
    near = {n: a * np.float32(1 + 2**-18) for n, a in rough.items()}
    near[EMBED][0, 0] *= 2
    other = Checkpoint(write_model(tmp_path / "near", weights(0, **near)))
    with pytest.raises(NothingChangedError, match="191 of 192 elements of the edit lost to round"):
        (start + (other - start)).load_into(Small().bfloat16())
    assert (start + (other - start)).load_into(Small()).edit.lost == 0


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(
    base: Checkpoint, tuned: Checkpoint, scale: float
) -> None:
    loaded = (base + (tuned - base)).load_into(Small())
    before = bits(loaded.model.state_dict())
    with pytest.raises(ConfigError, match=f"scale {scale}: expected a finite number"):
        loaded.rescale(scale)
    assert bits(loaded.model.state_dict()) == before


def test_an_input_that_was_replaced_is_refused_and_the_model_stays(
    base: Checkpoint, tuned: Checkpoint, tmp_path: Path
) -> None:
    loaded = (base + (tuned - base)).load_into(Small())
    before = bits(loaded.model.state_dict())
    one, two = sorted((tmp_path / "tuned").glob("*.safetensors"))
    held = load_file(one)
    held = {name: tensor.double() for name, tensor in held.items()}
    save_file(held, one)
    with pytest.raises(FormatError, match="tuned: is not the checkpoint that was opened"):
        loaded.rescale(0.5)
    two.unlink()
    with pytest.raises(FormatError, match="tuned"):
        loaded.rescale(0.5)
    assert bits(loaded.model.state_dict()) == before
    assert loaded.scale == 1


class Unlucky(Small):
    """Its input loses its end between the checks and the reading."""

    file: Path | None = None

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        if self.file is not None:
            os.truncate(self.file, self.file.stat().st_size - 8)
        return super().state_dict(*args, **kwargs)


def test_a_failure_midway_says_that_the_model_holds_a_mixture(
    base: Checkpoint, tuned: Checkpoint, tmp_path: Path
) -> None:
    model = Unlucky()
    loaded = (base + (tuned - base)).load_into(model)
    model.file = sorted((tmp_path / "tuned").glob("*.safetensors"))[0]
    with pytest.raises(StorageError, match=r"mixture of old and new weights: load it again"):
        loaded.rescale(0.5)
    assert loaded.scale is None
