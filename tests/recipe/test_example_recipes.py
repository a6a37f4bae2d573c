"""The recipes of examples/recipes run, with small models in place of their folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from oracles.blends import slerp
from support.checkpoints import DTYPES, read_model, write_model

from tvmerge.cli import cli
from tvmerge.files.dtype import TORCH_NAMES
from tvmerge.recipe import load_recipe

EXAMPLES = Path(__file__).parents[2] / "examples" / "recipes"
LAYERS = 4
PARTS = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight")
Arrays = dict[str, np.ndarray]


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Arrays]:
    """The models that the examples name, in the current folder, and what they hold."""
    monkeypatch.chdir(tmp_path)
    names = [f"model.layers.{n}.{part}" for n in range(LAYERS) for part in PARTS]
    models: dict[str, Arrays] = {}
    for seed, model in enumerate(("base", "writer", "coder", "mathematician")):
        generator = np.random.default_rng(seed)
        models[model] = {
            name: generator.standard_normal((24, 24)).astype(np.float32)
            for name in ("model.embed_tokens.weight", *names, "lm_head.weight")
        }
        config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": LAYERS}
        write_model(Path("models") / model, models[model], config=config)
    return models


def merged(name: str) -> Arrays:
    text = (EXAMPLES / f"{name}.yaml").read_text()
    Path("recipe.yaml").write_text(text.replace("[0, 32]", f"[0, {LAYERS}]"))
    done = CliRunner().invoke(cli, ["merge", "recipe.yaml", "out"])
    assert done.exit_code == 0, done.output
    return read_model(Path("out"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_gives_a_whole_model_of_its_dtype(
    held: dict[str, Arrays], path: Path
) -> None:
    out = merged(path.stem)
    dtype = load_recipe(Path("recipe.yaml")).output_dtype
    assert dtype in TORCH_NAMES
    assert out.keys() == held["base"].keys()
    for name, tensor in out.items():
        assert tensor.dtype == DTYPES[dtype]
        assert np.isfinite(tensor.astype(np.float32)).all()
        assert not np.allclose(tensor.astype(np.float32), held["base"][name], atol=0.02)


def test_slerp_goes_opposite_ways_in_attention_and_mlp(held: dict[str, Arrays]) -> None:
    out = merged("slerp")
    expected = {"self_attn.q_proj": (0.0, 1.0), "mlp.up_proj": (1.0, 0.0)}
    for part, ends in expected.items():
        for layer, t in zip((0, LAYERS - 1), ends, strict=True):
            name = f"model.layers.{layer}.{part}.weight"
            a, b = (held[m][name].astype(np.float64).reshape(-1) for m in ("writer", "coder"))
            wanted = slerp(a, b, t).reshape(24, 24)
            assert np.allclose(out[name].astype(np.float64), wanted, rtol=0.01, atol=0.01)


def test_ties_takes_the_mathematician_in_the_mlps_alone(held: dict[str, Arrays]) -> None:
    before = merged("ties")
    Path("out").rename("before")
    content = {name: -tensor for name, tensor in held["mathematician"].items()}
    write_model(Path("models/mathematician"), content)
    after = merged("ties")
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == [name for name in before if "mlp" in name]


def test_dare_ties_gives_the_same_bytes_again(held: dict[str, Arrays]) -> None:
    merged("dare_ties")
    Path("out").rename("before")
    merged("dare_ties")
    files = [Path(folder, "model.safetensors").read_bytes() for folder in ("before", "out")]
    assert files[0] == files[1]
