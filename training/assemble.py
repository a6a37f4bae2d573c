"""From raw scores and the study's records to `Results`: every number of the report, once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tvmerge.errors import MismatchError
from tvmerge.training.jobs import JobRecord
from tvmerge.training.outcomes import Estimates, ScoreTable, primary_outcome
from tvmerge.training.results import (
    ALL_CONTROLS,
    ALL_TRAITS,
    BaseInfo,
    Contrast,
    ContrastName,
    ExampleRow,
    JobSummary,
    MeasuredModel,
    Outcome,
    OutcomeRow,
    PerplexityRow,
    Results,
    Role,
    ScaleChoice,
    Stage,
    TraitInfo,
    VectorSet,
)
from tvmerge.training.scores import ModelScores, Part
from tvmerge.training.statistics import DRAWS, Estimate, Resampler
from tvmerge.training.traits import Trait
from tvmerge.training.verdict import judge

PARTS: tuple[Part, ...] = ("dev", "test")
CONTRASTED: tuple[Outcome, ...] = (
    "statement_margin",
    "statement_auc",
    "yes_no_margin",
    "yes_no_auc",
    "choice_margin",
)


def assemble(
    scores: Iterable[ModelScores],
    *,
    name: str,
    base: BaseInfo,
    traits: Sequence[TraitInfo],
    choices: Sequence[ScaleChoice],
    max_perplexity_rise: float,
    models: Sequence[MeasuredModel] | None = None,
    vectors: Sequence[VectorSet] = (),
    jobs: Sequence[JobSummary] = (),
    stages: Sequence[Stage] = (),
    peak_memory_mib: float | None = None,
    config: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    created: str = "",
    seed: int = 0,
    draws: int = DRAWS,
) -> Results:
    """All outcomes, contrasts and verdicts of a study.

    `models` describes the measured models; where None, their ids do (`MeasuredModel.from_id`).
    A model's reference must be among `scores`. `choices` come from `choose_scale`.
    """
    by_id = {one.model: one for one in scores}
    described = tuple(models or (MeasuredModel.from_id(model) for model in by_id))
    _check_models(described, by_id)
    table = ScoreTable(by_id, Resampler(seed=seed, draws=draws))
    targets = [trait.name for trait in traits if trait.role == "trait"]
    results = Results(
        name=name,
        created=created,
        seed=seed,
        draws=draws,
        primary_outcome=primary_outcome(by_id.values(), targets),
        max_perplexity_rise=max_perplexity_rise,
        config=dict(config or {}),
        base=base,
        versions=dict(versions or {}),
        traits=tuple(traits),
        jobs=tuple(jobs),
        vectors=tuple(vectors),
        models=described,
        choices=tuple(choices),
        rows=tuple(_rows(table, described, traits)),
        contrasts=tuple(_contrasts(table, described, traits, choices)),
        perplexity=tuple(_perplexity(table, model) for model in described),
        examples=_examples(by_id),
        stages=tuple(stages),
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
        items=record.items,
        steps=record.train.steps,
        seconds=record.seconds,
        tokens=record.tokens,
        first_loss=record.losses[0] if record.losses else None,
        last_loss=record.losses[-1] if record.losses else None,
    )


def _check_models(models: Sequence[MeasuredModel], scores: Mapping[str, ModelScores]) -> None:
    for model in models:
        for needed in (model.id, model.reference or model.id):
            if needed not in scores:
                raise MismatchError(
                    f"results: model {model.id!r} needs the raw scores of {needed!r}, found those "
                    f"of {', '.join(scores)}. Measure {needed!r} too."
                )


def _groups(traits: Sequence[TraitInfo]) -> Iterator[tuple[str, Role, list[str]]]:
    """Every single trait, then the pooled ones: name, role, members."""
    for trait in traits:
        yield trait.name, trait.role, [trait.name]
    for name, role in ((ALL_TRAITS, "trait"), (ALL_CONTROLS, "control")):
        members = [trait.name for trait in traits if trait.role == role]
        if members:
            yield name, "trait" if role == "trait" else "control", members


def _rows(
    table: ScoreTable, models: Sequence[MeasuredModel], traits: Sequence[TraitInfo]
) -> Iterator[OutcomeRow]:
    for model in models:
        for trait, role, members in _groups(traits):
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
                    )


def _contrasts(
    table: ScoreTable,
    models: Sequence[MeasuredModel],
    traits: Sequence[TraitInfo],
    choices: Sequence[ScaleChoice],
) -> Iterator[Contrast]:
    controls = [trait.name for trait in traits if trait.role == "control"]
    chosen = {choice.model for choice in choices}
    for model in models:
        if model.role not in ("negated", "control") or model.reference is None:
            continue
        for trait, role, members in _groups(traits):
            for part in PARTS:
                change = table.pooled_changes(model.id, model.reference, members, part)
                if role == "trait" and controls:
                    other = table.pooled_changes(model.id, model.reference, controls, part)
                    yield from _differences("specificity", model.id, trait, part, change, other)
                for name, rival in _rivals(model, models) if model.id in chosen else ():
                    other = table.pooled_changes(rival, model.reference, members, part)
                    yield from _differences(name, model.id, trait, part, change, other)


def _rivals(
    model: MeasuredModel, models: Sequence[MeasuredModel]
) -> Iterator[tuple[ContrastName, str]]:
    """The control vectors' models of the same kind; the base, if the edit began elsewhere."""
    if model.reference != "base" and any(other.id == "base" for other in models):
        yield "from_base", "base"
    for rival in models:
        if rival.kind == model.kind and rival.control is not None:
            yield "beyond_unrelated" if rival.control == "unrelated" else "beyond_random", rival.id


def _differences(
    name: ContrastName, model: str, trait: str, part: Part, mine: Estimates, other: Estimates
) -> Iterator[Contrast]:
    for outcome in CONTRASTED:
        if outcome in mine and outcome in other:
            difference: Estimate = mine[outcome] - other[outcome]
            low, high = difference.interval()
            yield Contrast(
                name=name,
                model=model,
                trait=trait,
                part=part,
                outcome=outcome,
                value=difference.value,
                low=low,
                high=high,
            )


def _perplexity(table: ScoreTable, model: MeasuredModel) -> PerplexityRow:
    perplexity = table.mean_nll(model.id).exp()
    low, high = perplexity.interval()
    ratio = table.perplexity_ratio(model.id, model.reference) if model.reference else None
    ratio_low, ratio_high = ratio.interval() if ratio else (None, None)
    whole = table.perplexity_ratio(model.id, "base") if "base" in table.scores else None
    base_low, base_high = whole.interval() if whole else (None, None)
    windows = table.scores[model.id].perplexity.window_tokens
    return PerplexityRow(
        model=model.id,
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


def _examples(scores: Mapping[str, ModelScores]) -> tuple[ExampleRow, ...]:
    answers: dict[str, dict[str, str]] = {}
    for model, one in scores.items():
        for example in one.examples:
            answers.setdefault(example.question, {})[model] = example.answer
    return tuple(ExampleRow(question=question, answers=said) for question, said in answers.items())
