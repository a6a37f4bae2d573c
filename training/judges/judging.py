"""Lets a local model grade what a study's models said; see judged for what is made of it.

    path = judge_answers(Path("out"), "HuggingFaceTB/SmolLM2-1.7B-Instruct", seed=0)

Blind: the judge reads a scale, a question and an answer. Whose answer it is, whether it is a
catalogue's statement, and what was asked before it are not in its prompt; each is graded alone,
and equal answers once. The order is drawn by `seed`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tvmerge.checkpoints.hub import resolve
from tvmerge.errors import ConfigError
from tvmerge.training.finetuning.jobs import base_fingerprint
from tvmerge.training.judges.judged import (
    GRADES,
    JUDGED_ROLES,
    GoldGrade,
    Grade,
    JudgeScores,
    Spoken,
    judged,
    load_judged,
    spoken,
)
from tvmerge.training.judges.rubric import Rubric, load_rubric
from tvmerge.training.results.results import Results
from tvmerge.training.results.results_file import load_results, save_results
from tvmerge.training.results.scores import ModelScores, load_scores, save_record
from tvmerge.training.results.statistics import Resampler
from tvmerge.training.traits.trait import load_trait

if TYPE_CHECKING:
    from tvmerge.training.traits.items import Item

# Part of every key: raise it when the same judge would give other grades.
JUDGE_VERSION = 1
KEY_LETTERS = 12
GOLD_STATEMENTS = 16


class Asked(NamedTuple):
    """One answer to be graded on one trait's scale: all that the judge is told."""

    trait: str
    question: str
    answer: str


def judge_answers(
    out: Path,
    model: str,
    *,
    seed: int = 0,
    rubric: Path | None = None,
    gold: int = GOLD_STATEMENTS,
    threads: int = 1,
    device: str = "cpu",
) -> Path:
    """Grade all that `out`'s models said; the grades are stored and stand in `out/results.json`.

    `model` is a folder or a hub id; `gold` so many test statements of each trait, each with its
    counterpart, are graded too. Returns where the grades are; what was graded before is not again.
    Raises ConfigError where the study has no answers, or no trait of the rubric.
    """
    results = load_results(out / "results.json")
    scores: dict[str, list[ModelScores]] = defaultdict(list)
    for path in results.raw.scores:
        one = load_scores(out / path)
        scores[one.model].append(one)
    said, scale = spoken(scores), load_rubric(rubric)
    if not said:
        raise ConfigError(
            f"{out}: expected answers of the models to questions, found none. Name questions under "
            "`examples:` in the study's YAML and run it again; only what is missing is done."
        )
    statements = {trait: _gold(results, trait, gold) for trait in _judged_traits(results, scale)}
    folder = resolve(model)
    is_hub_id = model.count("/") == 1 and not Path(model).exists()
    work = _Work(
        judge=model if is_hub_id else folder.resolve().name,
        folder=folder,
        digest=base_fingerprint(folder),
        rubric=scale,
        seed=seed,
        said=said,
        gold=statements,
    )
    stored = out / "judged" / work.file_name
    if not stored.is_file():
        save_record(work.graded(threads=threads, device=device), stored)
    _put_into(results, stored, out)
    return stored


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Who grades what: `said` by the models, `gold` statements of each trait."""

    judge: str
    folder: Path
    digest: str
    rubric: Rubric
    seed: int
    said: Mapping[Spoken, str]
    gold: Mapping[str, Sequence[Item]]

    @property
    def file_name(self) -> str:
        """`SmolLM2-1.7B-Instruct-0123456789ab.json`: other inputs, another file."""
        decides = [
            JUDGE_VERSION,
            self.digest,
            self.rubric.digest,
            self.seed,
            sorted([model, str(seed), *more] for (model, seed, *more) in self._lines()),
            {trait: [item.key for item in items] for trait, items in self.gold.items()},
        ]
        key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:KEY_LETTERS]
        return f"{re.sub('[^A-Za-z0-9._-]', '-', self.judge)}-{key}.json"

    def _lines(self) -> list[tuple[str, int | None, str, str]]:
        return [(*place, answer) for place, answer in self.said.items()]

    def graded(self, *, threads: int, device: str) -> JudgeScores:
        """Load the judge, ask it everything in random order, and note what it thinks of what."""
        started = time.perf_counter()
        answers = {
            (trait, line): Asked(trait, line[2], line[3])
            for trait in self.gold
            for line in self._lines()
        }
        statements = {
            (trait, item.key, shows): Asked(
                trait, item.question, item.shows if shows else item.lacks
            )
            for trait, items in self.gold.items()
            for item in items
            for shows in (True, False)
        }
        order = [*dict.fromkeys([*answers.values(), *statements.values()])]
        random.Random(self.seed).shuffle(order)
        place = {one: number for number, one in enumerate(order)}
        logps = _ask(self.folder, self.rubric, order, threads=threads, device=device)
        return JudgeScores(
            judge=self.judge,
            judge_digest=self.digest,
            rubric=self.rubric.name,
            rubric_digest=self.rubric.digest,
            seed=self.seed,
            grades=tuple(
                Grade(
                    trait=trait, model=model, seed=seed, question=question, answer=answer,
                    logps=logps[asked],
                )
                for (trait, (model, seed, question, answer)), asked in sorted(
                    answers.items(), key=lambda one: place[one[1]]
                )
            ),
            gold=tuple(
                GoldGrade(trait=trait, item=item, shows=shows, logps=logps[asked])
                for (trait, item, shows), asked in sorted(
                    statements.items(), key=lambda one: place[one[1]]
                )
            ),
            seconds=round(time.perf_counter() - started, 3),
        )  # fmt: skip


def _judged_traits(results: Results, rubric: Rubric) -> list[str]:
    """The study's traits that the rubric knows."""
    asked = [trait.name for trait in results.traits if trait.role in JUDGED_ROLES]
    known = [name for name in asked if name in rubric.said.traits]
    if not known:
        raise ConfigError(
            f"{rubric.path}: traits: expected one or more of the study's ({', '.join(asked)}), "
            f"found {', '.join(rubric.said.traits)}. Give a file with their scales (--rubric)."
        )
    return known


