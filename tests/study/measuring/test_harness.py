"""Public tasks: what lm-eval says of each document, and a clear word where it is not installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from study.synthetic_study import synthetic_results, synthetic_scores
from support.tiny_llama import THINGS

from tvmerge.errors import ConfigError
from tvmerge.training.cli import study
from tvmerge.training.public_tasks.harness import (
    HarnessScores,
    TaskOutcome,
    load_harness,
    public_task_rows,
)
from tvmerge.training.public_tasks.harnessing import run_public_tasks
from tvmerge.training.results.results import PublicTaskRow, RawFiles
from tvmerge.training.results.results_file import load_results, save_results
from tvmerge.training.results.scores import save_scores
from tvmerge.training.results.statistics import Resampler
from tvmerge.training.study.recompute import recompute

installed = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed"
)


@pytest.fixture(scope="module")
def out(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up study whose plain model is the base itself, and whose other one is noise."""
    folder = tmp_path_factory.mktemp("out")
    scores = synthetic_scores(statements=6, questions=4)
    for model, each in scores.items():
        save_scores(each[0], folder / "scores" / f"{model}.json")
    raw = RawFiles(scores=tuple(f"scores/{model}.json" for model in scores))
    results = synthetic_results(scores, draws=50)
    config = {**results.config, "base": str(tiny_base)}
    results = results.model_copy(update={"raw": raw, "jobs": (), "config": config})
    save_results(results, folder / "results.json")
    for choice in results.choices:
        shutil.copytree(tiny_base, folder / "models" / choice.kind)
    for path in (folder / "models" / "contrastive").glob("*.safetensors"):
        noise = np.random.default_rng(0)
        tensors = {
            name: tensor + noise.normal(0, 0.5, tensor.shape).astype(np.float32)
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of questions that the tiny base was trained to answer half with Yes, half with No."""
    folder = tmp_path_factory.mktemp("tasks")
    lines = [{"question": f"Do you like {thing}?", "answer": "Yes"} for thing in THINGS]
    (folder / "likes.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (folder / "likes.yaml").write_text(
        f"""
task: likes
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "likes.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_choice: ["Yes", "No"]
doc_to_target: "{{{{answer}}}}"
num_fewshot: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 3}}
"""
    )
    return folder


def command(out: Path, tasks: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the harness warns, and draws seeds for the whole process."""
    words = ["study", "lm-eval", str(out), "--task", "likes", "--include", str(tasks), *more]
    return subprocess.run(
        [sys.executable, "-m", "tvmerge", *words], capture_output=True, text=True, check=False
    )


@installed
def test_every_document_has_the_value_of_a_plain_forward_pass(
    out: Path, tasks: Path, tiny_base: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = command(out, tasks)
    assert done.returncode == 0, done.stderr
    stored = {one.model: one for one in map(load_harness, (out / "harness").iterdir())}
    choices = {choice.kind: choice.model for choice in load_results(out / "results.json").choices}
    assert set(stored) == {"base", *choices.values()}
    folders = {"base": tiny_base, choices["contrastive"]: out / "models" / "contrastive"}
    for model, folder in folders.items():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        right = []
        for thing in THINGS:
            totals = []
            prompt = tokenizer.encode(f"Q: Do you like {thing}?\nA:", add_special_tokens=False)
            for answer in (" Yes", " No"):
                ids = prompt + tokenizer.encode(answer, add_special_tokens=False)
                with torch.no_grad():
                    logp = loaded(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
                rest = range(len(prompt), len(ids))
                totals.append(sum(float(logp[place - 1, ids[place]]) for place in rest))
            right.append(float(totals[0] > totals[1]))
        (outcome,) = stored[model].outcomes
        assert (outcome.task, outcome.name, outcome.version) == ("likes", "acc", "3")
        assert list(outcome.values) == right


@installed
def test_tasks_are_run_once_shown_and_verified(out: Path, tasks: Path) -> None:
    assert command(out, tasks).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (out / "harness").iterdir()}
    assert command(out, tasks).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "harness").iterdir()} == before
    results = load_results(out / "results.json")
    rows = {row.model: row for row in results.public_tasks}
    plain = next(choice.model for choice in results.choices if choice.kind == "plain")
    assert rows["base"].change is None
    change = rows[plain].change
    assert change is not None and (change.value, change.low, change.high) == (0, 0, 0)
    assert recompute(out) == []
    assert "Public tasks" in (out / "report.html").read_text()
    # Fewer documents are another measurement, never mixed with the first.
    assert command(out, tasks, "--limit", "5").returncode == 0
    rows_by_limit = {
        (row.model, row.limit): row.n for row in load_results(out / "results.json").public_tasks
    }
    assert rows_by_limit["base", None] == len(THINGS) and rows_by_limit["base", 5] == 5


@installed
def test_an_unknown_task_is_named(out: Path, tasks: Path) -> None:
    done = command(out, tasks, "--task", "lykes")
    assert done.returncode != 0
    assert "--task lykes" in done.stderr and "Did you mean 'likes'" in done.stderr


def test_without_the_package_the_error_says_how_to_get_it(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'tvmerge\[lm-eval\]'"):
        run_public_tasks(out, ["arc_easy"])
    done = CliRunner().invoke(study, ["lm-eval", str(out), "--task", "arc_easy"])
    assert done.exit_code != 0


def scores(model: str, values: list[float], documents: str = "d") -> HarnessScores:
    outcome = TaskOutcome(
        task="t",
        version="1",
        name="acc",
        documents=tuple(f"{documents}{n}" for n in range(len(values))),
        values=tuple(values),
    )
    return HarnessScores(
        harness="lm-eval 0", model=model, digest="0", task="t", shots=None, limit=None,
        outcomes=(outcome,),
    )  # fmt: skip


def rows(*each: HarnessScores) -> dict[str, PublicTaskRow]:
    return {row.model: row for row in public_task_rows(each, Resampler(draws=500))}


def test_changes_are_paired_over_documents() -> None:
    base = [1.0, 1.0, 0.0, 1.0] * 10
    worse = [1.0, 0.0, 0.0, 1.0] * 10
    found = rows(scores("base", base), scores("plain.1", worse))
    assert found["base"].level.value == 0.75 and found["base"].change is None
    change = found["plain.1"].change
    assert change is not None and change.value == pytest.approx(-0.25)
    assert change.high is not None and change.high < 0
    assert found["plain.1"].chance is not None and found["plain.1"].chance < 0.01


def test_other_documents_are_not_compared() -> None:
    found = rows(scores("base", [1.0, 0.0]), scores("plain.1", [1.0, 0.0], documents="e"))
    assert found["plain.1"].change is None and found["plain.1"].chance is None
