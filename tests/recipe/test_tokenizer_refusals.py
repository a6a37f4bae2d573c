"""Tokenizers that do not fit, and recipes that mean nothing by them: refused, and how."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from recipe.tiny_tokenizers import EMBEDDING, HEAD, LAYER, write_model
from recipe.tokenizer_merges import (
    linear,
    recipe_of,
    saved,
    write,
)
from safetensors.numpy import save_file
from support.checkpoints import read_model

from tvmerge.checkpoints.stored import KIND_KEY, TASK_VECTOR
from tvmerge.errors import ConfigError, FormatError, MismatchError, TVMergeError
from tvmerge.recipe import build

pytestmark = pytest.mark.usefixtures("models_with_tokenizers")

REFUSED: dict[str, tuple[type[TVMergeError], str, str]] = {
    "a misspelt source": (
        ConfigError,
        linear("tokenizer_source: onion"),
        "recipe.yaml:3: tokenizer_source: 'onion' is no model, and no folder. "
        "Did you mean 'union'? Name union, base or a model",
    ),
    "both keys": (
        ConfigError,
        linear("tokenizer_source: union\ntokenizer: {}"),
        "recipe.yaml:3: tokenizer_source: tokenizer is given too. Keep one of them",
    ),
    "no source": (
        MismatchError,
        linear("dtype: float32"),
        "Say which one the result has (`tokenizer_source: union`",
    ),
    "a stage": (
        ConfigError,
        "name: first\n" + linear("tokenizer_source: base") + "---\nmerge_method: linear\n"
        "tokenizer_source: union\nmodels: [{model: first, parameters: {weight: 1}}, "
        "{model: y, parameters: {weight: 1}}]\n",
        "first: its lm_head.weight has to be rebuilt for another vocabulary, and is "
        "not written yet. Merge it first, and name its folder",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_meant_is_refused(what: str) -> None:
    kind, text, message = REFUSED[what]
    with pytest.raises(kind) as caught:
        build(recipe_of(text))
    assert message in str(caught.value)


def test_tokenizers_that_do_not_fit_are_refused() -> None:
    recipe = recipe_of(linear("tokenizer_source: union"))
    path = Path("base/tokenizer.json")
    held = path.read_text()
    for text, message in (
        ("{}", "is no tokenizer that the library tokenizers reads"),
        ("[" * 20_000_000, "holds more than 10,000,000 values"),
    ):
        path.write_text(text)
        with pytest.raises(FormatError, match=message):
            build(recipe)
    path.unlink()
    with pytest.raises(FormatError, match=r"base: has no tokenizer. Add its tokenizer.json"):
        build(recipe)
    Path("base/tokenizer.model").write_text("")
    with pytest.raises(FormatError, match=r"expected tokenizer.json, found tokenizer.model"):
        build(recipe)
    path.write_text(held)
    Path("base/added_tokens.json").write_text('{"<late>": 9}')
    with pytest.raises(FormatError, match=r"'<late>' is number 9 .* would be 5 behind"):
        build(recipe)
    Path("base/added_tokens.json").unlink()
    write("base", seed=0, rows=3)
    with pytest.raises(FormatError, match="1 tokens have no row in the embedding of 3 rows: 'c'"):
        build(recipe)


def test_tensors_whose_rows_may_be_tokens_are_refused() -> None:
    content = read_model(Path("y"))
    for name, shape in (("output.weight", (6, 3)), (HEAD, (5, 3))):
        save_file(content | {name: np.zeros(shape)}, Path("y/model.safetensors"))
        with pytest.raises(MismatchError, match=f"y: {name} "):
            build(recipe_of(linear("tokenizer_source: union")))
    named = {name.replace("embed_tokens", "words"): held for name, held in content.items()}
    save_file(named, Path("y/model.safetensors"))
    with pytest.raises(MismatchError, match="y: no tensor is an embedding by its name"):
        build(recipe_of(linear("tokenizer_source: union")))


TOKEN_FAULTS = {
    "{a: {source: z}}": "a.source: 'z' is no model of this merge.",
    "{a: {source: bas}}": "a.source: 'bas' is no model of this merge. Did you mean 'base'?",
    "{yy: {source: y}}": "yy.source: y has no token 'yy'. Did you mean",
    "{a: {source: {kind: model_token, model: y, token_id: 6}}}": "a.source: y has no row 6, only 6",
    "{a: {source: {kind: nought}}}": "a.source.kind: expected zero or model_token, found 'nought'",
    "{a: {source: {kind: model_token, model: y}}}": "a.source: expected either token or token_id",
    "{a: {source: {kind: model_token, token: b}}}": "a.source.model: missing. Add `model: ...`",
    "{a: {source: {kind: zero, model: y}}}": "a.source.model: unknown key.",
    "{a: {force: true}}": "a.source: missing. Add `source: ...`",
    "{a: {source: y, force: 1}}": "a.force: expected true or false, found 1",
    "{7: {source: y}}": "7: expected a token's text, found 7. Put it in quotes",
    "[a]": ": expected tokens with their sources, found ['a']",
}


@pytest.mark.parametrize("rule", TOKEN_FAULTS)
def test_rules_of_tokens_that_mean_nothing_are_refused(rule: str) -> None:
    text = linear(f"tokenizer:\n  source: union\n  tokens: {rule}")
    with pytest.raises(ConfigError) as caught:
        build(recipe_of(text))
    assert f"recipe.yaml:5: tokenizer.tokens{'' if rule == '[a]' else '.'}" in str(caught.value)
    assert TOKEN_FAULTS[rule] in str(caught.value)


@pytest.mark.parametrize("pad", ["0", "-8", "true", "1.5", "many"])
def test_padding_is_a_whole_number(pad: str) -> None:
    with pytest.raises(ConfigError, match="pad_to_multiple_of: expected a whole number from 1 on"):
        recipe_of(linear(f"tokenizer: {{pad_to_multiple_of: {pad}}}"))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [({"u": 0, "far": 2**31}, "numbers a token 2,147,483,648"), ({}, "has no tokens")],
)
def test_vocabularies_of_no_size_are_refused(tokens: dict[str, int], message: str) -> None:
    content = json.loads(Path("y/tokenizer.json").read_text())
    content["model"]["vocab"] = tokens
    Path("y/tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=f"{message}, expected 1 to 10,000,000 tokens"):
        build(recipe_of(linear("tokenizer_source: union")))


def test_rows_of_another_width_are_refused_also_without_weight() -> None:
    held = read_model(Path("y"))
    for name, changed in ((EMBEDDING, np.zeros((6, 4))), (HEAD, np.zeros((6, 3), dtype=np.int64))):
        save_file({**held, name: changed}, Path("y/model.safetensors"))
        with pytest.raises(MismatchError, match=rf"{name}: rows are .* in y, expected floating"):
            build(recipe_of(linear("tokenizer_source: union").replace("2.0", "0")))


def test_rows_of_tokens_are_not_added_to_a_stage_with_another_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, (name, tokens) in enumerate({"p": "u x y z", "q": "u z y x"}.items()):
        write_model(Path(name), tokens.split(), seed=seed)
    for name, tensor in (("of-tokens", EMBEDDING), ("of-layers", LAYER)):
        held = {tensor: np.ones_like(read_model(Path("p"))[tensor])}
        Path(name).mkdir()
        save_file(held, f"{name}/model.safetensors", metadata={KIND_KEY: TASK_VECTOR})
    first = "name: first\nmerge_method: linear\nbase_model: p\ntokenizer: {source: q}\nmodels:\n"
    first += "".join(f"  - {{model: {n}, parameters: {{weight: 0.5}}}}\n" for n in "pq")
    later = "---\nmerge_method: passthrough\nmodels: [{model: first+NAME}]\n"
    with pytest.raises(MismatchError, match=r"first may have another vocabulary .* of-tokens"):
        build(recipe_of(first + later.replace("NAME", "of-tokens")))
    out = saved(first + later.replace("NAME", "of-layers"))
    both = [read_model(Path(name))[LAYER] for name in "pq"]
    assert np.allclose(out[LAYER], (both[0] + both[1]) / 2 + 1, atol=1e-6)
