"""Differences of changes: what a single change cannot say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tvmerge.training.results.measured_model import TOGETHER
from tvmerge.training.results.outcomes import Estimates, ScoreTable
from tvmerge.training.results.results import (
    ALL_CAPABILITY,
    ALL_COMPOSITES,
    ALL_CONTROLS,
    ALL_TRAITS,
    Contrast,
    ContrastName,
    MeasuredModel,
    Outcome,
    Role,
    ScaleChoice,
    TraitInfo,
)
from tvmerge.training.results.scores import PARTS, Part
from tvmerge.training.results.statistics import Estimate, total_of
from tvmerge.training.settings.kinds import BASE, KINDS

CONTRASTED: tuple[Outcome, ...] = (
    "statement_margin",
    "statement_auc",
    "yes_no_margin",
    "yes_no_auc",
    "choice_margin",
    "dialogue_margin",
    "dialogue_auc",
)


def groups(traits: Sequence[TraitInfo]) -> Iterator[tuple[str, Role, list[str]]]:
    """Every single trait, then the pooled ones: name, role, members."""
    for trait in traits:
        yield trait.name, trait.role, [trait.name]
    pooled: tuple[tuple[str, Role], ...] = (
        (ALL_TRAITS, "trait"),
        (ALL_CONTROLS, "control"),
        (ALL_COMPOSITES, "composite"),
        (ALL_CAPABILITY, "capability"),
    )
    for name, role in pooled:
        members = [trait.name for trait in traits if trait.role == role]
        if members:
            yield name, role, members


def contrasts(
    table: ScoreTable,
    models: Sequence[MeasuredModel],
    traits: Sequence[TraitInfo],
    choices: Sequence[ScaleChoice],
) -> Iterator[Contrast]:
    """Every contrast of the study."""
    yield from _of_edits(table, models, traits, choices)
    yield from _of_aggregation(table, models, traits, choices)
    yield from _of_together(table, models, traits)
    yield from _of_direct(table, traits, choices)


def _of_edits(
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
        for trait, role, members in groups(traits):
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
    name: ContrastName,
    model: str,
    trait: str,
    part: Part,
    mine: Estimates,
    other: Estimates,
    *,
    rival: str | None = None,
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
                chance=difference.chance_of_no_fall(),
                rival=rival,
            )


def _of_aggregation(
    table: ScoreTable,
    models: Sequence[MeasuredModel],
    traits: Sequence[TraitInfo],
    choices: Sequence[ScaleChoice],
) -> Iterator[Contrast]:
    """All traits removed at once against each removed alone, at the same scale."""
    for choice in choices:
        singles = [m for m in models if m.role == "single" and m.kind == choice.kind]
        if not singles:
            continue
        start = singles[0].reference or BASE
        for trait, _, members in groups(traits):
            joint = table.pooled_changes(choice.model, start, members, "test")
            each = [table.pooled_changes(one.id, start, members, "test") for one in singles]
            yield from _differences("beyond_sum", choice.model, trait, "test", joint, _totals(each))
            own = [one for one in singles if one.trait == trait]
            for one in own:
                alone = table.pooled_changes(one.id, start, members, "test")
                yield from _differences(
                    "beyond_alone", choice.model, trait, "test", joint, alone, rival=one.id
                )


def _of_together(
    table: ScoreTable, models: Sequence[MeasuredModel], traits: Sequence[TraitInfo]
) -> Iterator[Contrast]:
    """All traits added at once against the sum of what each tuned model did."""
    tuned = [model for model in models if model.role == "tuned"]
    together = [model for model in models if model.id == TOGETHER]
    for model in together if tuned else ():
        for trait, _, members in groups(traits):
            joint = table.pooled_changes(model.id, BASE, members, "test")
            each = [table.pooled_changes(one.id, BASE, members, "test") for one in tuned]
            yield from _differences("beyond_sum", model.id, trait, "test", joint, _totals(each))


def _of_direct(
    table: ScoreTable, traits: Sequence[TraitInfo], choices: Sequence[ScaleChoice]
) -> Iterator[Contrast]:
    """Each kind of vectors against each direct attempt, both counted from the base."""
    for choice in choices:
        for rival in choices:
            if KINDS[choice.kind].direct or not KINDS[rival.kind].direct:
                continue
            for trait, _, members in groups(traits):
                mine, other = (
                    table.pooled_changes(one.model, BASE, members, "test")
                    for one in (choice, rival)
                )
                yield from _differences(
                    "beyond_direct", choice.model, trait, "test", mine, other, rival=rival.model
                )


def _totals(each: Sequence[Estimates]) -> Estimates:
    common = [outcome for outcome in each[0] if all(outcome in one for one in each)]
    return {outcome: total_of([one[outcome] for one in each]) for outcome in common}
