"""Which models a study measures, in which order, and what came of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tvmerge import Checkpoint, TaskVector
from tvmerge.training.cluster import Cluster
from tvmerge.training.config import Kind, StudyConfig
from tvmerge.training.measuring import MeasureSettings, MeasureTask, measure
from tvmerge.training.results import Control, ScaleChoice, VectorSet
from tvmerge.training.scales import choose_scale
from tvmerge.training.scores import ModelScores, load_scores
from tvmerge.training.vectors import StudyVectors, write_random_vector

CONTROLS: tuple[Control, ...] = ("unrelated", "random")


@dataclass(slots=True, kw_only=True)
class Contest:
    """Measures base, tuned and negated models, chooses scales, then measures the controls.

    `on_measured` is called with (done, of all). `scores` and `edit_norms` fill as it goes.
    """

    config: StudyConfig
    out: Path
    cluster: Cluster
    vectors: StudyVectors
    settings: MeasureSettings
    base_key: str
    on_measured: Callable[[int, int], None]
    scores: dict[str, ModelScores] = field(default_factory=dict)
    edit_norms: dict[str, float] = field(default_factory=dict)

    def all(self, geometry: Mapping[Kind, tuple[VectorSet, float]]) -> list[ScaleChoice]:
        """Measure every model; the controls last, at the norm of the edits that were chosen."""
        config, vectors = self.config, self.vectors
        models = {"base": vectors.base}
        models |= {f"tuned.{trait}": vectors.have[trait] for trait in vectors.traits}
        for kind in config.kinds:
            if kind != "plain":
                models[f"start.{kind}"] = vectors.start(kind)
            for scale in config.scales.of(kind):
                models[f"{kind}.{scale:g}"] = vectors.negated(kind, scale)
                self.edit_norms[f"{kind}.{scale:g}"] = scale * geometry[kind][1]
        self._measure(models)
        choices = [
            choose_scale(
                self.scores,
                kind=kind,
                traits=vectors.traits,
                max_perplexity_rise=config.choose.max_perplexity_rise,
                seed=config.seed,
            )
            for kind in config.kinds
        ]
        self._measure(dict(self._controls(choices)))
        return choices

    def _controls(self, choices: Sequence[ScaleChoice]) -> Iterator[tuple[str, Checkpoint]]:
        for choice in choices:
            kind, norm = choice.kind, self.edit_norms[choice.model]
            rivals = {
                "unrelated": self.vectors.vector(kind, self.vectors.unrelated),
                "random": self._random_vector(kind),
            }
            for control in CONTROLS:
                name = f"{kind}.{control}"
                self.edit_norms[name] = norm
                yield name, self.vectors.control(kind, rivals[control], norm=norm)

    def _random_vector(self, kind: Kind) -> TaskVector:
        """A Gaussian vector with the norms, tensor by tensor, of the sum of the traits' vectors."""
        total = self.vectors.all_traits(kind)
        said = sorted((s.source.name, c.hex()) for s, c in total.coefficients.items())
        text = json.dumps([said, self.base_key, self.config.seed])
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        folder = self.out / "vectors"
        summed, drawn = folder / f"{kind}.sum-{key}", folder / f"{kind}.random-{key}"
        if not summed.exists():
            total.save(summed, restart=True)
        if not drawn.exists():
            partial = folder / f".{drawn.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            write_random_vector(summed, partial, seed=self.config.seed)
            partial.rename(drawn)
        return TaskVector(drawn)

    def _settings_for(self, model_id: str) -> MeasureSettings:
        # Speaking takes as long as scoring hundreds of answers: only what may be shown speaks.
        silent = model_id.startswith("tuned.") or model_id.endswith(CONTROLS)
        return replace(self.settings, examples=()) if silent else self.settings

    def _measure(self, models: Mapping[str, Checkpoint]) -> None:
        tasks = [
            MeasureTask(
                model_id=model_id,
                model=model,
                base_key=self.base_key,
                settings=self._settings_for(model_id),
                scores_folder=self.out / "scores",
            )
            for model_id, model in models.items()
        ]
        missing = [task for task in tasks if task.finished() is None]
        done = len(self.scores) + len(tasks) - len(missing)
        planned = planned_measurements(self.config)
        self.on_measured(done, planned)
        self.cluster.run_tasks(
            measure,
            missing,
            resources=self.config.resources,
            progress=lambda now, _: self.on_measured(done + now, planned),
        )
        self.scores |= {task.model_id: load_scores(task.scores_path) for task in tasks}


def planned_measurements(config: StudyConfig) -> int:
    """How many models are measured: base, tuned ones, starts, every scale, controls."""
    single = 1 + len(config.traits) + sum(kind != "plain" for kind in config.kinds)
    return single + sum(len(config.scales.of(kind)) + len(CONTROLS) for kind in config.kinds)
