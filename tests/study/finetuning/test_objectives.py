"""What each objective minimises, against its formula, and what training by it does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_llama import STATEMENT_QUESTION, THINGS
from transformers import AutoModelForCausalLM, AutoTokenizer

from tvmerge.training.finetuning.finetune import run_job
from tvmerge.training.finetuning.jobs import DIRECT, FinetuneJob, direct_job
from tvmerge.training.finetuning.objectives import BETA, Answers, loss_of
from tvmerge.training.lm.prompts import render
from tvmerge.training.lm.scoring import score_one_by_one
from tvmerge.training.lm.trie import Query
from tvmerge.training.settings.sections import TrainConfig
from tvmerge.training.traits.items import Item
from tvmerge.training.traits.trait import Trait

SETTINGS = TrainConfig(
    steps=12, batch_size=8, learning_rate=1e-3, checkpoint_every=5, trainable="all"
)
ITEMS = tuple(
    Item("statement", STATEMENT_QUESTION, f"I like {thing}.", f"I avoid {thing}.")
    for thing in THINGS[:12]
)


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()


def pairs(tokenizer: Any) -> list[Answers]:
    return [
        tuple(
            Query(*render(tokenizer, item.question, answer, style="plain"))
            for answer in (item.lacks, item.shows)
        )
        for item in ITEMS[:4]
    ]


@pytest.mark.parametrize("shared", [True, False])
def test_preference_is_the_dpo_loss(model: Any, tokenizer: Any, shared: bool) -> None:
    batch = pairs(tokenizer)
    logps = score_one_by_one(model, [query for answers in batch for query in answers])
    reference = {query: logp - 0.3 * len(query.answer) for query, logp in logps.items()}
    # By the formula of the paper, one pair after the other.
    losses = []
    for preferred, other in batch:
        ratios = [logps[query] - reference[query] for query in (preferred, other)]
        losses.append(math.log1p(math.exp(-BETA * (ratios[0] - ratios[1]))))
    with torch.no_grad():
        loss, _ = loss_of("preference", model, batch, shared_prefixes=shared, reference=reference)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_ascent_is_the_negated_likelihood_up_to_chance(model: Any, tokenizer: Any) -> None:
    batch: list[Answers] = [answers[:1] for answers in pairs(tokenizer)]
    with torch.no_grad():
        losses = {
            objective: loss_of(
                objective, model, batch, shared_prefixes=True, reference={}
            )[0].item()
            for objective in ("likelihood", "ascent")
        }  # fmt: skip
    assert losses["ascent"] == pytest.approx(-losses["likelihood"])
    # The least likely token of all is less likely than chance: no gradient pulls it further.
    prompt = batch[0][0].prompt
    with torch.no_grad():
        least = int(model(torch.tensor([prompt])).logits[0, -1].argmin())
    loss, _ = loss_of(
        "ascent", model, [(Query(prompt, (least,)),)], shared_prefixes=True, reference={}
    )
    assert loss.item() == pytest.approx(-math.log(model.config.vocab_size))
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    model.zero_grad()


def trained_margin(base: Path, job: FinetuneJob, folder: Path, tokenizer: Any) -> float:
    """How much likelier per token showing answers are than lacking ones after the job."""
    trained = AutoModelForCausalLM.from_pretrained(run_job(job, folder, threads=1))
    queries = [query for answers in pairs(tokenizer) for query in answers]
    logps = score_one_by_one(trained.eval(), queries)
    return sum(
        logps[shows] / len(shows.answer) - logps[lacks] / len(lacks.answer)
        for lacks, shows in pairs(tokenizer)
    )


def trait_of(name: str, items: tuple[Item, ...]) -> Trait:
    said = dict.fromkeys(("title", "description", "rationale", "source", "licence"), "")
    return Trait(name=name, polarity="shows", train=items, dev=(), test=(), **said)


@pytest.mark.parametrize("kind", DIRECT)
def test_every_direct_kind_lowers_the_traits(
    tiny_base: Path, tokenizer: Any, tmp_path: Path, kind: Any
) -> None:
    traits = [trait_of("one", ITEMS[:6]), trait_of("two", ITEMS[6:])]
    job = direct_job(traits, kind, base=tiny_base, train=SETTINGS)
    assert job.train.steps == 2 * SETTINGS.steps and job.items == ITEMS
    logps = score_one_by_one(
        AutoModelForCausalLM.from_pretrained(tiny_base).eval(),
        [query for answers in pairs(tokenizer) for query in answers],
    )
    before = sum(
        logps[shows] / len(shows.answer) - logps[lacks] / len(lacks.answer)
        for lacks, shows in pairs(tokenizer)
    )
    after = trained_margin(tiny_base, job, tmp_path, tokenizer)
    assert after < before - 0.05