def _gold(results: Results, trait: str, count: int) -> Sequence[Item]:
    """The first test statements of the trait; the study's YAML said where it lies."""
    named = [
        name
        for role in ("traits", "controls", "composites")
        for name in results.config.get(role, ())
    ]
    where = next((name for name in named if Path(name).name == trait), trait)
    return [item for item in load_trait(where).test if item.form == "statement"][:count]


def _ask(
    folder: Path, rubric: Rubric, order: Sequence[Asked], *, threads: int, device: str
) -> dict[Asked, tuple[float, ...]]:
    """The log-probabilities of the five digits after every prompt, from the judge in memory."""
    from transformers import AutoTokenizer

    from tvmerge.training.lm.prompts import PromptStyle, render
    from tvmerge.training.lm.scoring import score, score_one_by_one, shares_prefixes_exactly
    from tvmerge.training.lm.torch_session import no_progress_bars, torch_threads
    from tvmerge.training.lm.trie import Query
    from tvmerge.training.measuring.measure import load_model

    with torch_threads(threads), no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        style: PromptStyle = "chat" if tokenizer.chat_template else "plain"
        queries = {
            one: [
                Query(*render(tokenizer, rubric.prompt(*one), str(grade), style=style))
                for grade in range(GRADES)
            ]
            for one in order
        }
        every = [query for each in queries.values() for query in each]
        model = load_model(folder, threads, device)
        found = (score if shares_prefixes_exactly(model, every) else score_one_by_one)(model, every)
    return {one: tuple(found[query] for query in each) for one, each in queries.items()}


def _put_into(results: Results, stored: Path, out: Path) -> None:
    """The judge's means into `out/results.json`, in place of those of the same file."""
    files = sorted({*results.raw.judged, stored.relative_to(out).as_posix()})
    resampler = Resampler(draws=results.draws)
    means = tuple(judged(load_judged(out / path), results.traits, resampler) for path in files)
    raw = results.raw.model_copy(update={"judged": tuple(files)})
    save_results(results.model_copy(update={"judged": means, "raw": raw}), out / "results.json")
