"""Recipes that say which tokenizer: rows are found by their tokens, and files say what is there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from recipe.tiny_tokenizers import EMBEDDING, HEAD, LAYER, ids, tokenizer, write_model
from recipe.tokenizer_merges import (
    TOKENS,
    WEIGHTS,
    expected,
    linear,
    merged,
    recipe_of,
    rows_of,
    saved,
    write,
)
from support.checkpoints import read_model
from tokenizers import Tokenizer

from tvmerge.algebra.assembled import Assembled
from tvmerge.algebra.sweep import sweep
from tvmerge.cli import cli
from tvmerge.engine.run_options import Progress, RunOptions
from tvmerge.merging.merge import save_checkpoint
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.verify import verify
from tvmerge.recipe import build
from tvmerge.replay import replay

pytestmark = pytest.mark.usefixtures("models_with_tokenizers")

SOURCES = {
    "union": "u a b c <s> x y <x>",
    "base": "u a b c <s>",
    "x": "u b a x <s> <x>",
    "y": "a u b c x y",
}


@pytest.mark.parametrize("source", SOURCES)
def test_rows_are_those_of_their_tokens(source: str) -> None:
    out = merged(f"tokenizer_source: {source}")
    held = ids(Path("out"))
    assert sorted(held, key=held.__getitem__) == SOURCES[source].split()
    for tensor in (EMBEDDING, HEAD):
        assert out[tensor].shape == (len(held), 3)
        for token, number in held.items():
            np.testing.assert_allclose(
                out[tensor][number], expected(tensor, token), rtol=1e-6, err_msg=token
            )
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == len(held)
    layers = [w * read_model(Path(n))[LAYER] for n, w in WEIGHTS.items()]
    np.testing.assert_allclose(out[LAYER], sum(layers) / 4, rtol=1e-6)


def test_without_a_base_a_row_that_several_have_is_their_mean() -> None:
    out = merged("tokenizer_source: union", base="")
    number = ids(Path("out"))["c"]  # which x lacks
    mean = expected(EMBEDDING, "c", base=None)
    np.testing.assert_allclose(out[EMBEDDING][number], mean, rtol=1e-6)
    assert not np.allclose(mean, expected(EMBEDDING, "c"))


def test_a_token_that_no_model_has_is_zero() -> None:
    Path("other").mkdir()
    tokenizer(["u", "a", "new"]).save("other/tokenizer.json")
    out = merged("tokenizer_source: other")
    assert ids(Path("out")) == {"u": 0, "a": 1, "new": 2}
    assert not out[EMBEDDING][2].any()
    np.testing.assert_allclose(out[HEAD][1], expected(HEAD, "a"), rtol=1e-6)
    assert not replay(read_receipt(Path("out")))


def test_the_default_of_a_tokenizer_is_the_union() -> None:
    merged("tokenizer: {}")
    assert len(ids(Path("out"))) == len(SOURCES["union"].split())


def test_filled_rows_have_the_models_own_dtype() -> None:
    write("base", seed=0, dtype=ml_dtypes.bfloat16)
    out = merged("tokenizer_source: union")
    assert out[EMBEDDING].dtype == ml_dtypes.bfloat16
    row = rows_of("y", EMBEDDING, "y")
    assert row is not None
    rounded = row.astype(ml_dtypes.bfloat16).astype(np.float64)  # in base; x takes y's as it is
    want = ((rounded + 3 * row) / 4).astype(ml_dtypes.bfloat16)
    assert np.array_equal(out[EMBEDDING][ids(Path("out"))["y"]], want)


def test_tied_heads_stay_tied() -> None:
    for seed, name in enumerate(TOKENS):
        write(name, seed=seed, head=False)
    out = merged("tokenizer_source: union")
    assert HEAD not in out
    assert out[EMBEDDING].shape == (8, 3)
    assert json.loads(Path("out/config.json").read_text())["tie_word_embeddings"] is True


def test_a_tied_model_gives_its_embedding_where_others_have_a_head() -> None:
    write("x", seed=1, head=False)
    out = merged("tokenizer_source: union")
    number, row = ids(Path("out"))["<x>"], rows_of("x", EMBEDDING, "<x>")
    np.testing.assert_allclose(out[HEAD][number], row, rtol=1e-6)


@pytest.mark.parametrize("method", ["ties", "slerp"])
def test_methods_that_measure_take_the_new_rows(method: str) -> None:
    t = "t: 0.5" if method == "slerp" else "weight: 0.5, density: 0.5"
    text = f"merge_method: {method}\nbase_model: base\ntokenizer_source: union\n"
    out = saved(f"{text}models: [{{model: y}}]\nparameters: {{{t}}}\n")
    assert out[EMBEDDING].shape == (7, 3)
    assert not replay(read_receipt(Path("out")))


def test_the_tokenizer_that_is_written_is_the_new_one() -> None:
    Path("base/vocab.json").write_text("{}")  # of its own vocabulary, no more of the new one
    Path("base/special_tokens_map.json").write_text('{"eos_token": "<s>"}')
    merged("tokenizer_source: union")
    made = Tokenizer.from_file("out/tokenizer.json")
    assert made.encode("a <x> x", add_special_tokens=False).ids == [1, 7, 5]
    assert {t.content for t in made.get_added_tokens_decoder().values() if t.special} == {
        "<s>",
        "<x>",
    }
    assert not Path("out/vocab.json").exists()
    same = "special_tokens_map.json"
    assert Path("out", same).read_bytes() == Path("base", same).read_bytes()


def test_another_models_tokenizer_is_copied_byte_for_byte() -> None:
    Path("y/chat_template.jinja").write_text("of y")
    Path("base/chat_template.jinja").write_text("of base")
    Path("base/merges.txt").write_text("")
    merged("tokenizer_source: y")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert Path("out", name).read_bytes() == Path("y", name).read_bytes()
    assert not Path("out/merges.txt").exists()


def test_where_all_have_the_vocabulary_nothing_is_rebuilt(tmp_path: Path) -> None:
    for seed, name in enumerate(TOKENS):
        shutil.rmtree(name)
        write_model(Path(name), ["u", "a"], seed=seed, rows=5, settings={"model_max_length": seed})
    Path("x/tokenizer.json").unlink()  # then it is the base's
    out = merged("tokenizer_source: union")
    assert out[EMBEDDING].shape == (5, 3)  # also rows that no token has
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        assert Path("out", name).read_bytes() == Path("base", name).read_bytes()
    assert not Path(tmp_path, "cache").exists()


def test_the_same_files_are_not_read() -> None:
    for name in ("x", "y"):
        shutil.copytree("base", name, dirs_exist_ok=True)
    script = (
        "import sys; from pathlib import Path; from tvmerge.recipe import build, load_recipe\n"
        "build(load_recipe(Path('recipe.yaml')))\n"
        "print({'tokenizers', 'torch', 'transformers', 'numpy'} & sys.modules.keys())"
    )
    recipe_of(linear("tokenizer_source: base"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"set()\n"
    recipe_of(linear("tokenizer_source: union"))
    write("y", seed=2)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"{'tokenizers'}\n"


def test_a_base_without_rows_for_added_tokens_is_stripped() -> None:
    write("base", seed=0, rows=4)
    merged("tokenizer_source: base")
    assert sorted(ids(Path("out"))) == ["a", "b", "c", "u"]
    assert "<s>" not in Path("out/tokenizer.json").read_text()


def test_tokens_that_other_files_name_count() -> None:
    write("y", seed=2, rows=8)
    Path("y/added_tokens.json").write_text('{"<mine>": 6}')
    told = {"added_tokens_decoder": {"7": {"content": "<end>", "special": True}}}
    Path("y/tokenizer_config.json").write_text(json.dumps(told))
    merged("tokenizer_source: union")
    held = ids(Path("out"))
    assert {"<mine>", "<end>"} <= held.keys()
    out = read_model(Path("out"))[EMBEDDING][held["<end>"]]
    np.testing.assert_allclose(out, read_model(Path("y"))[EMBEDDING][7], rtol=1e-6)


def test_the_receipt_names_what_was_read_and_replays() -> None:
    merged("tokenizer_source: union")
    receipt = read_receipt(Path("out"))
    named = {(one.given, file.name) for one in receipt.inputs for file in one.files}
    for name in TOKENS:
        assert {(name, "tokenizer.json"), (name, "model.safetensors")} <= named
    assert verify(Path("out"), inputs=True).intact
    assert not replay(receipt)
    path = Path("y/tokenizer.json").resolve()
    path.write_text(path.read_text().replace('"y"', '"z"'))
    assert [one.file for one in replay(receipt)] == [f"input {path}"]
    assert [one.file for one in verify(Path("out"), inputs=True).faults] == [f"input {path}"]


def test_an_interrupted_merge_goes_on(tmp_path: Path) -> None:
    def stop(moved: int, whole: int) -> None:
        if moved > whole // 2:
            raise KeyboardInterrupt

    def save(out: str, progress: Progress | None = None) -> float:
        model = build(recipe_of(linear("tokenizer_source: union")))
        assert isinstance(model, Assembled)
        options = RunOptions(batch_bytes=256, threads=1, progress=progress)
        more: dict[str, Any] = {"config": model.config, "tokenizer": model.tokenizer}
        save_checkpoint(model.weighting, model.donor, out, dtype=None, options=options, **more)
        return float(read_receipt(Path(out)).run["resumed_bytes"])

    with pytest.raises(KeyboardInterrupt):
        save("out", stop)
    assert not any(Path(tmp_path, "cache", "computed").iterdir())
    assert save("out") > 0
    save("whole")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_sweep_has_the_tokenizer_in_each_folder() -> None:
    sweep(build(recipe_of(linear("tokenizer_source: union"))), [0.5, 1], "out")
    for name in ("scale-0.5", "scale-1"):
        assert len(ids(Path("out", name))) == 8
        assert read_model(Path("out", name))[EMBEDDING].shape == (8, 3)


def test_a_model_without_weight_still_gives_its_tokens() -> None:
    text = linear("tokenizer_source: union").replace("weight: 2.0", "weight: 0")
    number, row = ids_of(text)["y"], rows_of("y", EMBEDDING, "y")
    np.testing.assert_allclose(read_model(Path("out"))[EMBEDDING][number], row, rtol=1e-6)
    assert not replay(read_receipt(Path("out")))
    assert verify(Path("out"), inputs=True).intact


def ids_of(text: str) -> dict[str, int]:
    saved(text)
    return ids(Path("out"))


def test_a_stage_hands_its_tokenizer_on() -> None:
    first = linear("tokenizer_source: union")
    second = "---\nmerge_method: passthrough\nmodels: [{model: first, parameters: {scale: 2}}]\n"
    held = ids_of(f"name: first\n{first}{second}")
    assert len(held) == 8
    out = read_model(Path("out"))[EMBEDDING][held["a"]]
    np.testing.assert_allclose(out, 2 * expected(EMBEDDING, "a"), rtol=1e-6)
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 8


PADDED = "tokenizer: {source: base, pad_to_multiple_of: 4}"


def test_padding_rows_are_the_mean_of_the_others() -> None:
    out = merged(PADDED)
    assert len(ids(Path("out"))) == 5
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 8
    for tensor in (EMBEDDING, HEAD):
        assert out[tensor].shape == (8, 3)
        mean = out[tensor][:5].mean(axis=0)  # of a linear merge it is that of the models' means
        np.testing.assert_allclose(out[tensor][5:], [mean] * 3, rtol=1e-5)


def test_a_vocabulary_that_is_a_multiple_is_not_padded() -> None:
    merged("tokenizer: {source: union, pad_to_multiple_of: 4}")
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 8
    for name in ("x", "y"):
        shutil.copytree("base", name, dirs_exist_ok=True)
    write("base", seed=3)
    out = merged("tokenizer: {source: base, pad_to_multiple_of: 5}", folder="same")
    assert out[EMBEDDING].shape == (5, 3)


RULES = {
    "a model": ("c", "{source: y}", ("y", "c")),  # x lacks it, and would take the base's
    "zero": ("y", "{source: {kind: zero}}", None),
    "another token": ("<x>", "{source: {kind: model_token, model: y, token: y}}", ("y", "y")),
    "a number": ("<x>", "{source: {kind: model_token, model: y, token_id: 0}}", ("y", "a")),
    "force": ("b", "{source: {kind: model_token, model: y, token: y}, force: true}", ("y", "y")),
    "force of the first": ("u", "{source: x, force: true}", ("x", "u")),
    "a new token": ("<new>", "{source: {kind: model_token, model: x, token: a}}", ("x", "a")),
    "a new token of 0": ("<new>", "{source: {kind: zero}}", None),
}


@pytest.mark.parametrize("what", RULES)
def test_a_tokens_row_comes_from_where_the_recipe_says(what: str) -> None:
    token, rule, place = RULES[what]
    out = merged(f"tokenizer: {{source: union, tokens: {{{token}: {rule}}}}}")
    held = ids(Path("out"))
    for tensor in (EMBEDDING, HEAD):
        fill: Any = np.zeros(3) if place is None else rows_of(place[0], tensor, place[1])
        own = {n: None if "force" in rule else rows_of(n, tensor, token) for n in TOKENS}
        want = sum(w * (fill if own[n] is None else own[n]) for n, w in WEIGHTS.items()) / 4
        np.testing.assert_allclose(out[tensor][held[token]], want, rtol=1e-6)
        for other in held.keys() - {token}:
            row = expected(tensor, other)
            np.testing.assert_allclose(out[tensor][held[other]], row, rtol=1e-6, err_msg=other)
    assert not replay(read_receipt(Path("out")))


def test_configurations_name_the_tokens_by_their_new_numbers() -> None:
    told = {"bos_token_id": 4, "eos_token_id": [2, 3], "pad_token_id": 3, "unknown_token_id": 99}
    config = json.loads(Path("base/config.json").read_text())
    Path("base/config.json").write_text(json.dumps(config | told | {"text_config": told}))
    Path("base/generation_config.json").write_text(json.dumps({"top_p": 1, **told}))
    merged("tokenizer_source: x")  # where <s> is 4 as well, b is 1, and c is not
    want = {"bos_token_id": 4, "eos_token_id": [1], "pad_token_id": None, "unknown_token_id": 99}
    made = json.loads(Path("out/config.json").read_text())
    assert want.items() <= made.items()
    assert made["text_config"] == want
    made = json.loads(Path("out/generation_config.json").read_text())
    assert made == {"top_p": 1, **want}


def test_configurations_of_a_union_are_the_bases() -> None:
    Path("base/generation_config.json").write_text('{"eos_token_id": 2}')
    merged("tokenizer_source: union")
    assert Path("out/generation_config.json").read_text() == '{"eos_token_id": 2}'


def test_a_plan_tells_what_the_merge_takes() -> None:
    recipe_of(linear("tokenizer_source: union"))
    done = CliRunner().invoke(cli, ["plan", "recipe.yaml", "out", "--json", "--no-probe"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    done = CliRunner().invoke(cli, ["merge", "recipe.yaml", "out"])
    assert done.exit_code == 0, done.output
    assert told["bytes_read"] == read_receipt(Path("out")).run["bytes_read"]
    assert told["disk_needed_bytes"] == Path("out/model.safetensors").stat().st_size
