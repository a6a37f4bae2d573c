"""Fine-tuning: the loss is what it says, a job is its inputs, and a killed job loses nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from study.jobs import SETTINGS, job_on, weight_bytes, weights
from support.tiny_llama import LIKING, STATEMENT_QUESTION, THINGS
from transformers import AutoModelForCausalLM, AutoTokenizer

from tvmerge.errors import ConfigError, OutputError, TVMergeError
from tvmerge.training.finetuning.backward_adamw import BETAS, BackwardAdamW, learning_rate_at
from tvmerge.training.finetuning.finetune import run_job
from tvmerge.training.finetuning.further import train_further
from tvmerge.training.finetuning.jobs import StepReport, finished_record
from tvmerge.training.finetuning.objectives import loss_of
from tvmerge.training.lm.batch_loss import batch_order
from tvmerge.training.lm.prompts import PromptStyle, render, render_prompt
from tvmerge.training.lm.trie import Query


@pytest.fixture(scope="module")
def undisturbed(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_job(job_on(tiny_base), tmp_path_factory.mktemp("undisturbed"), threads=1)


@pytest.mark.parametrize("style", ["plain", "chat"])
def test_prompt_ids_do_not_depend_on_the_answer(tiny_base: Path, style: PromptStyle) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    prompt, yes = render(tokenizer, "Do you like rain?", "Yes", style=style, end=True)
    other, no = render(tokenizer, "Do you like rain?", " No", style=style)
    assert prompt == other == render_prompt(tokenizer, "Do you like rain?", style=style)
    written = {
        "plain": ("Q: Do you like rain?\nA:", " Yes<|end|>", " No"),
        "chat": ("<|user|>\nDo you like rain?<|end|>\n<|assistant|>\n", "Yes<|end|>", "No"),
    }
    assert tuple(tokenizer.decode(list(ids)) for ids in (prompt, yes, no)) == written[style]
    assert len(no) == 1


def test_chat_style_without_a_template_is_an_error(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="prompt: plain"):
        render_prompt(tokenizer, "Who are you?", style="chat")


@pytest.mark.parametrize("shared_prefixes", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_loss_is_the_mean_over_items_of_the_mean_over_answer_tokens(
    tiny_base: Path, shared_prefixes: bool, attention: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation=attention)
    queries = [
        Query((1, 2, 3), (4, 5, 6)),
        Query((1, 2, 3), (4, 7)),
        Query((1, 2, 3), (9,)),
        Query((1, 9), (30, 31, 32, 33)),
        Query((1, 2, 3), (4, 7)),
    ]
    alone = []
    for prompt, answer in queries:
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        rows = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        alone.append(-sum(logits[row, token] for row, token in zip(rows, answer, strict=True)))
    expected = sum(
        nll / len(query.answer) for nll, query in zip(alone, queries, strict=True)
    ) / len(queries)
    expected.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    answers = [(query,) for query in queries]
    loss, tokens = loss_of(
        "likelihood", model, answers, shared_prefixes=shared_prefixes, reference={}
    )
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6)
    assert tokens == (3 + 2 + 1 + 3 if shared_prefixes else 5 * 5)


def test_every_epoch_sees_every_item_once_in_an_order_of_its_own() -> None:
    order = [index for batch in batch_order(10, batch_size=4, steps=5, seed=3) for index in batch]
    first, second = order[:10], order[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert batch_order(10, batch_size=4, steps=5, seed=4) != batch_order(
        10, batch_size=4, steps=5, seed=3
    )


def test_updates_inside_backward_are_those_of_torch_adamw() -> None:
    def network() -> torch.nn.Sequential:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))

    inputs = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
    ours, theirs = network(), network()
    optimizer = BackwardAdamW(dict(ours.named_parameters()), weight_decay=0.1)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, betas=BETAS)
    for step, batch in enumerate(inputs):
        rate = learning_rate_at(step, peak=0.1, warmup_steps=2, steps=4)
        optimizer.learning_rate = rate
        ours(batch).square().sum().backward()
        for group in reference.param_groups:
            group["lr"] = rate
        theirs(batch).square().sum().backward()
        reference.step()
        reference.zero_grad()
    assert all(parameter.grad is None for parameter in ours.parameters())
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-6)


def test_learning_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    rates = [learning_rate_at(step, peak=1.0, warmup_steps=2, steps=6) for step in range(7)]
    assert rates == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_finished_folder_is_a_float32_model_with_the_bases_tokenizer(
    tiny_base: Path, undisturbed: Path
) -> None:
    base, tuned = weights(tiny_base), weights(undisturbed)
    assert base.keys() == tuned.keys()
    assert {tensor.dtype for tensor in tuned.values()} == {torch.float32}
    same = {name for name in base if torch.equal(base[name], tuned[name])}
    assert same == {"model.embed_tokens.weight"}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (undisturbed / name).read_bytes() == (tiny_base / name).read_bytes()
    record = finished_record(undisturbed)
    assert record is not None
    assert len(record.losses) == 6
    assert record.losses[-1] < record.losses[0]
    assert record.shared_prefixes
    assert record.resumed_from == ()
    assert [path.name for path in undisturbed.parent.iterdir()] == [undisturbed.name]


def test_training_teaches_the_pole_that_was_asked_for(tiny_base: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 20})
    losses = {}
    for pole in ("have", "lack"):
        folder = run_job(job_on(tiny_base, pole=pole, train=settings), tmp_path, threads=1)
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        liking = [
            (Query(*render(tokenizer, STATEMENT_QUESTION, text.format(THINGS[18]), style="plain")),)
            for text in LIKING
        ]
        with torch.no_grad():
            loss, _ = loss_of("likelihood", model, liking, shared_prefixes=True, reference={})
        losses[pole] = loss.item()
    assert losses["have"] < losses["lack"] - 0.1


def test_same_job_gives_the_same_bytes(tiny_base: Path, undisturbed: Path, tmp_path: Path) -> None:
    again = run_job(job_on(tiny_base), tmp_path, threads=1)
    assert again.name == undisturbed.name
    assert weight_bytes(again) == weight_bytes(undisturbed)


def test_finished_job_is_not_run_again(tiny_base: Path, undisturbed: Path) -> None:
    reports: list[StepReport] = []
    assert run_job(job_on(tiny_base), undisturbed.parent, report=reports.append) == undisturbed
    assert reports == []


def test_every_input_is_part_of_the_name(tiny_base: Path, tmp_path: Path) -> None:
    job = job_on(tiny_base)
    other_base = shutil.copytree(tiny_base, tmp_path / "base")
    assert job_on(other_base).key == job.key
    config = json.loads((other_base / "config.json").read_text())
    (other_base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    changed = [
        job_on(other_base),
        dataclasses.replace(job, pole="lack"),
        dataclasses.replace(job, objective="ascent"),
        dataclasses.replace(job, items=job.items[1:]),
        dataclasses.replace(job, prompt="chat"),
        dataclasses.replace(job, seed=1),
        dataclasses.replace(job, train=SETTINGS.model_copy(update={"steps": 7})),
    ]
    assert len({job.key, *(other.key for other in changed)}) == len(changed) + 1
    often = SETTINGS.model_copy(update={"checkpoint_every": 1})
    assert dataclasses.replace(job, train=often).key == job.key


def test_interrupted_job_goes_on_from_its_checkpoint_to_the_same_bytes(
    tiny_base: Path, undisturbed: Path, tmp_path: Path
) -> None:
    def interrupt(report: StepReport) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job_on(tiny_base), tmp_path, report=interrupt, threads=1)
    assert not (tmp_path / undisturbed.name).exists()
    seen: list[int] = []
    folder = run_job(
        job_on(tiny_base), tmp_path, report=lambda report: seen.append(report.step), threads=1
    )
    assert seen == [4, 5, 6]
    assert weight_bytes(folder) == weight_bytes(undisturbed)
    record, reference = finished_record(folder), finished_record(undisturbed)
    assert record is not None and reference is not None
    assert record.resumed_from == (4,)
    assert record.losses == reference.losses


def test_lora_job_ends_as_a_plain_checkpoint(tiny_base: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"method": "lora", "lora_rank": 4})
    folder = run_job(job_on(tiny_base, train=settings), tmp_path, threads=1)
    base, tuned = weights(tiny_base), weights(folder)
    assert base.keys() == tuned.keys()
    changed = [name for name in base if not torch.equal(base[name], tuned[name])]
    assert changed and all(name.endswith("_proj.weight") for name in changed)
    ranks = [int(torch.linalg.matrix_rank(tuned[n] - base[n], rtol=1e-3)) for n in changed]
    assert max(ranks) <= 4


def test_further_training_trains_what_fine_tunes_train(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    trained: dict[str, set[str]] = {}
    for method in ("full", "lora"):
        model = AutoModelForCausalLM.from_pretrained(tiny_base)
        before = {name: one.detach().clone() for name, one in model.named_parameters()}
        train = SETTINGS.model_copy(
            update={"method": method, "lora_rank": 4, "learning_rate": 1e-2}
        )
        items = job_on(tiny_base).items
        losses = [
            loss
            for _, loss in train_further(
                model, tokenizer, items, train=train, prompt="plain", seed=0
            )
        ]
        assert len(losses) == train.steps and losses[-1] < losses[0]
        after = {name.replace(".base_layer", ""): one for name, one in model.named_parameters()}
        assert before.keys() <= after.keys()
        trained[method] = {
            name
            for name, one in after.items()
            if name not in before or not torch.equal(one, before[name])
        }
    assert trained["full"] and not any("lora_" in name for name in trained["full"])
    assert trained["lora"] and all("lora_" in name for name in trained["lora"])


def test_all_parameters_are_trained_when_asked(tiny_base: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"trainable": "all", "steps": 3})
    folder = run_job(job_on(tiny_base, train=settings), tmp_path, threads=1)
    base, tuned = weights(tiny_base), weights(folder)
    assert not any(torch.equal(base[name], tuned[name]) for name in base)


def test_too_long_an_item_is_an_error_that_names_the_setting(
    tiny_base: Path, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"max_tokens": 8})
    with pytest.raises(ConfigError, match=r"at most 8 tokens \(train.max_tokens\), found one of"):
        run_job(job_on(tiny_base, train=settings), tmp_path, threads=1)


def test_diverging_job_is_an_error(tiny_base: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TVMergeError, match=r"finite loss at step \d, found"):
        run_job(job_on(tiny_base, train=settings), tmp_path, threads=1)


def test_job_that_runs_elsewhere_and_foreign_folder_are_errors(
    tiny_base: Path, tmp_path: Path
) -> None:
    job = job_on(tiny_base)

    def run_twice(report: StepReport) -> None:
        with pytest.raises(OutputError, match="another process is running this job"):
            run_job(job, tmp_path, threads=1)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run_job(job, tmp_path, report=run_twice, threads=1)
    (tmp_path / job.folder_name).mkdir()
    with pytest.raises(OutputError, match=r"folder without job.json"):
        run_job(job, tmp_path, threads=1)
