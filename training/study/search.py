"""Searches a scale for each trait's vector under constraints, in memory, on development items.

    weights = search(SearchTask(start=..., vectors=..., ...))

The model is filled once and re-scaled in place by the engine; no candidate is written. Minimised is
the mean change of the traits; wanted are (Optuna's TPE with constraints; Watanabe 2023, c-TPE):

    perplexity      up by no more than the study's limit
    controls        each control trait's change within +- max_control_change
    mass            the probability on valid answers not below half of the start's
    bias            the Yes-bias moved by no more than max_bias_shift nats
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tvmerge import Checkpoint, TaskVector
from tvmerge.training.measuring.measurement import MeasureSettings
from tvmerge.training.results.outcomes import item_outcomes, primary_of
from tvmerge.training.results.results import Outcome
from tvmerge.training.results.scores import Record, load_record, save_record
from tvmerge.training.results.statistics import Resampler
from tvmerge.training.settings.kind_sections import SearchConfig

if TYPE_CHECKING:
    from optuna import Trial

    from tvmerge.torch import ScaledModel

# Part of every key: raise it when the same task would find other scales.
SEARCH_VERSION = 1
KEY_LETTERS = 12
LEAST_MASS = 0.5
# No vector is left out altogether: what all of them do at once is the question.
LEAST_SHARE = 0.05
VALUES_ONLY = Resampler(draws=1)


class Looked(Record):
    """One candidate: its scales, what it did, and how far it breaks each constraint (<= 0: not)."""

    scales: dict[str, float]
    change: float
    broken: dict[str, float]

    @property
    def allowed(self) -> bool:
        """Whether no constraint is broken."""
        return all(value <= 0 for value in self.broken.values())


class Found(Record):
    """The scales that were found, and every candidate; not `allowed` where none kept within."""

    version: Literal[1] = 1
    scales: dict[str, float]
    allowed: bool
    candidates: tuple[Looked, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTask:
    """Search scales of `vectors`, which are subtracted from `start`."""

    start: Checkpoint
    vectors: Mapping[str, TaskVector]
    base_key: str
    settings: MeasureSettings
    search: SearchConfig
    max_perplexity_rise: float
    seed: int
    folder: Path

    @property
    def path(self) -> Path:
        """`search/searched-0123456789ab.json`."""
        said = {
            "version": SEARCH_VERSION,
            "base": self.base_key,
            "start": _said(self.start),
            "vectors": {name: _said(vector) for name, vector in self.vectors.items()},
            "settings": self.settings.digest(),
            "search": self.search.model_dump(mode="json"),
            "limit": self.max_perplexity_rise,
            "seed": self.seed,
        }
        key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:KEY_LETTERS]
        return self.folder / f"searched-{key}.json"

    def finished(self) -> Found | None:
        """The scales, where they were searched before."""
        return load_found(self.path) if self.path.is_file() else None


def load_found(path: Path) -> Found:
    """Read what one search wrote; a file that is not that raises `FormatError`."""
    return load_record(path, Found, "of searched scales")


@dataclass(frozen=True, slots=True)
class _Levels:
    """What one model is on development items."""

    traits: Mapping[str, float]
    controls: Mapping[str, float]
    mass: float
    bias: float
    nll: float


def search(task: SearchTask) -> Path:
    """Search and store; returns where the scales are. Runs in a worker of its own."""
    import optuna

    from tvmerge.torch import ScaledModel
    from tvmerge.training.lm.torch_session import no_progress_bars, torch_threads
    from tvmerge.training.measuring.measure import load_model

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with torch_threads(task.settings.threads), no_progress_bars():
        model = load_model(task.start, task.settings.threads, task.settings.device)
        scaled = ScaledModel(model, task.vectors)
        look = _Look(task, scaled)
        start = look.levels()
        candidates: list[Looked] = []

        def try_scales(trial: Trial) -> float:
            scales = {
                name: trial.suggest_float(
                    name, LEAST_SHARE * task.search.max_scale, task.search.max_scale
                )
                for name in task.vectors
            }
            scaled.set({name: -scale for name, scale in scales.items()})
            looked = _looked(task, scales, start, look.levels())
            candidates.append(looked)
            trial.set_user_attr("broken", list(looked.broken.values()))
            return looked.change

        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(
                seed=task.seed,
                n_startup_trials=max(4, task.search.trials // 4),
                multivariate=True,
                constraints_func=lambda trial: trial.user_attrs["broken"],
            )
        )
        # One scale for all is what the grid tries: the search begins there.
        for share in (0.25, 0.5):
            study.enqueue_trial(dict.fromkeys(task.vectors, share * task.search.max_scale))
        study.optimize(try_scales, n_trials=task.search.trials)
    save_record(best_of(candidates), task.path)
    return task.path


def best_of(candidates: Sequence[Looked]) -> Found:
    """The lowest change within all constraints; else what breaks them least."""
    within = [one for one in candidates if one.allowed]
    best = (
        min(within, key=lambda one: one.change)
        if within
        else min(candidates, key=lambda one: max(one.broken.values()))
    )
    return Found(scales=best.scales, allowed=bool(within), candidates=tuple(candidates))


@dataclass(frozen=True, slots=True)
class _Look:
    task: SearchTask
    scaled: ScaledModel

    def levels(self) -> _Levels:
        """The model as it is now, on the development items and the text that limits."""
        from transformers import AutoTokenizer

        from tvmerge.training.measuring.measure import score_items, text_perplexity

        task, settings = self.task, self.task.settings
        tokenizer = AutoTokenizer.from_pretrained(task.start.donor.folder)
        model: Any = self.scaled.model
        scores, _ = score_items(
            model, tokenizer, settings.traits, style=settings.prompt, parts=("dev",)
        )
        outcomes = {
            name: item_outcomes(parts["dev"], key=name, resampler=VALUES_ONLY)
            for name, parts in scores.items()
        }
        outcome = primary_of([found.keys() for found in outcomes.values()])
        roles = dict(zip((t.name for t in settings.traits), settings.roles, strict=True))
        text = text_perplexity(model, tokenizer, settings)

        def of(role: str, outcome: Outcome) -> dict[str, float]:
            return {
                name: found[outcome].value
                for name, found in outcomes.items()
                if roles[name] == role and outcome in found
            }

        masses, biases = of("trait", "valid_mass"), of("trait", "yes_bias")
        return _Levels(
            traits=of("trait", outcome),
            controls=of("control", outcome),
            mass=_mean(masses.values()),
            bias=_mean(biases.values()),
            nll=text,
        )


def _looked(task: SearchTask, scales: Mapping[str, float], start: _Levels, now: _Levels) -> Looked:
    limits = task.search
    moved = [abs(now.controls[name] - start.controls[name]) for name in start.controls]
    return Looked(
        scales=dict(scales),
        change=_mean([now.traits[name] - start.traits[name] for name in start.traits]),
        broken={
            "perplexity": math.expm1(now.nll - start.nll) - task.max_perplexity_rise,
            "controls": max(moved, default=0.0) - limits.max_control_change,
            "mass": LEAST_MASS * start.mass - now.mass,
            "bias": abs(now.bias - start.bias) - limits.max_bias_shift,
        },
    )


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _said(expression: Checkpoint | TaskVector) -> list[tuple[str, str]]:
    return sorted((s.source.name, c.hex()) for s, c in expression.coefficients.items())
