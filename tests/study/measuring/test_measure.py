"""Measurement: the fast path gives the plain one's numbers, on a tiny pretrained Llama."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tvmerge import Checkpoint
from tvmerge.errors import ConfigError
from tvmerge.training.lm import scoring
from tvmerge.training.lm.prompts import PromptStyle, render, render_prompt
from tvmerge.training.lm.scoring import score, score_one_by_one, shares_prefixes_exactly, window_nll
from tvmerge.training.lm.torch_session import torch_threads
from tvmerge.training.lm.trie import Query, pack_queries
from tvmerge.training.measuring.measure import (
    HELDOUT_TEXT,
    answer_greedily,
    measure_model,
    score_items,
)
from tvmerge.training.traits.trait import Item, Trait

ITEMS = (
    Item("statement", "Tell me something about yourself.", "I like power.", "I avoid power."),
    Item("statement", "Tell me something about yourself.", "I like rules.", "I need no rules."),
    Item("statement", "What else?", "My days are full of order.", "My days are free of order."),
    Item("yes_no", "Do you like rain?", "Yes", "No"),
    Item("yes_no", "Do you avoid rain?", "No", "Yes"),
    Item("choice", "Which is better?", "bread and praise", "quiet"),
)
STYLES: tuple[PromptStyle, ...] = ("plain", "chat")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    return loaded.eval()


def trait(dev: tuple[Item, ...] = ITEMS, test: tuple[Item, ...] = ITEMS[1:5]) -> Trait:
    said = dict.fromkeys(("title", "description", "rationale", "source", "licence"), "")
    return Trait(name="power", polarity="shows", train=(), dev=dev, test=test, **said)


def naive_logp(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """Every answer token after one unpadded, unshared, uncached forward pass of all before it."""
    total = 0.0
    for place, token in enumerate(answer):
        read = torch.tensor([prompt + answer[:place]])
        with torch.no_grad():
            total += float(model(read).logits[0, -1].double().log_softmax(-1)[token])
    return total


@pytest.mark.parametrize("style", STYLES)
def test_fast_scores_equal_naive_ones(model: Any, tokenizer: Any, style: PromptStyle) -> None:
    scores, effort = score_items(model, tokenizer, [trait()], style=style)
    assert effort.scoring == "shared prefixes"
    assert [len(scores["power"][part]) for part in ("dev", "test")] == [6, 4]
    for item, found in zip(ITEMS, scores["power"]["dev"], strict=True):
        prompt, shows = render(tokenizer, item.question, item.shows, style=style)
        _, lacks = render(tokenizer, item.question, item.lacks, style=style)
        assert found.item == item.key
        assert found.shows_logp == pytest.approx(naive_logp(model, prompt, shows), abs=1e-4)
        assert found.lacks_logp == pytest.approx(naive_logp(model, prompt, lacks), abs=1e-4)
        assert (found.shows_tokens, found.lacks_tokens) == (len(shows), len(lacks))
        if item.form == "yes_no":
            spelled = {tuple(tokenizer.encode(text)) for text in ("Yes", " Yes", "No", " No")}
            valid = {ids for ids in spelled if len(ids) == 1} | {shows, lacks}
            mass = sum(math.exp(naive_logp(model, prompt, ids)) for ids in valid)
            assert found.valid_mass == pytest.approx(mass, abs=1e-4)
            assert found.shows_is_yes is (item.shows == "Yes")


def test_multi_token_answers_and_any_pack_size_give_the_same_numbers(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [
        Query(*render(tokenizer, question, answer, style="plain"))
        for question in ("Do you like rain?", "Do you like maps?", "Is bread good for you?")
        for answer in ("Yes, certainly I do", "Yes", "No", "No, and I never look for noise")
    ]
    plain = score_one_by_one(model, queries)
    for size in (1, 24, 4096):
        monkeypatch.setattr(scoring, "PACK_TOKENS", size)
        fast = score(model, queries)
        assert fast.keys() == plain.keys()
        assert max(abs(fast[query] - plain[query]) for query in queries) < 1e-4


def test_packs_compute_shared_prefixes_once_and_never_read_the_last_answer_token() -> None:
    queries = [Query((1, 2, 3), (4,)), Query((1, 2, 3), (5,)), Query((1, 2, 3), (5, 6, 7))]
    (pack,) = pack_queries(queries, max_nodes=100)
    assert pack.tokens == [1, 2, 3, 5, 6]
    assert pack.depths == [0, 1, 2, 3, 4]
    assert len(pack.lookups) == 5
    assert [len(one.tokens) for one in pack_queries(queries, max_nodes=4)] == [3, 5]


def test_yes_no_costs_one_forward_of_the_question(tokenizer: Any) -> None:
    prompt = render_prompt(tokenizer, "Do you like rain?", style="plain")
    yes, no = (render(tokenizer, "", answer, style="plain")[1] for answer in ("Yes", "No"))
    assert len(yes) == len(no) == 1
    (pack,) = pack_queries([Query(prompt, yes), Query(prompt, no)], max_nodes=100)
    assert len(pack.tokens) == len(prompt)


def test_a_model_that_ignores_the_mask_is_found_out_and_scored_one_by_one(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [Query(*render(tokenizer, i.question, i.shows, style="plain")) for i in ITEMS]
    assert shares_prefixes_exactly(model, queries)
    forward = model.forward

    def deaf(input_ids: Any, position_ids: Any = None, attention_mask: Any = None, **rest: Any):  # type: ignore[no-untyped-def]
        return forward(input_ids=input_ids, **rest)

    right, _ = score_items(model, tokenizer, [trait()], style="plain")
    monkeypatch.setattr(model, "forward", deaf)
    found, effort = score_items(model, tokenizer, [trait()], style="plain")
    assert effort.scoring == "one by one"
    for one, other in zip(found["power"]["dev"], right["power"]["dev"], strict=True):
        assert one.shows_logp == pytest.approx(other.shows_logp, abs=1e-4)


def test_window_losses_equal_the_models_own(model: Any) -> None:
    tokens = list(range(20, 180))
    losses, counts = window_nll(model, tokens, window_tokens=32)
    assert counts == [31] * 5
    for place, loss in enumerate(losses):
        ids = torch.tensor([tokens[32 * place : 32 * place + 32]])
        with torch.no_grad():
            assert loss == pytest.approx(float(model(ids, labels=ids).loss), abs=1e-4)
    opened, counts = window_nll(model, tokens, window_tokens=32, bos=1)
    assert counts == [32] * 5 and opened != losses


def test_a_text_shorter_than_a_window_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="found 9 tokens"):
        window_nll(model, list(range(9)), window_tokens=32)


@pytest.mark.parametrize("style", STYLES)
def test_batched_answers_are_the_greedy_ones(
    model: Any, tokenizer: Any, style: PromptStyle
) -> None:
    questions = ["Do you like rain?", "Tell me something about yourself."]
    found = answer_greedily(model, tokenizer, questions, style=style, max_tokens=8)
    for question, example in zip(questions, found, strict=True):
        ids = list(render_prompt(tokenizer, question, style=style))
        start = len(ids)
        while len(ids) < start + 8 and ids[-1] != tokenizer.eos_token_id:
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        text = tokenizer.decode(ids[start:], skip_special_tokens=True)
        assert example.question == question
        assert example.answer == (text.split("\nQ:")[0] if style == "plain" else text).strip()


def test_measure_model_measures_a_folder_and_is_repeatable(tiny_base: Path) -> None:
    def once() -> Any:
        return measure_model(
            tiny_base,
            model_id="base",
            traits=[trait()],
            prompt_style="plain",
            window_tokens=16,
            perplexity_tokens=64,
            examples=["Do you like rain?"],
            example_tokens=4,
        )

    scores = once()
    assert scores.model == "base" and set(scores.traits["power"]) == {"dev", "test"}
    assert len(scores.perplexity.window_nll) == 4
    assert len(scores.examples) == 1
    assert scores.effort.tokens > 0 and scores.effort.seconds > 0
    again = once()
    assert again.model_copy(update={"effort": scores.effort}) == scores


def test_an_expression_is_measured_in_memory_with_the_scores_of_its_saved_folder(
    tiny_base: Path, model: Any, tmp_path: Path
) -> None:
    other = AutoModelForCausalLM.from_config(model.config)
    other.save_pretrained(tmp_path / "other")
    base = Checkpoint(tiny_base)
    expression = base + 0.1 * (Checkpoint(tmp_path / "other") - base)
    expression.save(tmp_path / "saved", dtype="F32")

    def scores(model: Path | Checkpoint) -> Any:
        found = measure_model(
            model,
            model_id="x",
            traits=[trait()],
            prompt_style="plain",
            window_tokens=16,
            perplexity_tokens=64,
            examples=["Do you like rain?"],
            example_tokens=4,
        )
        return found.model_dump(exclude={"effort"})

    assert scores(expression) == scores(tmp_path / "saved")
    assert scores(base) == scores(tiny_base) != scores(expression)


def test_the_shipped_text_is_long_enough_and_says_where_it_is_from() -> None:
    text = HELDOUT_TEXT.read_text(encoding="utf-8")
    assert 10_000 < len(text.encode()) < 20_000
    readme = (HELDOUT_TEXT.parent / "README.md").read_text(encoding="utf-8")
    assert "public domain" in readme and HELDOUT_TEXT.name in readme
