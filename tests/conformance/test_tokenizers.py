"""Merges of models with different tokenizers: by token, the rows are those of mergekit 0.1.5.

mergekit numbers tokens that it adds in an order that changes from run to run.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conformance.architectures import build as build_model
from support.checkpoints import read_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tvmerge.recipe import build, load_recipe

PYTHON = os.environ.get("TVMERGE_MERGEKIT_PYTHON")
RUNNER = Path(__file__).with_name("run_mergekit.py")
OFFLINE = os.environ | {"HF_HUB_OFFLINE": "1"}
RELATIVE = 1e-5
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="mergekit is not here: make conformance"),
]
ARCHITECTURES = ("llama", "llama, tied", "gpt2")
TEXTS = {
    "base": ("the rain in the plain, the train", ["<s>", "<|endoftext|>"], 4),
    "a": ("the brain in the rain, the grain", ["<s>", "<|endoftext|>", "<|im_end|>"], 0),
    "b": ("an order of bread, an order of maps", ["<|endoftext|>", "<s>"], 0),
    "c": ("the rain in the plain, the train", ["<s>", "<|endoftext|>", "<tool>"], 2),
}
LINEAR = "merge_method: linear\ndtype: float32\n"
BASED = "base_model: base\n"
ALL = "models:\n" + "".join(
    f"  - {{model: {name}, parameters: {{weight: {w}}}}}\n"
    for name, w in (("base", 1), ("a", 0.5), ("b", 0.25), ("c", 0.75))
)
TUNED = "models:\n" + "".join(
    f"  - {{model: {n}, parameters: {{weight: {w}, density: 0.6}}}}\n"
    for n, w in (("a", 0.5), ("b", 0.3))
)
TASK = (
    "merge_method: task_arithmetic\ndtype: float32\n" + BASED + TUNED.replace(", density: 0.6", "")
)
TOKENS = """
tokenizer:
  source: union
  tokens:
    <|im_end|>: {source: a, force: true}
    <tool>: {source: {kind: zero}}
    <new>: {source: {kind: model_token, model: b, token: <|endoftext|>}}
    <s>: {source: {kind: model_token, model: c, token_id: 3}, force: true}
"""
RECIPES = {
    "union": LINEAR + BASED + ALL + "tokenizer_source: union\n",
    "union without a base": LINEAR + ALL + "tokenizer_source: union\n",
    "base": LINEAR + BASED + ALL + "tokenizer_source: base\n",
    "another model": LINEAR + BASED + ALL + "tokenizer_source: a\n",
    "the base by its name": TASK + "tokenizer: {source: base}\n",
    "deltas": TASK + "tokenizer: {source: union}\n",
    "padded": TASK + "tokenizer: {source: union, pad_to_multiple_of: 16}\n",
    "ties": TASK.replace("task_arithmetic", "ties") + "tokenizer_source: union\n",
    "slerp": "merge_method: slerp\ndtype: float32\nbase_model: base\nmodels: [{model: a}]\n"
    "parameters: {t: 0.3}\ntokenizer_source: union\n",
    "tokens": LINEAR + BASED + ALL + TOKENS,
    "chatml": LINEAR + BASED + ALL + "tokenizer_source: base\nchat_template: chatml\n",
    "mistral": LINEAR + BASED + ALL + "tokenizer_source: base\nchat_template: mistral\n",
    "tokens, padded": LINEAR + BASED + ALL + TOKENS + "  pad_to_multiple_of: 8\n",
}


def write_tokenizer(folder: Path, text: str, special: Sequence[str]) -> int:
    """A byte-level BPE tokenizer trained on the text; returns the number of its tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(special_tokens=list(special), show_progress=False)
    made.train_from_iterator([text] * 3, trainer)
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "bos_token": "<s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return made.get_vocab_size()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the folder of an architecture once: models, recipes, what mergekit makes of these."""

    def made(architecture: str) -> Path:
        folder = tmp_path_factory.mktemp("models")
        for seed, (name, (text, special, more)) in enumerate(TEXTS.items()):
            count = write_tokenizer(folder / name, text, special)
            build_model(architecture, folder / name, seed=seed, tokens=count + more)
        for name, text in RECIPES.items():
            (folder / f"{name}.yaml").write_text(text)
        assert PYTHON is not None
        subprocess.run([PYTHON, RUNNER, "."], cwd=folder, check=True, timeout=500, env=OFFLINE)
        return folder

    return cache(made)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_are_those_of_mergekit(
    architecture: str,
    name: str,
    folders: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = folders(architecture)
    monkeypatch.chdir(folder)
    recipe = load_recipe(Path(f"{name}.yaml"))
    build(recipe).save(tmp_path / "out", dtype=recipe.output_dtype)
    places = tmp_path / "out", folder / f"{name}.out"
    ours, theirs = map(read_model, places)
    ids = [vocabulary(place) for place in places]
    assert ids[0].keys() == ids[1].keys()
    sizes = [json.loads((p / "config.json").read_text())["vocab_size"] for p in places]
    assert sizes[0] == sizes[1]
    assert ours.keys() == theirs.keys()
    for tensor, wanted in theirs.items():
        found = ours[tensor]
        if tensor.split(".")[-2] in ("embed_tokens", "lm_head", "wte"):
            order = [[*(held[token] for token in ids[0])] for held in ids]
            padding = list(range(len(ids[0]), sizes[0]))
            found, wanted = found[[*order[0], *padding]], wanted[[*order[1], *padding]]
        off = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)
        assert off <= RELATIVE, f"{tensor}: relative difference {off:.2g}"


@pytest.mark.parametrize("name", ["union", "tokens"])
def test_texts_become_the_tokens_that_they_become_with_mergekit(
    name: str, folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    folder = folders("llama")
    monkeypatch.chdir(folder)
    build(load_recipe(Path(f"{name}.yaml"))).save(tmp_path / "out")
    ours, theirs = map(AutoTokenizer.from_pretrained, (tmp_path / "out", folder / f"{name}.out"))
    assert len(ours) == len(theirs)
    assert ours.eos_token == theirs.eos_token == "<|endoftext|>"
    for text in (
        *(text for text, _, _ in TEXTS.values()),
        "<s>maps<|im_end|> <tool>rain<|endoftext|>",
    ):
        assert ours.tokenize(text) == theirs.tokenize(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_chats_become_the_prompts_that_they_become_with_mergekit(
    name: str, folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    folder = folders("llama")
    monkeypatch.chdir(folder)
    build(load_recipe(Path(f"{name}.yaml"))).save(tmp_path / "out")
    roles = ("system", "user", "assistant", "user")
    chat = [{"role": role, "content": f" {n} "} for n, role in enumerate(roles)]
    for turns in (chat, chat[1:]):
        ours, theirs = (
            AutoTokenizer.from_pretrained(place).apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
            for place in (tmp_path / "out", folder / f"{name}.out")
        )
        assert ours == theirs


def vocabulary(folder: Path) -> dict[str, int]:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
