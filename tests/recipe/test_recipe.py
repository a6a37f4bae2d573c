"""Recipes: mergekit's YAML with mergekit's meaning, and an error for all the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.small_checkpoints import EMBEDDING, POSITIONS, Tensors, read, tensors, write

from tvmerge.errors import ConfigError
from tvmerge.methods import METHODS
from tvmerge.recipe import Recipe, assemble, build, load_recipe, parse_recipe
from tvmerge.recipe.schema import to_text


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensors]:
    """Folders base, a and b in the current folder, and what they hold."""
    monkeypatch.chdir(tmp_path)
    held = {name: tensors(seed) for seed, name in enumerate(("base", "a", "b"))}
    for name, content in held.items():
        write(tmp_path / name, content)
    return held


def recipe_of(text: str) -> Recipe:
    path = Path("recipe.yaml")
    path.write_text(text)
    return load_recipe(path)


def merged(text: str) -> Tensors:
    recipe = recipe_of(text)
    build(recipe).save("out", dtype=recipe.output_dtype)
    return read(Path("out"))


def yaml_of(method: str, weights: Mapping[str, float], more: Sequence[str] = ()) -> str:
    lines = [f"merge_method: {method}", "models:"]
    for name, weight in weights.items():
        lines += [f"  - model: {name}", f"    parameters: {{weight: {weight}}}"]
    return "\n".join([*lines, *more]) + "\n"


def combination(held: dict[str, Tensors], factors: Mapping[str, float]) -> np.ndarray:
    total = sum(
        factor * held[name][EMBEDDING].astype(np.float64) for name, factor in factors.items()
    )
    return np.asarray(total).astype(np.float32)


def test_linear_normalises_its_weights(models: dict[str, Tensors]) -> None:
    out = merged(yaml_of("linear", {"a": 1.0, "b": 3.0}))
    assert np.allclose(out[EMBEDDING], combination(models, {"a": 0.25, "b": 0.75}), atol=1e-6)
    assert np.array_equal(out[POSITIONS], models["a"][POSITIONS])


def test_linear_without_normalisation_takes_weights_as_they_are(models: dict[str, Tensors]) -> None:
    out = merged(yaml_of("linear", {"a": 1.0, "b": 3.0}, ["parameters: {normalize: false}"]))
    assert np.allclose(out[EMBEDDING], combination(models, {"a": 1.0, "b": 3.0}), atol=1e-5)


def test_linear_takes_files_from_an_unlisted_base(models: dict[str, Tensors]) -> None:
    Path("base/tokenizer.json").write_text('{"of": "base"}')
    out = merged(yaml_of("linear", {"a": 1.0, "b": 1.0}, ["base_model: base"]))
    assert np.allclose(out[EMBEDDING], combination(models, {"a": 0.5, "b": 0.5}), atol=1e-6)
    assert Path("out/tokenizer.json").read_text() == '{"of": "base"}'


@pytest.mark.parametrize(
    ("weights", "parameters", "factors"),
    [
        ({"a": 0.5}, "{}", {"base": 0.5, "a": 0.5}),
        ({"a": -0.5, "b": -0.25}, "{}", {"base": 1.75, "a": -0.5, "b": -0.25}),
        ({"a": 1, "b": 3}, "{normalize: true}", {"a": 0.25, "b": 0.75}),
        ({"a": 1, "b": 3}, "{normalize: 1.0, int8_mask: 0}", {"a": 0.25, "b": 0.75}),
        ({"a": -1}, "{normalize: true}", {"a": 1.0}),  # the sign cancels, as in mergekit
        ({"a": 1, "b": -1}, "{normalize: true}", {"base": 1.0, "a": 1.0, "b": -1.0}),
        ({"a": 0.5}, "{lambda: 0.5}", {"base": 0.75, "a": 0.25}),
        ({"base": 9, "a": 0.5}, "{int8_mask: true}", {"base": 0.5, "a": 0.5}),
        ({"base": 9, "a": 2}, "{normalize: true}", {"a": 1.0}),
    ],
)
def test_task_arithmetic_means_what_mergekit_means(
    models: dict[str, Tensors],
    weights: dict[str, float],
    parameters: str,
    factors: dict[str, float],
) -> None:
    more = ["base_model: base", f"parameters: {parameters}"]
    out = merged(yaml_of("task_arithmetic", weights, more))
    assert np.allclose(out[EMBEDDING], combination(models, factors), atol=1e-5)


def test_weight_of_the_whole_merge_is_the_default(models: dict[str, Tensors]) -> None:
    out = merged(
        "merge_method: task_arithmetic\nbase_model: base\nparameters: {weight: 0.25}\n"
        "models:\n  - model: base\n  - model: a\n  - {model: b, parameters: {weight: 1e-1}}\n"
    )
    expected = combination(models, {"base": 0.65, "a": 0.25, "b": 0.1})
    assert np.allclose(out[EMBEDDING], expected, atol=1e-6)


def test_a_base_in_the_list_needs_no_weight(models: dict[str, Tensors]) -> None:
    text = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n  - model: base\n"
    out = merged(text + "  - {model: a, parameters: {weight: 1}}\n")
    assert np.allclose(out[EMBEDDING], models["a"][EMBEDDING], atol=1e-6)


def test_one_value_with_a_filter_needs_no_list(models: dict[str, Tensors]) -> None:
    weight = "{filter: embed_tokens, value: 0.25}"
    out = merged(
        "merge_method: task_arithmetic\nbase_model: base\nparameters: {weight: 0}\nmodels:\n"
        f"  - {{model: a, parameters: {{weight: {weight}}}}}\n"
    )
    expected = combination(models, {"base": 0.75, "a": 0.25})
    assert np.allclose(out[EMBEDDING], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ([], None),
        (["dtype: bfloat16"], "BF16"),
        (["dtype: float32", "out_dtype: float16"], "F16"),
        (["out_dtype: torch.float64", "tokenizer_source: base"], "F64"),
    ],
)
def test_output_dtype_is_out_dtype_then_dtype(
    models: dict[str, Tensors], keys: list[str], code: str | None
) -> None:
    assert recipe_of(yaml_of("linear", {"a": 1}, keys)).output_dtype == code


BASED = "merge_method: task_arithmetic\nbase_model: base\n"
ONE = "models:\n  - {model: a, parameters: {weight: 1}}\n"
FAULTS = {
    "unknown key": (
        BASED + ONE + "dtpye: bfloat16\n",
        5,
        "dtpye: unknown key. Did you mean 'dtype'?",
    ),
    "unknown parameter": (
        BASED + ONE + "parameters:\n  lamda: 1\n",
        6,
        "parameters.lamda: unknown parameter. Did you mean 'lambda'?",
    ),
    "unknown model parameter": (
        BASED + "models:\n  - model: a\n    parameters:\n      wieght: 1\n",
        6,
        "models.0.parameters.wieght: unknown parameter. Did you mean 'weight'?",
    ),
    "unknown method": (
        BASED.replace("task_arithmetic", "task_arithmatic") + ONE,
        1,
        "unknown method 'task_arithmatic'. Did you mean 'task_arithmetic'? "
        "Methods that exist: linear, task_arithmetic, passthrough",
    ),
    "parameter of another method": (
        "merge_method: linear\n" + ONE + "parameters: {lambda: 0.5}\n",
        4,
        "parameters.lambda: unknown parameter. linear takes normalize, weight here. mergekit "
        "passes over it, as --lenient does",
    ),
    "slices empty": (BASED + "slices: []\n", 3, "slices: the list is empty. Add a slice"),
    "modules empty": (BASED + "modules: {}\n", 3, "modules: expected modules by name"),
    "tokenizer": (
        BASED + ONE + "tokenizer: {sourse: union}\n",
        5,
        "tokenizer.sourse: unknown key. Did you mean 'source'?",
    ),
    "chat template": (BASED + ONE + "chat_template: chatlm\n", 5, "Did you mean 'chatml'?"),
    "tokenizer source": (
        BASED + ONE + "tokenizer_source: 3\n",
        5,
        "tokenizer_source: expected text, found 3",
    ),
    "gradient of one value": (
        BASED + "models:\n  - model: a\n    parameters:\n      weight: [0.5]\n",
        6,
        "models.0.parameters.weight: a gradient over layers needs two values or more, found 1",
    ),
    "gradient of one value in a filter": (
        BASED + ONE + "parameters:\n  lambda:\n    - filter: mlp\n      value: []\n",
        8,
        "parameters.lambda.0.value: a gradient over layers needs two values or more, found 0",
    ),
    "filter misspelt": (
        BASED + ONE + "parameters:\n  lambda:\n    - fliter: mlp\n      value: 1\n",
        7,
        "parameters.lambda.0.fliter: unknown key. Did you mean 'filter'?",
    ),
    "filter without value": (
        BASED + ONE + "parameters:\n  lambda:\n    - filter: mlp\n",
        7,
        "parameters.lambda.0.value: missing. Add `value: ...`",
    ),
    "parameter of the merge in a model": (
        BASED + "models:\n  - model: a\n    parameters:\n      weight: 1\n      lambda: 1\n",
        7,
        "models.0.parameters.lambda: lambda is a parameter of the whole merge",
    ),
    "models and slices": (BASED + ONE + "slices: []\n", 5, "slices: models is given already"),
    "layer range upside down": (
        BASED + "slices:\n  - sources:\n      - {model: a, layer_range: [2, 1]}\n",
        5,
        "slices.0.sources.0.layer_range: expected [first, end]",
    ),
    "layer ranges of two lengths": (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n  - sources:\n"
        "      - {model: a, layer_range: [0, 1]}\n      - {model: b, layer_range: [0, 2]}\n",
        4,
        "slices.0: the sources have 1, 2 layers",
    ),
    "two models passed through": (
        "merge_method: passthrough\nmodels:\n  - model: a\n  - model: b\n",
        2,
        "models: passthrough takes one model at most, found 2",
    ),
    "stage without a use": (
        "name: idle\nmerge_method: passthrough\nmodels: [{model: a}]\n---\n"
        "merge_method: passthrough\nmodels: [{model: b}]\n",
        1,
        "name: no later stage uses idle",
    ),
    "stage without a name": (
        "merge_method: passthrough\nmodels: [{model: a}]\n---\nmerge_method: passthrough\n"
        "models: [{model: b}]\n",
        1,
        "name: missing: later stages cannot use this one",
    ),
    "weight not finite": (BASED + ONE.replace("1", ".inf"), 4, "finite number, found inf"),
    "weight not a number": (BASED + ONE.replace("1", "much"), 4, "expected a number, a list"),
    "weight in percent": (BASED + ONE.replace("1", "50%"), 4, "found '50%'. Write 0.5"),
    "density in percent": (
        BASED.replace("task_arithmetic", "ties") + ONE.replace("1", "1, density: 50"),
        4,
        "models.0.parameters.density: expected a share from 0 to 1, found 50. For 50 % write 0.5",
    ),
    "normalize a number": (
        BASED + ONE + "parameters: {normalize: 0.5}\n",
        5,
        "parameters.normalize: expected true or false, found 0.5",
    ),
    "weight true": (BASED + ONE.replace("1", "true"), 4, "expected a number, found True"),
    "no weight": (BASED + "models:\n  - model: a\n", 4, "a has no weight. Add"),
    "no base": ("merge_method: task_arithmetic\n" + ONE, 1, "base_model: missing"),
    "no models": (BASED, 1, "models: missing. Add `models: ...`"),
    "models empty": (BASED + "models: []\n", 3, "models: the list is empty"),
    "models no list": (BASED + "models: a\n", 3, "models: expected a list, found 'a'"),
    "parameters no mapping": (
        BASED + ONE + "parameters: 1\n",
        5,
        "expected keys and values, found 1",
    ),
    "model no text": (
        BASED + "models:\n  - model: 3\n",
        4,
        "models.0.model: expected text, found 3",
    ),
    "no method": ("base_model: base\n" + ONE, 1, "merge_method: missing"),
    "listed twice": (
        BASED + ONE + "  - {model: a, parameters: {weight: 2}}\n",
        5,
        "models.1: a is listed twice",
    ),
    "dtype": (BASED + ONE + "dtype: bfloat15\n", 5, "Did you mean 'bfloat16'?"),
    "key twice": (
        BASED + ONE + "dtype: float16\ndtype: float32\n",
        6,
        "dtype: the key is given twice",
    ),
    "not YAML": (BASED + "models: [\n", 4, "not valid YAML"),
    "not a mapping": ("- a\n- b\n", 1, "expected keys and values (`name: ...`), found list"),
    "empty": ("", 1, "found nothing"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_told_with_file_and_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, line, message = FAULTS[name]
    with pytest.raises(ConfigError) as caught:
        recipe_of(text)
    assert str(caught.value).startswith(f"recipe.yaml:{line}: ")
    assert message in str(caught.value)


def test_every_fault_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        recipe_of(BASED + "models:\n  - {modle: a}\ndtpye: F32\n")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        "recipe.yaml:4",
        "recipe.yaml:4",
        "recipe.yaml:5",
    ]


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_recipe(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_recipe(tmp_path / "absent.yaml")


def test_a_lenient_recipe_passes_over_what_mergekit_passes_over(models: dict[str, Tensors]) -> None:
    Path("recipe.yaml").write_text(
        "merge_method: linear\ndype: float16\nmodels:\n"
        "  - {model: a, parameters: {weight: [1], density: 0.5, int8_mask: 1.0}}\n"
        "  - model: b\n    parameters:\n      weight:\n"
        "        - {filter: modelnorm, value: 9}\n        - {value: [3]}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_recipe(Path("recipe.yaml"))
    strict = str(caught.value).splitlines()
    assert all(line.endswith("as --lenient does") for line in strict)
    recipe = load_recipe(Path("recipe.yaml"), lenient=True)
    (idle,) = assemble(recipe).passed_over
    assert idle.startswith("recipe.yaml:8: ") and "'modelnorm' matches no tensor" in idle
    lines = [line.split(" ")[0] for line in recipe.passed_over]
    assert lines == [line.split(" ")[0] for line in strict]
    assert lines == [f"recipe.yaml:{n}:" for n in (2, 4, 4, 9)]
    assert "Did you mean 'dtype'?" in recipe.passed_over[0]
    build(recipe).save("out")
    expected = combination(models, {"a": 0.25, "b": 0.75})
    assert np.allclose(read(Path("out"))[EMBEDDING], expected, atol=1e-6)
    wrong = {
        b"parameters: 1": "expected keys and values",
        b"models: [{model: a, parameters: {weight: 1}}, {model: a}]": "a is listed twice",
        b"models: [{model: a, parameters: {weight: []}}]": "two values or more, found 0",
        b"models: [{model: a, parameters: {wieght: 1}}]": "passed over: .* Did you mean 'weight'",
    }
    for text, message in wrong.items():  # all else stays an error
        with pytest.raises(ConfigError, match=message):
            parse_recipe(Path("recipe.yaml"), b"merge_method: linear\n" + text, lenient=True)


@pytest.mark.parametrize("method", ["task_arithmetic", "nuslerp"])
@pytest.mark.usefixtures("models")
def test_only_the_base_listed_is_an_error(method: str) -> None:
    with pytest.raises(ConfigError, match=r"recipe.yaml:2: models: only the base base is listed"):
        build(recipe_of(yaml_of(method, {"base": 1}, ["base_model: base"])))


def test_linear_weights_that_sum_to_zero_are_an_error(models: dict[str, Tensors]) -> None:
    with pytest.raises(ConfigError, match="sum to 0"):
        build(recipe_of(yaml_of("linear", {"a": 1, "b": -1})))


def test_every_method_of_mergekit_exists() -> None:
    others = {"negmerge", "lines", "tsv", "iso_c", "iso_cts", "wudi", "consensus_ta", "pcb"}
    others |= {"fisher", "regmean", "emr", "ethos"}
    assert len(METHODS.keys() - others) == 20  # mergekit 0.1.5


def test_the_schema_in_docs_is_that_of_the_methods() -> None:
    kept = Path(__file__).parents[2] / "docs" / "recipe.schema.json"
    assert kept.read_text() == to_text()
