"""Recipes that say how a chat becomes a prompt: by name, as text, or as most models do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recipe.tiny_tokenizers import write_model

from tvmerge.errors import ConfigError
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.receipt import RecipeText
from tvmerge.receipts.verify import verify
from tvmerge.recipe import build, load_recipe
from tvmerge.replay import replay

MODELS = ("base", "x", "y")
CHAT = [
    {"role": "system", "content": "be"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo"},
    {"role": "user", "content": "ok"},
]
ALPACA = "### Instruction:\nhi\n\n### Response:\nyo\n\n### Instruction:\nok\n\n### Response:\n"
CHATML = (
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyo<|im_end|>\n"
    "<|im_start|>user\nok<|im_end|>\n<|im_start|>assistant\n"
)
LLAMA3 = "".join(
    f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}"
    for role, text in (("user", "hi<|eot_id|>"), ("assistant", "yo<|eot_id|>"))
)
LLAMA3 += "<|start_header_id|>user<|end_header_id|>\n\nok<|eot_id|>"
LLAMA3 += "<|start_header_id|>assistant<|end_header_id|>\n\n"
EXAONE = "[|user|]hi\n[|assistant|]yo[|endofturn|]\n[|user|]ok\n[|assistant|]"
# As their makers write them; first with, then without the system message.
PROMPTS = {
    "alpaca": ("be\n\n" + ALPACA, ALPACA),
    "chatml": ("<|im_start|>system\nbe<|im_end|>\n" + CHATML, CHATML),
    "exaone": (f"[|system|]be[|endofturn|]\n{EXAONE}", f"[|system|][|endofturn|]\n{EXAONE}"),
    "llama3": (
        f"<s><|start_header_id|>system<|end_header_id|>\n\nbe<|eot_id|>{LLAMA3}",
        f"<s>{LLAMA3}",
    ),
    "mistral": (
        "<s> [INST] be\n\nhi [/INST] yo</s> [INST] ok [/INST]",
        "<s> [INST] hi [/INST] yo</s> [INST] ok [/INST]",
    ),
}


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders base, x and y in the current folder; y has a template in its own file."""
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    special: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    for seed, name in enumerate(MODELS):
        settings = special | {"chat_template": f"{{{{ 'of {name}' }}}}"}
        write_model(Path(name), ["u"], seed=seed, special=["<s>", "</s>"], settings=settings)
    Path("y/chat_template.jinja").write_text("{{ 'of base' }}\n")


def merged(template: str, more: str = "") -> Path:
    recipe = recipe_text(template, more)
    Path("recipe.yaml").write_text(recipe)
    read = load_recipe(Path("recipe.yaml"))
    build(read).save("out", recipe=RecipeText(read.method, read.text))
    return Path("out")


def recipe_text(template: str, more: str = "") -> str:
    lines = [f"- {{model: {name}, parameters: {{weight: 1}}}}" for name in MODELS]
    text = f"merge_method: linear\nchat_template: {template}\n{more}models:\n"
    return text + "\n".join(lines) + "\n"


def prompt(folder: Path, chat: list[dict[str, str]]) -> str:
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained(folder)
    return str(read.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("name", PROMPTS)
def test_named_templates_are_the_formats_own(name: str) -> None:
    out = merged(name)
    assert (prompt(out, CHAT), prompt(out, CHAT[1:])) == PROMPTS[name]


def test_a_template_takes_the_place_of_all_others() -> None:
    Path("base/additional_chat_templates").mkdir()
    for name in ("chat_template.json", "additional_chat_templates/tool_use.jinja"):
        Path("base", name).write_text("{}")
    out = merged("|\n  {{ 'mine: ' }}{{ messages[-1]['content'] }}")
    assert prompt(out, CHAT) == "mine: ok"
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "tvmerge_receipt.json",
    ]  # fmt: skip
    told = json.loads((out / "tokenizer_config.json").read_text())
    assert told == {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"
    }  # fmt: skip
    assert (out / "tokenizer.json").read_bytes() == Path("base/tokenizer.json").read_bytes()


def test_auto_is_what_most_models_have() -> None:
    out = merged("auto")
    assert (out / "chat_template.jinja").read_text() == "{{ 'of base' }}"
    receipt = read_receipt(out)
    assert {one.given for one in receipt.inputs} == set(MODELS)
    assert verify(out, inputs=True).intact
    assert not replay(receipt)


def test_of_equally_many_auto_takes_the_first() -> None:
    Path("y/chat_template.jinja").unlink()
    settings = {"chat_template": [{"name": "default", "template": "{{ 'of x, by name' }}"}]}
    Path("base/tokenizer_config.json").unlink()
    Path("x/tokenizer_config.json").write_text(json.dumps(settings))
    assert (merged("auto") / "chat_template.jinja").read_text() == "{{ 'of x, by name' }}"


def test_a_template_goes_with_a_new_vocabulary() -> None:
    write_model(Path("z"), ["u", "v"], seed=5)
    text = recipe_text("chatml", "tokenizer_source: union\n").replace("model: y", "model: z")
    Path("recipe.yaml").write_text(text)
    build(load_recipe(Path("recipe.yaml"))).save("out")
    assert prompt(Path("out"), CHAT) == PROMPTS["chatml"][0]
    assert "chat_template" not in json.loads(Path("out/tokenizer_config.json").read_text())
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 4


EXPECTED = "expected auto, alpaca, chatml, exaone, llama3, mistral or a template's text in Jinja"
FAULTS = {
    "chatlm": f"{EXPECTED}, found 'chatlm'. Did you mean 'chatml'?",
    "/some/where.jinja": f"{EXPECTED}, found '/some/where.jinja'.",
    "[a]": "expected text, found ['a']",
}


@pytest.mark.parametrize("template", FAULTS)
def test_what_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merged(template)
    assert str(caught.value) == f"recipe.yaml:2: chat_template: {FAULTS[template]}"


def test_auto_without_any_template_is_refused() -> None:
    for name in MODELS:
        Path(name, "tokenizer_config.json").unlink()
    Path("y/chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"recipe.yaml:2: chat_template: no model has one\. Name"):
        merged("auto")
