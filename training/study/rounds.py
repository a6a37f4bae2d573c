"""Rounds: the negated model of one is the base of the next, trained on in between.

    ledger = run_rounds(load_study("study.yaml"), Path("out"), cluster=cluster)

    out/round-1/            a whole study: jobs, scores, models, results.json, report.html
    out/trained-on/         the chosen models after training on
    out/ledger.json         what each round came to

Every round is resumed as a study is. To branch off, name a round's model as the base of another
study (`base: out/round-2/models/contrastive`); `tvmerge study compare` sets any two side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tvmerge import Checkpoint, cosines, gram
from tvmerge.checkpoints.hub import resolve
from tvmerge.errors import FormatError
from tvmerge.training.cluster.cluster import Cluster
from tvmerge.training.cluster.listener import Listener
from tvmerge.training.finetuning.jobs import FinetuneJob, base_fingerprint
from tvmerge.training.measuring.measurement import MeasureTask, measure
from tvmerge.training.results.outcomes import ScoreTable
from tvmerge.training.results.results import Level, Results, Round
from tvmerge.training.results.results_file import save_results
from tvmerge.training.results.scores import Record, load_scores, save_record
from tvmerge.training.results.statistics import Estimate
from tvmerge.training.settings.config import StudyConfig
from tvmerge.training.settings.kinds import BASE
from tvmerge.training.settings.sections import TrainOnConfig
from tvmerge.training.study.preparing import (
    StudyTraits,
    measure_settings,
    study_jobs,
    study_traits,
    study_vectors,
)
from tvmerge.training.study.study import run_study
from tvmerge.training.study.vectors import StudyVectors, norm_of
from tvmerge.training.traits.item_files import read_json_lines, text_field
from tvmerge.training.traits.items import Item

# Paragraphs are put together to texts of at least this many letters.
TEXT_LETTERS = 400


class Ledger(Record):
    """Every round in order, and the levels of the model that is left at the end."""

    name: str
    rounds: tuple[Round, ...] = ()
    left: tuple[Level, ...] = ()


def run_rounds(
    config: StudyConfig,
    out: Path,
    *,
    cluster: Cluster,
    listener: Listener | None = None,
    on_round: Callable[[int, Results], object] = lambda number, results: None,
) -> Ledger:
    """Run what of the rounds is not done yet; `out/ledger.json` grows with each.

    `on_round` is told each round's number and results. Raises what run_study raises.
    """
    out = out.resolve()
    ledger = Ledger(name=config.name)
    previous: StudyVectors | None = None
    settings = config.rounds
    kind = settings.kind or config.kinds[-1]
    for number in range(1, settings.count + 1):
        folder = out / f"round-{number}"
        results = run_study(config, folder, cluster=cluster, listener=listener)
        vectors = _vectors(config, folder)
        choice = next(choice for choice in results.choices if choice.kind == kind)
        left = _train_on(config, folder / "models" / kind, out / "trained-on", cluster)
        ledger = ledger.model_copy(
            update={
                "rounds": (
                    *ledger.rounds,
                    Round(
                        number=number,
                        base=config.base,
                        model=str(left),
                        kind=kind,
                        scale=choice.scale,
                        trained_on_steps=settings.train_on.steps,
                        before=_levels(results, BASE),
                        after=_levels(results, choice.model),
                        norms=_norms(vectors),
                        cosines_to_last={} if previous is None else _turned(vectors, previous),
                    ),
                ),
            }
        )
        save_record(ledger, out / "ledger.json")
        results = results.model_copy(update={"rounds": ledger.rounds})
        save_results(results, folder / "results.json")
        on_round(number, results)
        config = config.model_copy(update={"base": str(left)})
        previous = vectors
    last = _levels_alone(config, out, cluster, results)
    ledger = ledger.model_copy(update={"left": last})
    save_record(ledger, out / "ledger.json")
    return ledger


def _vectors(config: StudyConfig, folder: Path) -> StudyVectors:
    base, traits = resolve(config.base).resolve(), study_traits(config)
    return study_vectors(config, base, study_jobs(config, base, traits), traits, out=folder)[0]


def _levels(results: Results, model: str) -> tuple[Level, ...]:
    """The primary outcome of a model on every trait's test items, and its perplexity."""
    rows = [
        Level(what=row.trait, value=row.value, low=row.low, high=row.high)
        for row in results.rows
        if row.model == model and row.part == "test" and row.outcome == results.primary_outcome
    ]
    costs = [
        Level(what="perplexity", value=row.value, low=row.low, high=row.high)
        for row in results.perplexity
        if row.model == model and row.text == "limit"
    ]
    return (*rows, *costs)


