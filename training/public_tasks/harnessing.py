"""Runs public tasks of lm-eval on a study's base and chosen models, in memory and in float32.

    run_public_tasks(Path("out"), ["arc_easy"], limit=200)

lm-eval (EleutherAI's language model evaluation harness) gets its tasks' documents from the Hugging
Face hub, or from files that a folder of tasks of one's own names (`include`).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvmerge.checkpoints.hub import resolve
from tvmerge.errors import ConfigError, did_you_mean
from tvmerge.training.finetuning.jobs import base_fingerprint
from tvmerge.training.public_tasks.harness import (
    HarnessScores,
    TaskOutcome,
    harness_files,
    load_harness,
    public_task_rows,
)
from tvmerge.training.results.results import Results
from tvmerge.training.results.results_file import load_results, save_results
from tvmerge.training.results.scores import save_record
from tvmerge.training.results.statistics import Resampler
from tvmerge.training.settings.kinds import BASE

# Part of every key: raise it when the same task would give other values.
HARNESS_VERSION = 1
KEY_LETTERS = 12


def run_public_tasks(
    out: Path,
    tasks: Sequence[str],
    *,
    shots: int | None = None,
    limit: int | None = None,
    include: Path | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> Results:
    """Measure the base and the chosen models of the study in `out`; its results, with the tasks.

    What was measured before is not again. Raises ConfigError where lm_eval is not installed, a
    task is not known, or has no outcome that is a mean over documents.
    """
    harness = _Harness(include)
    harness.check(tasks)
    results = load_results(out / "results.json")
    folders = _models(results, out)
    for model, folder in folders.items():
        work = [
            _Work(
                model=model, digest=base_fingerprint(folder), task=task, shots=shots, limit=limit,
                harness=harness,
            )
            for task in tasks
        ]  # fmt: skip
        missing = [one for one in work if not one.path(out).is_file()]
        if missing:
            loaded = _loaded(folder, threads, device)
            for one in missing:
                save_record(one.run(loaded, threads), one.path(out))
    files = harness_files(out, folders)
    scores = [load_harness(path) for path in files]
    rows = public_task_rows(scores, Resampler(draws=results.draws))
    raw = results.raw.model_copy(
        update={"harness": tuple(path.relative_to(out).as_posix() for path in files)}
    )
    results = results.model_copy(update={"public_tasks": tuple(rows), "raw": raw})
    save_results(results, out / "results.json")
    return results


def _models(results: Results, out: Path) -> dict[str, Path]:
    """The folders of the base and of every kind's chosen model, by id."""
    found: dict[str, Path] = {BASE: resolve(str(results.config["base"])).resolve()}
    for choice in results.choices:
        found[choice.model] = out / "models" / choice.kind
        if not found[choice.model].is_dir():
            raise ConfigError(
                f"{found[choice.model]}: expected the chosen model, found nothing. Run the study "
                "again; only what is missing is done."
            )
    return found


def _loaded(folder: Path, threads: int, device: str) -> Any:
    """The model as the harness wants it."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from tvmerge.training.measuring.measure import load_model

    model = load_model(folder, threads, device)
    return HFLM(
        pretrained=model,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device=device,
        dtype=torch.float32,
    )


class _Harness:
    """lm_eval with the tasks that it knows."""

    def __init__(self, include: Path | None) -> None:
        try:
            import lm_eval
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise ConfigError(
                "public tasks: expected the package lm_eval, found it cannot be imported "
                f"({error}). Install it: pip install 'tvmerge[lm-eval]'"
            ) from error
        self.version = str(lm_eval.__version__)
        self.tasks = TaskManager(include_path=None if include is None else str(include))
        # The documents of one's own tasks lie where their YAML says: their content is not known.
        own = [] if include is None else sorted(p for p in include.rglob("*") if p.is_file())
        self.own = [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in own]

    def check(self, tasks: Sequence[str]) -> None:
        """ConfigError where the harness has no task of that name."""
        for name in tasks:
            if name not in self.tasks.all_tasks:
                raise ConfigError(
                    f"--task {name}: expected a task of lm-eval {self.version}, found none of that "
                    f"name.{did_you_mean(name, self.tasks.all_tasks)} `lm-eval ls tasks` lists "
                    "them; name a folder with tasks of your own by --include."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One model on one task."""

    model: str
    digest: str
    task: str
    shots: int | None
    limit: int | None
    harness: _Harness

    def path(self, out: Path) -> Path:
        """`harness/contrastive.1.arc_easy-0123456789ab.json`."""
        decides = [
            HARNESS_VERSION, self.harness.version, self.harness.own, self.digest, self.task,
            self.shots, self.limit,
        ]  # fmt: skip
        key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:KEY_LETTERS]
        return out / "harness" / f"{self.model}.{self.task.replace('/', '-')}-{key}.json"

    def run(self, loaded: Any, threads: int) -> HarnessScores:
        """Ask the model every document; keep what each gave."""
        from lm_eval import simple_evaluate

        from tvmerge.training.lm.torch_session import (
            no_progress_bars,
            own_randomness,
            torch_threads,
        )

        started = time.perf_counter()
        with torch_threads(threads), no_progress_bars(), own_randomness(0):
            found = simple_evaluate(
                model=loaded,
                tasks=[self.task],
                num_fewshot=self.shots,
                limit=self.limit,
                bootstrap_iters=0,
                task_manager=self.harness.tasks,
            )
        outcomes = tuple(_outcomes(found))
        if not outcomes:
            raise ConfigError(
                f"--task {self.task}: expected an outcome that is a mean over documents, as `acc`, "
                "found none. Perplexity is measured by the study itself."
            )
        return HarnessScores(
            harness=f"lm-eval {self.harness.version}",
            model=self.model,
            digest=self.digest,
            task=self.task,
            shots=self.shots,
            limit=self.limit,
            outcomes=outcomes,
            seconds=round(time.perf_counter() - started, 3),
        )


def _outcomes(found: Mapping[str, Any]) -> Iterator[TaskOutcome]:
    """The metrics of every task whose value, by the harness, is the mean of the documents'."""
    for task, samples in found["samples"].items():
        values: dict[str, list[float]] = defaultdict(list)
        documents: dict[str, list[str]] = defaultdict(list)
        for sample in samples:
            for metric in sample["metrics"]:
                if isinstance(sample[metric], (bool, int, float)):
                    name = f"{metric},{sample['filter']}"
                    values[name].append(float(sample[metric]))
                    documents[name].append(sample["doc_hash"])
        for name, each in values.items():
            told = found["results"][task].get(name)
            if isinstance(told, (int, float)) and math.isclose(
                told, math.fsum(each) / len(each), rel_tol=1e-6, abs_tol=1e-9
            ):
                yield TaskOutcome(
                    task=task,
                    version=str(found["versions"].get(task, "")),
                    name=name.removesuffix(",none"),
                    documents=tuple(documents[name]),
                    values=tuple(each),
                )
