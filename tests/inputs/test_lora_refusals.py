"""Adapters that are no plain LoRA, are damaged, or belong to another base: refused, and how."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support.adapters import MODULE, PREFIX, write_adapter
from support.small_checkpoints import tensors, write

from tvmerge import Checkpoint, TaskVector
from tvmerge.cli import cli
from tvmerge.errors import ConfigError, FormatError, MismatchError, TVMergeError

FACTOR_A = np.ones((3, 8), np.float32)
FACTOR_B = np.ones((8, 3), np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "computed"


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return Checkpoint(write(tmp_path / "base", tensors(0)))


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, r"use_dora is True: such an adapter is not the plain sum"),
    "prompt": ({"peft_type": "PROMPT_TUNING"}, r"peft_type is 'PROMPT_TUNING', expected 'LORA'"),
    "experts": ({"target_parameters": ["up"]}, r"target_parameters is \['up'\]"),
    "tokens": ({"trainable_token_indices": [1]}, r"trainable_token_indices is \[1\]"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, r"training began by changing the base"),
    "rank": ({"r": 0}, r"the rank 'r' is 0, expected a whole number above 0"),
    "alpha": ({"lora_alpha": "8"}, r"the alpha 'lora_alpha' is '8', expected a finite number"),
    "no alpha": ({"lora_alpha": float("inf")}, r"expected a finite number"),
    "pattern": ({"rank_pattern": {"(": 3}}, r"rank_pattern: '\(' is no regular expression"),
    "endless": ({"alpha_pattern": {"(a+)+": 3}}, r"'\(a\+\)\+' could take for ever to match"),
    "patterns": ({"rank_pattern": [1]}, r"rank_pattern is \[1\], expected an object"),
    "other rank": ({"r": 5}, r"A has the shape \[3, 8\] .* says that the rank is 5"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_other_adapters_are_refused(kind: str, tmp_path: Path, cache: Path) -> None:
    config, said = CONFIGS[kind]
    with pytest.raises(FormatError, match=said):
        TaskVector(write_adapter(tmp_path / "adapter", **config))
    assert not cache.exists()


TENSORS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "no B": ({f"{PREFIX}.lora_A.weight": FACTOR_A}, r"has the factors A, expected A and B"),
    "prefix": (
        {"x.lora_A.weight": FACTOR_A},
        r"expected a name that begins with base_model\.model",
    ),
    "DoRA": (
        {f"{PREFIX}.lora_magnitude_vector.weight": FACTOR_A},
        r"lora_magnitude_vector\.weight' is no part of plain LoRA",
    ),
    "integers": ({f"{PREFIX}.lora_A.weight": FACTOR_A.astype(int)}, r"is I64, expected floating"),
    "nothing": ({}, r"the adapter is empty"),
    "turned": (
        {f"{PREFIX}.lora_A.weight": FACTOR_B, f"{PREFIX}.lora_B.weight": FACTOR_A},
        r"A has the shape \[8, 3\] and B \[3, 8\], expected \[3, inputs\]",
    ),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_are_no_factors_are_refused(kind: str, tmp_path: Path) -> None:
    held, said = TENSORS[kind]
    with pytest.raises(FormatError, match=said):
        TaskVector(write_adapter(tmp_path / "adapter", held))


def test_another_base_is_refused_before_anything_is_computed(
    tmp_path: Path, base: Checkpoint, cache: Path
) -> None:
    other = MODULE.replace("0", "7")
    held = {
        f"base_model.model.{other}.lora_A.weight": FACTOR_A,
        f"base_model.model.{other}.lora_B.weight": FACTOR_B,
        f"{PREFIX}.lora_A.weight": FACTOR_A,
        f"{PREFIX}.lora_B.weight": np.ones((9, 3), np.float32),
    }
    adapter = write_adapter(tmp_path / "adapter", held, base_model_name_or_path="org/base")
    with pytest.raises(MismatchError) as caught:
        TaskVector(adapter, base=base)
    for said in (
        f"{other}.weight: in {adapter}, missing in {tmp_path / 'base'}. Did you mean",
        f"{MODULE}.weight: {adapter} adds a matrix of shape [9, 8], {tmp_path / 'base'} has F32 of",
        "Use the base that it was trained on (adapter_config.json names 'org/base')",
    ):
        assert said in str(caught.value)
    assert not cache.exists()
    done = CliRunner().invoke(
        cli, ["apply", str(tmp_path / "base"), str(tmp_path / "out"), "--add", str(adapter)]
    )
    assert (done.exit_code, (tmp_path / "out").exists()) == (MismatchError.exit_code, False)


def test_vector_without_its_base_is_compared_when_it_is_added(
    tmp_path: Path, base: Checkpoint
) -> None:
    held = {f"{PREFIX}x.lora_A.weight": FACTOR_A, f"{PREFIX}x.lora_B.weight": FACTOR_B}
    vector = TaskVector(write_adapter(tmp_path / "adapter", held))
    with pytest.raises(MismatchError, match=f"{MODULE}x.weight: in .*adapter, missing in"):
        (base + vector).save(tmp_path / "out")


def test_whole_tensors_need_the_base(tmp_path: Path) -> None:
    held = {f"base_model.model.{MODULE}.weight": np.ones((8, 8), np.float32)}
    with pytest.raises(ConfigError, match=r"saved 1 tensors whole .* TaskVector\(path, base="):
        TaskVector(write_adapter(tmp_path / "adapter", held))


def test_base_that_is_no_checkpoint_on_disk_is_refused(tmp_path: Path, base: Checkpoint) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="expected a checkpoint on disk"):
        TaskVector(adapter, base=base + TaskVector(adapter))


def test_head_trained_beside_a_tied_embedding_is_refused(tmp_path: Path, base: Checkpoint) -> None:
    held = {"base_model.model.lm_head.weight": np.ones((32, 8), np.float32)}
    with pytest.raises(MismatchError, match=r"lm_head\.weight: in .*adapter, missing in"):
        TaskVector(write_adapter(tmp_path / "adapter", held), base=base)


def as_checkpoint(adapter: Path) -> None:
    Checkpoint(adapter)


def without_weights(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.h5")
    TaskVector(adapter)


def no_object(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("[]")
    TaskVector(adapter)


def no_json(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{")
    TaskVector(adapter)


def cut_off(adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    TaskVector(adapter)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (as_checkpoint, r"is an adapter, expected a checkpoint or task vector"),
        (without_weights, r"an adapter without adapter_model\.safetensors"),
        (no_object, r"is a JSON list, expected an object"),
        (no_json, r"adapter_config\.json: the file is not JSON"),
        (cut_off, r"not a valid safetensors file"),
    ],
)
def test_damage_is_named(use: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    with pytest.raises(TVMergeError, match=said):
        use(write_adapter(tmp_path / "adapter"))


def test_recipe_names_an_adapter_behind_its_base(tmp_path: Path, base: Checkpoint) -> None:
    adapter, recipe = write_adapter(tmp_path / "adapter"), tmp_path / "recipe.json"
    for model, said in (
        (str(adapter), "is an adapter, expected a checkpoint"),
        (
            f"{base.donor.source}+{tmp_path / 'base'}",
            "expected an adapter or a stored task vector behind the +",
        ),
    ):
        recipe.write_text(json.dumps({"merge_method": "passthrough", "models": [{"model": model}]}))
        done = CliRunner().invoke(cli, ["merge", str(recipe), str(tmp_path / "out")])
        assert done.exit_code
        assert said in done.output
        assert not (tmp_path / "out").exists()