def _norms(vectors: StudyVectors) -> dict[str, float]:
    """The norms of the traits' contrastive vectors."""
    return {trait: norm_of(vectors.vector("contrastive", trait)) for trait in vectors.traits}


def _turned(now: StudyVectors, before: StudyVectors) -> dict[str, float]:
    """The cosine of each trait's contrastive vector with that of the last round."""
    found = {}
    for trait in now.traits:
        pair = [one.vector("contrastive", trait) for one in (now, before)]
        found[trait] = cosines(gram(pair))[0][1]
    return found


def _train_on(config: StudyConfig, model: Path, out: Path, cluster: Cluster) -> Path:
    """The model after training on, or as it is where there is nothing to train on."""
    settings = config.rounds.train_on
    if not settings.steps:
        return model
    job = FinetuneJob(
        trait="train-on",
        pole="have",
        objective="text" if settings.text else "likelihood",
        items=_lessons(settings),
        base=model,
        train=config.train.lasting(settings.steps).model_copy(
            update={"learning_rate": settings.learning_rate or config.train.learning_rate}
        ),
        prompt=config.prompt,
        seed=config.seeds[0],
    )
    return cluster.run_jobs([job], out, resources=config.resources)[0]


def _lessons(settings: TrainOnConfig) -> tuple[Item, ...]:
    if settings.instructions is not None:
        return tuple(
            Item(
                form="statement",
                question=text_field(raw, "question", place),
                shows=text_field(raw, "answer", place),
                lacks="",
            )
            for raw, place in read_json_lines(settings.instructions)
        )
    assert settings.text is not None
    texts = [""]
    for paragraph in settings.text.read_text(encoding="utf-8").split("\n\n"):
        if len(texts[-1]) >= TEXT_LETTERS:
            texts.append("")
        texts[-1] = f"{texts[-1]}\n\n{paragraph.strip()}".strip()
    found = tuple(Item("statement", "", text, "") for text in texts if text)
    if not found:
        raise FormatError(f"{settings.text}: expected a text to train on, found an empty file.")
    return found


def _levels_alone(
    config: StudyConfig, out: Path, cluster: Cluster, last: Results
) -> tuple[Level, ...]:
    """The levels of the model that is left, which no study measured."""
    traits: StudyTraits = study_traits(config)
    model = Path(config.base)
    task = MeasureTask(
        model_id=BASE,
        model=Checkpoint(model),
        base_key=base_fingerprint(model),
        settings=measure_settings(config, traits),
        scores_folder=out / "scores",
    )
    if task.finished() is None:
        cluster.run_tasks(measure, [task], resources=config.resources)
    table = ScoreTable({BASE: [load_scores(task.scores_path)]})
    found = []
    for trait, _ in traits:
        estimate = table.estimates(BASE, trait.name, "test").get(last.primary_outcome)
        if estimate is not None:
            found.append(_level(trait.name, estimate))
    cost = table.mean_nll(BASE)
    return (*found, *([_level("perplexity", cost.exp())] if cost is not None else []))


def _level(what: str, estimate: Estimate) -> Level:
    low, high = estimate.interval()
    return Level(what=what, value=estimate.value, low=low, high=high)
