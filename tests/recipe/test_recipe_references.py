"""Models that a recipe names in parts (path, revision, adapter), as mergekit writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from support.adapters import write_adapter
from support.small_checkpoints import read, tensors, write

from tvmerge.errors import ConfigError, FormatError
from tvmerge.recipe import Recipe, build, load_recipe
from tvmerge.recipe.schema import schema

BASED = "merge_method: task_arithmetic\nbase_model: base\n"
ONE = "models:\n  - {model: a, parameters: {weight: 1}}\n"
MODELS = """
merge_method: task_arithmetic
base_model: REFERENCE
models:
  - {model: REFERENCE}
  - {model: b, parameters: {weight: 1}}
tokenizer_source: REFERENCE
"""
SLICES = """
merge_method: task_arithmetic
base_model: base
slices:
  - base_model: REFERENCE
    sources:
      - {model: REFERENCE, layer_range: [0, 1]}
      - {model: b, layer_range: [0, 1], parameters: {weight: 1}}
tokenizer:
  source: REFERENCE
  tokens:
    <a>: {source: REFERENCE}
    <b>: {source: {kind: model_token, model: REFERENCE, token: <a>}}
"""
SAME = {
    "{model: a}": "a",
    "{model: {path: org/a, revision: main}}": "org/a@main",
    "{model: {path: a, revision: null}, lora: null, override_architecture: null}": "a",
    "{model: org/a@v1, lora: {path: org/l, revision: v2}}": "org/a@v1+org/l@v2",
    "{model: {path: a}, lora: l}": "a+l",
}


def recipe_of(text: str) -> Recipe:
    path = Path("recipe.yaml")
    path.write_text(text)
    return load_recipe(path)


@pytest.mark.parametrize("form", [MODELS, SLICES], ids=["models", "slices"])
@pytest.mark.parametrize("parts", SAME)
def test_parts_mean_what_the_text_means(
    parts: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (found,) = recipe_of(form.replace("REFERENCE", parts)).documents
    (wanted,) = recipe_of(form.replace("REFERENCE", SAME[parts])).documents
    assert SAME[parts] in found.references
    assert found.references == wanted.references
    assert found.modules == wanted.modules
    assert found.vocabulary == wanted.vocabulary


FAULTS = {
    "no model": (
        BASED + "models:\n  - model: {lora: a}\n",
        4,
        "models.0.model.model: missing. Add `model: ...`",
    ),
    "nothing": (
        "base_model: {}\nmerge_method: task_arithmetic\n" + ONE,
        1,
        "base_model.model: missing. Add `model: ...`",
    ),
    "no path": (
        BASED + "models:\n  - model:\n      model:\n        revision: main\n",
        5,
        "models.0.model.model.path: missing. Add `path: ...`",
    ),
    "a number": (
        BASED + "models:\n  - model: {model: {path: a, revision: 7}}\n",
        4,
        "models.0.model.model.revision: expected text, found 7",
    ),
    "two revisions": (
        BASED + "models:\n  - model: {model: {path: a@main, revision: main}}\n",
        4,
        "models.0.model.model.path: 'a@main' names a revision already. Keep one of them",
    ),
    "two adapters": (
        BASED + "models:\n  - model: {model: a+b, lora: c}\n",
        4,
        "models.0.model.model: expected one model without a +, found 'a+b'. Name an adapter",
    ),
    "a plus in a revision": (
        BASED + "models:\n  - model: {model: {path: a, revision: 1+b}}\n",
        4,
        "models.0.model.model.path: expected one model without a +, found 'a@1+b'",
    ),
    "a way to make a vocabulary": (
        BASED + ONE + "tokenizer_source: {model: union}\n",
        5,
        "tokenizer_source: expected a model, found 'union', which tells how",
    ),
    "an unknown key": (
        BASED + "models:\n  - model:\n      model: {path: a}\n      lroa: b\n",
        6,
        "models.0.model.lroa: unknown key. Did you mean 'lora'? Known keys: lora, model",
    ),
    "an unknown key of a path": (
        BASED + ONE + "tokenizer_source:\n  model:\n    path: a\n    subfolder: b\n",
        8,
        "tokenizer_source.model.subfolder: unknown key. Known keys: path, revision",
    ),
    "an architecture": (
        BASED + "models:\n  - model:\n      model: a\n      override_architecture: X\n",
        6,
        "models.0.model.override_architecture: unused: tensors are taken by their names",
    ),
    "a token's model": (
        BASED + ONE + "tokenizer:\n  tokens:\n    x: {source: {model: {path: z}}}\n",
        7,
        "tokenizer.tokens.x.source: 'z' is no model of this merge",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_has_no_meaning_is_refused_with_its_line(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, line, message = FAULTS[what]
    with pytest.raises(ConfigError) as caught:
        recipe_of(text)
    assert f"recipe.yaml:{line}: {message}" in str(caught.value)


def test_parts_merge_to_the_tensors_of_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a")):
        write(Path(name), tensors(seed))
    write_adapter(Path("l"))
    parts = "{model: {path: base}, lora: {path: l}}"
    for out, tuned in (("parts", parts), ("text", "base+l")):
        models = f"models: [{{model: {tuned}, parameters: {{weight: 0.5}}}}, {{model: base}}]\n"
        build(recipe_of("merge_method: task_arithmetic\nbase_model: base\n" + models)).save(out)
    found, wanted = read(Path("parts")), read(Path("text"))
    assert all(np.array_equal(found[name], tensor) for name, tensor in wanted.items())
    assert any((found[name] != tensor).any() for name, tensor in tensors(0).items())


def test_the_schema_takes_both_ways_and_refuses_others() -> None:
    from jsonschema import Draft202012Validator

    checks = Draft202012Validator(schema()).is_valid
    for form in (MODELS, SLICES):
        for parts, text in SAME.items():
            parts = parts.replace(", override_architecture: null", "")
            assert checks(yaml.safe_load(form.replace("REFERENCE", parts)))
            assert checks(yaml.safe_load(form.replace("REFERENCE", text)))
    # These take more than a schema.
    beyond = {"two revisions", "two adapters", "a plus in a revision", "a token's model"}
    for what in FAULTS.keys() - beyond - {"a way to make a vocabulary"}:
        assert not checks(yaml.safe_load(FAULTS[what][0])), what


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"merge_method: ties\nbase_model: gone\n{ONE}", "2: base_model"),
        (BASED + ONE + "  - {model: gone, parameters: {weight: 1}}\n", "5: models.1"),
        (BASED + ONE + "  - {model: damaged, parameters: {weight: 1}}\n", "5: models.1"),
    ],
)
def test_a_model_that_cannot_be_opened_is_told_with_its_line(
    text: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "a"):
        write(tmp_path / name, tensors(0))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(FormatError, match=rf"^recipe\.yaml:{place}: .*(gone|damaged)"):
        build(recipe_of(text))
