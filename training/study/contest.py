"""Which models a study measures, in which order, and what came of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tvmerge import Checkpoint, TaskVector
from tvmerge.training.cluster.calls import Call
from tvmerge.training.measuring.measurement import MeasureSettings, MeasureTask, measure
from tvmerge.training.results.measured_model import CONTROLS, TOGETHER, MeasuredModel, together_id
from tvmerge.training.results.results import ScaleChoice
from tvmerge.training.results.scales import choose_scale
from tvmerge.training.results.scores import ModelScores, load_scores
from tvmerge.training.settings.config import StudyConfig
from tvmerge.training.settings.kinds import BASE, Kind, start_of
from tvmerge.training.study.random_vector import random_vector
from tvmerge.training.study.vectors import (
    StudyVectors,
    inputs_key,
    norm_of,
)

# A model for each seed; one where no seed decides it.
Models = dict[str, list[Checkpoint]]


@dataclass(slots=True, kw_only=True)
class Contest:
    """What is measured: base, tuned and negated models; then what depends on the chosen scales.

    `on_measured` is told (done, of all). `scores`, the files that they are in, and `edit_norms`
    fill as it goes.
    """

    config: StudyConfig
    out: Path
    settings: MeasureSettings
    base_key: str
    on_measured: Callable[[int, int], None]
    scores: dict[str, list[ModelScores]] = field(default_factory=dict)
    score_files: list[Path] = field(default_factory=list)
    edit_norms: dict[str, float] = field(default_factory=dict)
    _measured: set[Path] = field(default_factory=set)

    def of_base(self, base: Checkpoint) -> list[Call]:
        """What can be measured before anything is trained."""
        return self._calls([self._task(BASE, None, base)])

    def of_seed(self, vectors: StudyVectors, seed: int) -> list[Call]:
        """What can be measured once all fine-tunes of a seed are there."""
        models = self._candidates(vectors)
        return self._calls([self._task(name, seed, model) for name, model in models.items()])

    def candidates(self, each: Sequence[StudyVectors]) -> Models:
        """All that no choice decides, with the vectors of each seed."""
        for kind in self.config.kinds:
            norm = sum(norm_of(one.removed(kind)) for one in each) / len(each)
            for scale in self.config.scales.of(kind):
                self.edit_norms[f"{kind}.{scale:g}"] = scale * norm
        held = [self._candidates(one) for one in each]
        return {BASE: [each[0].base], **{name: [one[name] for one in held] for name in held[0]}}

    def choose(self, traits: Sequence[str]) -> list[ScaleChoice]:
        """The scale of every kind, by the candidates' scores."""
        return [
            choose_scale(
                self.scores,
                kind=kind,
                traits=traits,
                max_perplexity_rise=self.config.choose.max_perplexity_rise,
            )
            for kind in self.config.kinds
        ]

    def _candidates(self, one: StudyVectors) -> dict[str, Checkpoint]:
        """A seed's tuned models, starts, every scale, the traits together."""
        models = {f"tuned.{trait}": one.have[trait] for trait in one.traits}
        for kind in self.config.kinds:
            if start_of(kind) != BASE:
                models[start_of(kind)] = one.start(kind)
            if kind == "searched" and not one.searched:
                continue  # it is not there yet
            for scale in self.config.scales.of(kind):
                models[f"{kind}.{scale:g}"] = one.negated(kind, scale)
        for traits in _groups_together(self.config, one.traits):
            name = TOGETHER if len(traits) == len(one.traits) else together_id(traits)
            models[name] = one.together(traits)
        return models

    def checks(self, choices: Sequence[ScaleChoice], each: Sequence[StudyVectors]) -> Models:
        """The controls, and each trait alone and left out, at the chosen scales."""
        models: Models = {}
        for choice in choices:
            kind, norm = choice.kind, self.edit_norms[choice.model]
            for control in CONTROLS:
                name = f"{kind}.{control}"
                self.edit_norms[name] = norm
                models[name] = [
                    one.control(
                        kind,
                        one.unrelated_vector(kind)
                        if control == "unrelated"
                        else self._random_vector(kind, one, seed),
                        norm=norm,
                    )
                    for one, seed in zip(each, self.config.seeds, strict=True)
                ]
            for prefix, traits, name in _parts_of(self.config, kind, each[0].traits):
                models[f"{kind}.{prefix}-{name}"] = [
                    one.negated(kind, choice.scale, traits) for one in each
                ]
        return models

    def _random_vector(self, kind: Kind, vectors: StudyVectors, seed: int) -> TaskVector:
        """A Gaussian vector with the norms, tensor by tensor, of what the kind removes."""
        total = vectors.removed(kind)
        key = inputs_key([total], self.base_key, seed)
        out = self.out / "vectors" / f"{kind}.random-{key}"
        return random_vector(total, out, seed=seed)

    def _settings_for(self, model: MeasuredModel) -> MeasureSettings:
        """What a model is asked: development items only where a scale is chosen by them."""
        settings = self.settings
        if model.role not in ("base", "start", "negated"):
            # Speaking takes as long as scoring hundreds of answers: only what is shown speaks.
            settings = replace(settings, parts=("test",), examples=())
            settings = settings.only({"trait", "control", "unrelated", "composite", "capability"})
        if model.role == "together" and model.id != TOGETHER and "composite" in settings.roles:
            # Pairs are many, and only asked whether two aspects add up.
            settings = settings.only({"composite"})
        return settings

    def _task(self, name: str, seed: int | None, model: Checkpoint) -> MeasureTask:
        return MeasureTask(
            model_id=name,
            seed=seed if len(self.config.seeds) > 1 else None,
            model=model,
            base_key=self.base_key,
            settings=self._settings_for(MeasuredModel.from_id(name)),
            scores_folder=self.out / "scores",
        )

    def tasks(self, models: Models) -> dict[str, list[MeasureTask]]:
        """A task for each seed of every model."""
        return {
            name: [
                self._task(name, None if name == BASE else seed, model)
                for seed, model in zip(self.config.seeds, each, strict=False)
            ]
            for name, each in models.items()
        }

    def calls(self, tasks: Mapping[str, Sequence[MeasureTask]]) -> list[Call]:
        """What of the tasks is left to do."""
        return self._calls([task for each in tasks.values() for task in each])

    def load(self, tasks: Mapping[str, Sequence[MeasureTask]]) -> None:
        """Take in what the finished tasks found."""
        for name, each in tasks.items():
            self.scores[name] = [load_scores(task.scores_path) for task in each]
            self.score_files += [task.scores_path for task in each]

    def _calls(self, tasks: Sequence[MeasureTask]) -> list[Call]:
        planned, known = planned_measurements(self.config), len(self._measured)
        calls = []
        for task in tasks:
            if task.finished() is not None:
                self._measured.add(task.scores_path)
            else:
                calls.append(Call(measure, task, partial(self._tell, task.scores_path, planned)))
        if len(self._measured) > known:  # an earlier run has done some
            self.on_measured(len(self._measured), planned)
        return calls

    def _tell(self, path: Path, planned: int) -> None:
        self._measured.add(path)
        self.on_measured(len(self._measured), planned)


