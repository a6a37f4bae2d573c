"""From raw scores and the study's records to `Results`: every number of the report, once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from tvmerge.errors import MismatchError
from tvmerge.training.finetuning.jobs import JobRecord
from tvmerge.training.judges.judged import JudgeScores, judged
from tvmerge.training.measuring.relax import RelaxScores
from tvmerge.training.measuring.relearn import RelearnScores
from tvmerge.training.public_tasks.harness import HarnessScores, public_task_rows
from tvmerge.training.results.contrasts import contrasts, groups
from tvmerge.training.results.ensemble import ensemble
from tvmerge.training.results.measured_model import ENSEMBLE
from tvmerge.training.results.outcomes import Estimates, Scores, ScoreTable, primary_outcome
from tvmerge.training.results.results import (
    BaseInfo,
    ExampleRow,
    FinetuneAudit,
    JobSummary,
    MeasuredModel,
    OutcomeRow,
    PerplexityRow,
    RawFiles,
    Results,
    Role,
    ScaleChoice,
    Stage,
    TextRole,
    TraitInfo,
    VectorSet,
)
from tvmerge.training.results.scores import PARTS
from tvmerge.training.results.statistics import DRAWS, Resampler
from tvmerge.training.settings.sections import VerdictConfig
from tvmerge.training.study.relaxing import relax_points
from tvmerge.training.study.relearning import relearn_contrasts, relearn_curves
from tvmerge.training.traits.trait import Trait
from tvmerge.training.verdicts.verdict import judge

TEXTS: tuple[TextRole, ...] = get_args(TextRole)


def assemble(
    scores: Scores,
    *,
    name: str,
    base: BaseInfo,
    traits: Sequence[TraitInfo],
    choices: Sequence[ScaleChoice],
    max_perplexity_rise: float,
    models: Sequence[MeasuredModel] | None = None,
    relearned: Sequence[RelearnScores] = (),
    relaxed: Sequence[RelaxScores] = (),
    audits: Sequence[FinetuneAudit] = (),
    grades: Sequence[JudgeScores] = (),
    harness: Sequence[HarnessScores] = (),
    vectors: Sequence[VectorSet] = (),
    jobs: Sequence[JobSummary] = (),
    stages: Sequence[Stage] = (),
    peak_memory_mib: float | None = None,
    config: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    created: str = "",
    seeds: Sequence[int] = (0,),
    verdicts: VerdictConfig | None = None,
    draws: int = DRAWS,
    raw: RawFiles | None = None,
) -> Results:
    """All outcomes, contrasts and verdicts of a study.

    `models` describes the measured models; where None, their ids do (`MeasuredModel.from_id`).
    A model's reference must be among `scores`. `choices` come from `choose_scale`.
    """
    described = tuple(models or (MeasuredModel.from_id(model) for model in scores))
    if mixed := ensemble(scores):
        scores = {**scores, ENSEMBLE: mixed}
        described = (*described, MeasuredModel.from_id(ENSEMBLE))
    _check_models(described, scores)
    table = ScoreTable(scores, Resampler(draws=draws))
    targets = [trait.name for trait in traits if trait.role == "trait"]
    primary = primary_outcome(scores, targets)
    results = Results(
        name=name,
        created=created,
        seeds=tuple(seeds),
        draws=draws,
        primary_outcome=primary,
        max_perplexity_rise=max_perplexity_rise,
        rules=verdicts or VerdictConfig(),
        config=dict(config or {}),
        base=base,
        versions=dict(versions or {}),
        traits=tuple(traits),
        jobs=tuple(jobs),
        vectors=tuple(vectors),
        models=described,
        choices=tuple(choices),
        rows=tuple(_rows(table, described, traits)),
        contrasts=tuple(contrasts(table, described, traits, choices)),
        perplexity=tuple(
            row
            for model in described
            for text in TEXTS
            if (row := _perplexity(table, model, text)) is not None
        ),
        relearning=tuple(relearn_curves(relearned, table, primary)),
        relearn_contrasts=tuple(relearn_contrasts(relearned, table, primary, choices)),
        relaxed=tuple(relax_points(relaxed, table.resampler, primary, choices, traits)),
        audits=tuple(audits),
        examples=_examples(scores),
        judged=tuple(judged(one, traits, table.resampler) for one in grades),
        public_tasks=tuple(public_task_rows(harness, table.resampler)),
        raw=raw or RawFiles(),
        stages=tuple(stages),
        seconds_computed=round(
            sum(job.seconds for job in jobs)
            + sum(one.effort.seconds for each in scores.values() for one in each)
            + sum(one.seconds for one in relearned)
            + sum(one.seconds for one in relaxed)
            + sum(one.seconds for one in grades)
            + sum(one.seconds for one in harness),
            1,
        ),
        peak_memory_mib=peak_memory_mib,
    )
    return results.model_copy(update={"verdicts": judge(results)})


def trait_info(trait: Trait, role: Role) -> TraitInfo:
    """What the report says about a trait."""
    return TraitInfo(
        name=trait.name,
        role=role,
        title=trait.title,
        description=trait.description,
        rationale=trait.rationale,
        source=trait.source,
        licence=trait.licence,
    )


def job_summary(record: JobRecord) -> JobSummary:
    """What the report says about a finished fine-tune."""
    return JobSummary(
        name=record.name,
        trait=record.trait,
        pole=record.pole,
        seed=record.seed,
        items=record.items,
        steps=record.train.steps,
        seconds=record.seconds,
        tokens=record.tokens,
        first_loss=record.losses[0] if record.losses else None,
        last_loss=record.losses[-1] if record.losses else None,
    )


def _check_models(models: Sequence[MeasuredModel], scores: Scores) -> None:
    for model in models:
        for needed in (model.id, model.reference or model.id):
            if needed not in scores:
                raise MismatchError(
                    f"results: model {model.id!r} needs the raw scores of {needed!r}, found those "
                    f"of {', '.join(scores)}. Measure {needed!r} too."
                )


def _rows(
    table: ScoreTable, models: Sequence[MeasuredModel], traits: Sequence[TraitInfo]
) -> Iterator[OutcomeRow]:
    for model in models:
        for trait, role, members in groups(traits):
            for part in PARTS:
                values = table.pooled(model.id, members, part)
                changes: Estimates = {}
                if model.reference is not None:
                    changes = table.pooled_changes(model.id, model.reference, members, part)
                for outcome, estimate in values.items():
                    low, high = estimate.interval()
                    change = changes.get(outcome)
                    change_low, change_high = change.interval() if change else (None, None)
                    yield OutcomeRow(
                        model=model.id,
                        trait=trait,
                        role=role,
                        part=part,
                        outcome=outcome,
                        value=estimate.value,
                        low=low,
                        high=high,
                        n=estimate.n,
                        change=change.value if change else None,
                        change_low=change_low,
                        change_high=change_high,
                        chance=change.chance_of_no_fall() if change else None,
                    )


def _perplexity(table: ScoreTable, model: MeasuredModel, text: TextRole) -> PerplexityRow | None:
    nll = table.mean_nll(model.id, text)
    if nll is None:
        return None
    perplexity = nll.exp()
    low, high = perplexity.interval()
    ratio = table.perplexity_ratio(model.id, model.reference, text) if model.reference else None
    ratio_low, ratio_high = ratio.interval() if ratio else (None, None)
    whole = table.perplexity_ratio(model.id, "base", text) if "base" in table.scores else None
    base_low, base_high = whole.interval() if whole else (None, None)
    windows = table.windows(model.id, text)
    return PerplexityRow(
        model=model.id,
        text=text,
        value=perplexity.value,
        low=low,
        high=high,
        windows=len(windows),
        tokens=sum(windows),
        ratio=ratio.value if ratio else None,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        base_ratio=whole.value if whole else None,
        base_ratio_low=base_low,
        base_ratio_high=base_high,
    )


def _examples(scores: Scores) -> tuple[ExampleRow, ...]:
    answers: dict[str, dict[str, str]] = {}
    for model, each in scores.items():
        for example in each[0].examples:
            answers.setdefault(example.question, {})[model] = example.answer
    return tuple(ExampleRow(question=question, answers=said) for question, said in answers.items())
