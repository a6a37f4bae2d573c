"""Pipelines of diffusers: each model in them is merged, all else is copied."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.checkpoints import digests, read_file, read_model, same_bits, write_file

from tvmerge import Checkpoint, TaskVector
from tvmerge.checkpoints.stored import open_stored
from tvmerge.cli import cli
from tvmerge.errors import ConfigError, FormatError, MismatchError
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.verify import verify
from tvmerge.recipe import build, load_recipe
from tvmerge.replay import replay

Tensors = dict[str, np.ndarray]
STEM = "diffusion_pytorch_model"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
}
SHARDS = {
    "unet": [f"{STEM}-00001-of-00002", f"{STEM}-00002-of-00002"],
    "text_encoder": ["model"],
    "vae": [STEM],
}


def weights(seed: int) -> dict[str, Tensors]:
    """By model; all have a tensor of the same name."""
    generator = np.random.default_rng(seed)
    return {
        model: {
            name: generator.standard_normal((4, 5)).astype(np.float32)
            for name in ("down.weight", "up.weight")
        }
        | {"position_ids": np.arange(3)}
        for model in SHARDS
    }


def write_pipeline(folder: Path, content: dict[str, Tensors]) -> Path:
    for model, files in SHARDS.items():
        named, weight_map = content[model], {}
        for number, file in enumerate(files):
            held = {name: named[name] for name in list(named)[number :: len(files)]}
            write_file(folder / model / f"{file}.safetensors", held)
            weight_map |= dict.fromkeys(held, f"{file}.safetensors")
        if len(files) > 1:
            index = folder / model / f"{STEM}.safetensors.index.json"
            index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        (folder / model / "config.json").write_text('{"torch_dtype": "float32", "sample_size": 8}')
    # Beside the model's own: variants, and the whole pipeline in one file of another layout.
    write_file(folder / "unet" / f"{STEM}.fp16.safetensors", content["unet"])
    write_file(folder / "v1-5-pruned.safetensors", {"model.diffusion_model.x": np.ones(1)})
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"beta_end": 0.012}')
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "merges.txt").write_text("a b\n")
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2))
    return folder


def read_part(folder: Path, model: str) -> Tensors:
    return read_model(folder / model, "model" if SHARDS[model] == ["model"] else STEM)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "base", weights(0))


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "tuned", weights(1))


def combined(base: Path, tuned: Path) -> Checkpoint:
    return Checkpoint(base) + 0.5 * (Checkpoint(tuned) - Checkpoint(base))


def test_every_model_is_merged_as_it_is_alone(base: Path, tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    combined(base, tuned).save(out)
    for model in SHARDS:
        combined(base / model, tuned / model).save(tmp_path / model)
        alone, part = digests(tmp_path / model), digests(out / model)
        for name in ("README.md", "tvmerge_receipt.json"):
            del alone[name]
        assert part == alone
        assert read_part(out, model).keys() == weights(0)[model].keys()
    names = {path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()}
    left_out = {"v1-5-pruned.safetensors", f"unet/{STEM}.fp16.safetensors"}
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == names - left_out | {"README.md", "tvmerge_receipt.json"}
    for name in names - left_out:
        if not name.endswith((".safetensors", ".index.json")):
            assert (out / name).read_bytes() == (base / name).read_bytes()
    assert "library_name: diffusers" in (out / "README.md").read_text()


def test_receipt_names_every_file_and_replay_agrees(
    base: Path, tuned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    combined(base, tuned).save(out)
    receipt = read_receipt(out)
    files = [f"{model}/{file}.safetensors" for model in sorted(SHARDS) for file in SHARDS[model]]
    assert [file.name for file in receipt.inputs[0].files] == files
    assert verify(out, inputs=True).intact
    assert replay(receipt) == ()
    path = tuned / "vae" / f"{STEM}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (fault,) = replay(receipt)
    assert fault.file == f"input {path}"
    # The output is an input of the next merge.
    (combined(out, base)).save(tmp_path / "next")
    assert verify(tmp_path / "next", inputs=True).intact


def test_a_stored_vector_of_a_pipeline_is_added(base: Path, tuned: Path, tmp_path: Path) -> None:
    (Checkpoint(tuned) - Checkpoint(base)).save(tmp_path / "vector")
    assert "unet/up.weight" in open_stored(tmp_path / "vector").slots
    (Checkpoint(base) + TaskVector(tmp_path / "vector")).save(tmp_path / "out")
    for model, held in weights(1).items():
        for name, array in read_part(tmp_path / "out", model).items():
            np.testing.assert_allclose(array, held[name], atol=1e-6)


def test_another_dtype_is_told_to_every_config(base: Path, tuned: Path, tmp_path: Path) -> None:
    combined(base, tuned).save(tmp_path / "out", dtype="bfloat16")
    for model in SHARDS:
        found = read_part(tmp_path / "out", model)
        assert str(found["up.weight"].dtype) == "bfloat16"
        config = json.loads((tmp_path / "out" / model / "config.json").read_text())
        assert config == {"torch_dtype": "bfloat16", "sample_size": 8}


def test_pickled_models_may_stand_in_a_pipeline(base: Path, tuned: Path, tmp_path: Path) -> None:
    file = base / "vae" / f"{STEM}.safetensors"
    held = {name: torch.from_numpy(a.copy()) for name, a in read_file(file).items()}
    combined(base, tuned).save(tmp_path / "expected")
    file.unlink()
    torch.save(held, file.with_suffix(".bin"))
    combined(base, tuned).save(tmp_path / "out")
    expected, found = (read_part(tmp_path / name, "vae") for name in ("expected", "out"))
    assert all(same_bits(found[name], expected[name]) for name in expected)
    assert not list((tmp_path / "out").rglob("*.bin"))


def test_recipes_and_commands_take_pipelines(base: Path, tuned: Path, tmp_path: Path) -> None:
    weight = [{"filter": "unet", "value": 1}, {"value": 0}]
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [{"model": str(tuned), "parameters": {"weight": weight}}],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    for command in (
        ("plan", tmp_path / "recipe.yaml", tmp_path / "out"),
        ("merge", tmp_path / "recipe.yaml", tmp_path / "out"),
        ("verify", tmp_path / "out", "--replay"),
        ("inspect", tmp_path / "out"),
        ("diff", base, tmp_path / "out"),
    ):
        done = CliRunner().invoke(cli, list(map(str, command)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
    found = read_part(tmp_path / "out", "vae")["up.weight"]
    assert same_bits(found, weights(0)["vae"]["up.weight"])
    found = read_part(tmp_path / "out", "unet")["up.weight"]
    np.testing.assert_allclose(found, weights(1)["unet"]["up.weight"], atol=1e-6)


def test_what_does_not_fit_is_named_with_its_model(base: Path, tuned: Path, tmp_path: Path) -> None:
    (tuned / "vae" / f"{STEM}.safetensors").unlink()
    with pytest.raises(MismatchError, match=r"vae/down\.weight: in .*base, missing in .*tuned"):
        combined(base, tuned).save(tmp_path / "out")
    (tuned / "vae" / "model.onnx").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"vae: expected .*, found config\.json, model\.onnx"):
        Checkpoint(tuned)
    (base / "text_encoder" / "config.json").write_text('{"quantization_config": {"bits": 4}}')
    with pytest.raises(MismatchError, match=r"text_encoder/config\.json: the model is quantised"):
        combined(base, base).save(tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[", "the index is not JSON"),
        ("[]", "expected an object that names folders"),
        ("{}", "names no folder with weights"),
        ('{"../base/unet": ["diffusers", "X"], "/": ["x", "y"]}', "names no folder with weights"),
        ('{"unet": ["a", "b"], "unet": ["a", "b"]}', "holds the name 'unet' twice"),
    ],
)
def test_an_index_that_says_nothing_is_refused(content: str, what: str, base: Path) -> None:
    (base / "model_index.json").write_text(content)
    with pytest.raises(FormatError, match=what):
        Checkpoint(base)


def test_layers_of_one_model_in_a_pipeline_are_not_stacked(tmp_path: Path) -> None:
    layers = {f"layers.{n}.weight": np.full((2, 2), n, np.float32) for n in range(3)}
    base = write_pipeline(tmp_path / "base", weights(0) | {"text_encoder": layers})
    source = {"model": str(base), "layer_range": [0, 2]}
    recipe = {"merge_method": "passthrough", "slices": [{"sources": [source]}]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    with pytest.raises(ConfigError, match=r"Merge its models one by one: .*text_encoder, \.\.\."):
        build(load_recipe(tmp_path / "recipe.yaml")).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