def planned_measurements(config: StudyConfig) -> int:
    """How many models are measured: the base, and for each seed all others."""
    names = [Path(trait).name for trait in config.traits]
    starts = {start_of(kind) for kind in config.kinds} - {BASE}
    of_kinds = sum(
        len(config.scales.of(kind)) + len(CONTROLS) + len([*_parts_of(config, kind, names)])
        for kind in config.kinds
    )
    together = len([*_groups_together(config, names)])
    return 1 + len(config.seeds) * (len(names) + len(starts) + of_kinds + together)


def _parts_of(
    config: StudyConfig, kind: Kind, traits: Sequence[str]
) -> Iterator[tuple[str, list[str], str]]:
    """(prefix of the id, traits that are removed, the trait it is about)."""
    if not config.checks.one_by_one(kind) or len(traits) < 2:
        return
    for trait in traits:
        yield "only", [trait], trait
        # Of two traits, all but one is the other alone.
        if len(traits) > 2:
            yield "without", [other for other in traits if other != trait], trait


def _groups_together(config: StudyConfig, traits: Sequence[str]) -> Iterator[Sequence[str]]:
    if config.checks.together and len(traits) > 1:
        yield traits
        if config.checks.pairs and len(traits) > 2:
            yield from itertools.combinations(traits, 2)
