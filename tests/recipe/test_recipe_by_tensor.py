"""Recipes whose tensors differ: filters, gradients, slices, modules, stages, tied heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.checkpoints import read_model, tensor_bytes, write_model

from tvmerge.cli import cli
from tvmerge.errors import ConfigError, MismatchError
from tvmerge.recipe import build, load_recipe

Tensors = dict[str, np.ndarray]
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 4,
    "layer_types": ["full", "sliding", "full", "other"],
    "tie_word_embeddings": False,
}


def layer(number: int, part: str = "mlp") -> str:
    return f"model.layers.{number}.{part}.weight"


def tensors(seed: int, *, layers: int = 4, head: bool = True, rows: int = 6) -> Tensors:
    generator = np.random.default_rng(seed)
    shapes = {EMBEDDING: (rows, 4), **({HEAD: (rows, 4)} if head else {})}
    for number in range(layers):
        shapes |= {layer(number): (4, 4), layer(number, "attn"): (4, 4)}
    shapes[NORM] = (4,)
    return {n: generator.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensors]:
    """Folders base, a and b in the current folder, in two shards each, and what they hold."""
    monkeypatch.chdir(tmp_path)
    held = {name: tensors(seed) for seed, name in enumerate(("base", "a", "b"))}
    for name, content in held.items():
        write_model(Path(name), content, shards=2, config=CONFIG)
    return held


def merged(text: str, out: str = "out") -> Tensors:
    Path("recipe.yaml").write_text(text)
    recipe = load_recipe(Path("recipe.yaml"))
    build(recipe).save(out, dtype=recipe.output_dtype)
    return read_model(Path(out))


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def refused(text: str, kind: type[Exception] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        merged(text)
    return str(caught.value)


def same(found: np.ndarray, *terms: tuple[float, np.ndarray]) -> bool:
    expected = sum(factor * array.astype(np.float64) for factor, array in terms)
    return np.allclose(found, expected, rtol=1e-6, atol=1e-6)


TASK = "merge_method: task_arithmetic\nbase_model: base\n"
PASS = "merge_method: passthrough\n"


def test_a_gradient_is_interpolated_over_the_layers_and_begins_outside(
    models: dict[str, Tensors],
) -> None:
    out = merged(f"{TASK}models:\n  - {{model: a, parameters: {{weight: [0, 1, 0.5]}}}}\n")
    base, a = models["base"], models["a"]
    for name, weight in [
        (EMBEDDING, 0), (NORM, 0), (HEAD, 0), (layer(0), 0), (layer(1), 2 / 3), (layer(2), 5 / 6),
        (layer(3), 0.5),
    ]:  # fmt: skip
        assert same(out[name], (1 - weight, base[name]), (weight, a[name])), name


def test_of_several_filters_the_first_that_matches_counts(models: dict[str, Tensors]) -> None:
    out = merged(
        f"{TASK}models:\n  - model: a\n    parameters:\n      weight:\n"
        "        - {filter: attn, value: 1}\n        - {filter: layers.2, value: 0.25}\n"
        "        - {filter: '*', value: 0.5}\n        - {value: 9}\n"
    )
    for name, weight in [(layer(2, "attn"), 1), (layer(2), 0.25), (layer(1), 0.5), (NORM, 0.5)]:
        assert same(out[name], (1 - weight, models["base"][name]), (weight, models["a"][name]))


def test_a_model_comes_before_slice_before_module_before_merge(models: dict[str, Tensors]) -> None:
    out = merged(
        "merge_method: linear\nparameters: {weight: 1, normalize: false}\nmodules:\n  model:\n"
        "    parameters: {weight: 2}\n    slices:\n"
        "      - sources:\n          - {model: a, layer_range: [0, 1], parameters: {weight: 4}}\n"
        "          - {model: b, layer_range: [0, 1]}\n        parameters: {weight: 3}\n"
        "      - sources: [{model: a, layer_range: [1, 4]}]\n"
        "  lm_head:\n    models: [{model: a}]\n"
    )
    assert same(out[layer(0)], (4, models["a"][layer(0)]), (3, models["b"][layer(0)]))
    assert same(out[layer(1)], (2, models["a"][layer(1)]))
    assert same(out[HEAD], (1, models["a"][HEAD]))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp"])
def test_layers_of_the_base_alone_stay_as_they_are(models: dict[str, Tensors], method: str) -> None:
    given = {"ties": "weight: 1, density: 0.5", "slerp": "t: 0.5", "task_arithmetic": "weight: 1"}
    out = merged(
        f"merge_method: {method}\nbase_model: base\nparameters: {{{given[method]}}}\n"
        "slices:\n  - sources: [{model: base, layer_range: [0, 2]}]\n"
        "  - sources:\n      - {model: base, layer_range: [2, 4]}\n"
        "      - {model: a, layer_range: [2, 4]}\n"
    )
    for number in range(4):
        same_as_base = np.array_equal(out[layer(number)], models["base"][layer(number)])
        assert same_as_base == (number < 2)


def test_layers_of_the_base_alone_are_not_merged(models: dict[str, Tensors]) -> None:
    slices = "slices:\n  - sources: [{model: base, layer_range: [0, 2]}]\n"
    last = "      - {model: a, layer_range: [2, 4], parameters: {weight: 1}}\n"
    with pytest.raises(ConfigError, match=r"the filter 'layers.1.' matches no tensor"):
        merged(
            f"{TASK}parameters:\n  lambda: [{{filter: layers.1., value: 3}}, {{value: 1}}]\n"
            f"{slices}  - sources:\n      - {{model: base, layer_range: [2, 4]}}\n{last}"
        )
    # Two ranges of the base are neither one as it is, nor a model that was tuned from it.
    twice = slices.replace("]}]", "]}, {model: base, layer_range: [2, 4]}]")
    with pytest.raises(ConfigError, match="only the base base is listed, more than once"):
        merged(f"{TASK}{twice}  - sources:\n{last}")
    # A base of its own has something tuned from it: what is the base elsewhere.
    own = "slices:\n  - base_model: a\n    sources: [{model: base, parameters: {weight: 0.25}}]\n"
    out = merged(TASK + own)
    assert same(out[layer(1)], (0.75, models["a"][layer(1)]), (0.25, models["base"][layer(1)]))


def test_layers_are_stacked_in_the_order_of_the_slices(models: dict[str, Tensors]) -> None:
    out = merged(
        f"{PASS}slices:\n  - sources: [{{model: a, layer_range: [0, 3]}}]\n"
        "  - sources: [{model: b, layer_range: [1, 4]}]\n"
    )
    a, b = models["a"], models["b"]
    for number, (held, own) in enumerate([(a, 0), (a, 1), (a, 2), (b, 1), (b, 2), (b, 3)]):
        assert np.array_equal(out[layer(number)], held[layer(own)])
    assert np.array_equal(out[EMBEDDING], a[EMBEDDING])
    assert np.array_equal(out[NORM], b[NORM])
    assert np.array_equal(out[HEAD], b[HEAD])
    assert len(out) == 3 + 2 * 6
    config = json.loads(Path("out/config.json").read_text())
    assert config["num_hidden_layers"] == 6
    assert config["layer_types"] == ["full", "sliding", "full", "sliding", "full", "other"]


def test_a_new_layout_keeps_to_the_largest_shard_of_the_donor(models: dict[str, Tensors]) -> None:
    merged(f"{PASS}slices:\n  - sources: [{{model: a, layer_range: [0, 4]}}]\n" * 1
           + "  - sources: [{model: a, layer_range: [0, 4]}]\n")  # fmt: skip
    largest = max(len(tensor_bytes(file)) for file in Path("a").glob("*.safetensors"))
    sizes = [len(tensor_bytes(file)) for file in Path("out").glob("*.safetensors")]
    assert len(sizes) >= 3
    assert max(sizes) <= largest


def test_a_scale_counts_for_the_slice_and_the_tensors_that_it_names(
    models: dict[str, Tensors],
) -> None:
    out = merged(
        f"{PASS}slices:\n  - sources: [{{model: a, layer_range: [0, 2]}}]\n  - sources:\n"
        "      - model: a\n        layer_range: [1, 2]\n        parameters:\n          scale:\n"
        "            - {filter: attn, value: 0}\n            - {filter: mlp, value: -2}\n"
        "            - value: 1\n  - sources: [{model: a, layer_range: [2, 4]}]\n"
    )
    assert not out[layer(2, "attn")].any()
    assert same(out[layer(2)], (-2, models["a"][layer(1)]))
    assert np.array_equal(out[layer(1)], models["a"][layer(1)])


def test_stages_are_folded_and_rounded_once(models: dict[str, Tensors]) -> None:
    out = merged(
        f"name: first\n{TASK}models:\n  - {{model: a, parameters: {{weight: [1, 0]}}}}\n"
        "dtype: float8_e4m3fn\n---\nmerge_method: linear\nparameters: {weight: 1}\n"
        "models:\n  - model: first\n  - model: b\n"
    )
    base, a, b = models["base"], models["a"], models["b"]
    assert same(out[layer(3)], (0.5, base[layer(3)]), (0.5, b[layer(3)]))
    assert same(out[layer(0)], (0.5, a[layer(0)]), (0.5, b[layer(0)]))


def test_a_stage_may_stack_what_an_earlier_one_stacked(models: dict[str, Tensors]) -> None:
    out = merged(
        f"name: tall\n{PASS}slices:\n  - sources: [{{model: a, layer_range: [0, 4]}}]\n"
        f"  - sources: [{{model: b, layer_range: [0, 4]}}]\n---\n{PASS}slices:\n"
        "  - sources: [{model: tall, layer_range: [3, 6]}]\n"
    )
    assert np.array_equal(out[layer(0)], models["a"][layer(3)])
    assert np.array_equal(out[layer(2)], models["b"][layer(1)])
    config = json.loads(Path("out/config.json").read_text())
    assert config["num_hidden_layers"] == 3
    assert config["layer_types"] == ["other", "full", "sliding"]


def test_what_a_stage_stacked_stays_in_the_config(models: dict[str, Tensors]) -> None:
    merged(
        f"name: tall\n{PASS}slices:\n  - sources: [{{model: a, layer_range: [0, 4]}}]\n"
        f"  - sources: [{{model: b, layer_range: [2, 4]}}]\n---\nmerge_method: linear\n"
        "models: [{model: tall, parameters: {weight: 1}}]\n"
    )
    config = json.loads(Path("out/config.json").read_text())
    assert config["num_hidden_layers"] == 6
    assert config["layer_types"] == ["full", "sliding", "full", "other", "full", "other"]


def test_a_tied_model_gives_its_embedding_for_the_head(models: dict[str, Tensors]) -> None:
    held = tensors(7, head=False)
    write_model(Path("tied"), held, config=CONFIG | {"tie_word_embeddings": True})
    out = merged(
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: tied}, {model: a}]\n"
    )
    assert same(out[HEAD], (0.5, held[EMBEDDING]), (0.5, models["a"][HEAD]))
    assert json.loads(Path("out/config.json").read_text())["tie_word_embeddings"] is False


def test_two_tied_models_have_no_head(models: dict[str, Tensors]) -> None:
    for seed, name in enumerate(("one", "two")):
        config = CONFIG | {"tie_word_embeddings": True}
        write_model(Path(name), tensors(seed, head=False), config=config)
    out = merged("merge_method: linear\nmodels:\n  - {model: one, parameters: {weight: [0, 1]}}\n"
                 "  - {model: two, parameters: {weight: 1}}\n")  # fmt: skip
    assert HEAD not in out
    assert json.loads(Path("out/config.json").read_text())["tie_word_embeddings"] is True


FAULTS = {
    "idle filter": (
        f"{TASK}models:\n  - model: a\n    parameters:\n      weight:\n"
        "        - {filter: atn, value: 1}\n        - value: 0.5\n",
        "recipe.yaml:7: models.0.parameters.weight.0.filter: the filter 'atn' matches no tensor. "
        "Did you mean 'attn'?",
    ),
    "no value for a tensor": (
        f"{TASK}models:\n  - model: a\n"
        "    parameters:\n      weight: [{filter: mlp, value: 1}]\n",
        "recipe.yaml:4: models.0: a has no weight for model.embed_tokens.weight",
    ),
    "layers that are not there": (
        f"{PASS}slices:\n  - sources:\n      - model: a\n        layer_range: [2, 5]\n",
        "recipe.yaml:5: slices.0.sources.0.layer_range: a has 4 layers",
    ),
    "unknown module": (
        f"{PASS}modules:\n  modl: {{models: [{{model: a}}]}}\n",
        "recipe.yaml:3: modules.modl: no tensor of a begins with modl. Did you mean 'model'?",
    ),
    "a module left out": (
        f"{PASS}modules:\n  model: {{models: [{{model: a}}]}}\n",
        "recipe.yaml:2: modules: no module has lm_head.weight",
    ),
    "weights that cancel in one layer": (
        "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: [1, -1]}}\n"
        "  - {model: b, parameters: {weight: 1}}\n",
        "model.layers.3.mlp.weight: the weights sum to 0",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_recipe_says_of_tensors_must_be_true(name: str, models: dict[str, Tensors]) -> None:
    text, message = FAULTS[name]
    assert message in refused(text)
    assert not Path("out").exists()


def test_another_vocabulary_is_refused_with_ways_out(models: dict[str, Tensors]) -> None:
    write_model(Path("wide"), tensors(5, rows=8), config=CONFIG)
    said = refused(
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: wide}]\n",
        MismatchError,
    )
    assert "model.embed_tokens.weight: shape [8, 4] in wide, expected [6, 4] as in a" in said
    assert "resize_token_embeddings" in said
    assert "{filter: embed_tokens, value: 0}" in said


def test_a_weight_of_0_leaves_a_tensor_of_another_shape_out(models: dict[str, Tensors]) -> None:
    wide = tensors(5, rows=8)
    write_model(Path("wide"), wide, config=CONFIG)
    out = merged(
        f"{TASK}models:\n  - model: wide\n    parameters:\n      weight:"
        " [{value: 0, filter: embed}, {value: 0, filter: lm_head}, {value: 0.5}]\n"
    )
    assert np.array_equal(out[EMBEDDING], models["base"][EMBEDDING])
    assert same(out[layer(1)], (0.5, models["base"][layer(1)]), (0.5, wide[layer(1)]))


def test_a_tensor_that_only_one_model_has_is_refused(models: dict[str, Tensors]) -> None:
    write_model(Path("odd"), tensors(5) | {"model.odd": np.ones(2, np.float32)}, config=CONFIG)
    text = (
        "merge_method: linear\nparameters: {weight: [1, 2]}\nmodels: [{model: a}, {model: odd}]\n"
    )
    assert "model.odd: in odd, missing in a" in refused(text, MismatchError)


RECIPE = (
    f"{TASK}models:\n  - {{model: a, parameters: {{weight: [0, 1]}}}}\n"
    "  - model: b\n    parameters:\n      weight: [{filter: attn, value: 0.5}, {value: -0.25}]\n"
)


def test_plan_shows_every_tensor_as_resolved(models: dict[str, Tensors]) -> None:
    Path("recipe.yaml").write_text(RECIPE)
    told = json.loads(run("plan", "recipe.yaml", "--tensors", "--no-probe", "--json").stdout)
    by_name = {one["name"]: one for one in told["tensors"]}
    assert by_name.keys() == models["base"].keys()
    one = by_name[layer(3, "attn")]
    assert one["method"] == "task_arithmetic"
    assert one["parameters"] == {"lambda": 1.0, "normalize": False}
    assert one["inputs"][one["base"]]["model"] == "base"
    assert [i["parameters"].get("weight") for i in one["inputs"]] == [None, 1.0, 0.5]
    assert "  a, weight 1" in run("plan", "recipe.yaml", "--tensors", "--no-probe").output


def test_the_receipt_of_such_a_merge_can_be_replayed(models: dict[str, Tensors]) -> None:
    Path("recipe.yaml").write_text(RECIPE)
    assert run("merge", "recipe.yaml", "out").exit_code == 0
    replayed = run("verify", "out", "--replay")
    assert replayed.exit_code == 0, replayed.output
    receipt = json.loads(Path("out/tvmerge_receipt.json").read_text())
    assert [one["coefficient"] for one in receipt["inputs"]] == [None, None, None]
    assert "by tensor * " in run("inspect", "out").output


def test_a_sweep_scales_every_tensor_from_its_base(models: dict[str, Tensors]) -> None:
    whole = merged(RECIPE)
    assert run("sweep", "recipe.yaml", "scaled", "--scale", "0.5,1").exit_code == 0
    half = read_model(Path("scaled/scale-0.5"))
    for name, base in models["base"].items():
        assert same(half[name], (0.5, base), (0.5, whole[name]))
    for file in Path("out").glob("*.safetensors"):
        assert (Path("scaled/scale-1") / file.name).read_bytes() == file.read_bytes()
    assert run("verify", "scaled/scale-0.5", "--replay").exit_code == 0


def test_uniform_gradients_and_filters_are_a_merge_of_whole_models(
    models: dict[str, Tensors],
) -> None:
    Path("recipe.yaml").write_text(
        f"{TASK}models:\n  - model: a\n    parameters:\n"
        "      weight: [{filter: mlp, value: [0.5, 0.5]}, {value: 0.5}]\n"
    )
    model = build(load_recipe(Path("recipe.yaml")))
    assert list(model.weighting.values()) == [0.5, 0.5]  # type: ignore[union-attr]
