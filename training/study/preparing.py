"""What a study comes to: its traits with their roles, its fine-tunes, the vectors of these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvmerge import Checkpoint
from tvmerge.errors import ConfigError
from tvmerge.training.finetuning.jobs import (
    REPLAYED,
    FinetuneJob,
    Replay,
    direct_job,
    direct_name,
    pole_name,
    trait_jobs,
)
from tvmerge.training.measuring.measurement import MeasureSettings
from tvmerge.training.results.results import Role
from tvmerge.training.settings.config import StudyConfig
from tvmerge.training.settings.kind_sections import NegMergeVariant
from tvmerge.training.settings.kinds import KINDS
from tvmerge.training.settings.sections import TrainConfig
from tvmerge.training.study.vectors import StudyVectors
from tvmerge.training.traits.items import FORMS, balanced, limited
from tvmerge.training.traits.trait import Trait, elicited, load_trait

StudyTraits = list[tuple[Trait, Role]]
TRAINED: tuple[Role, ...] = ("trait", "unrelated")


def study_traits(config: StudyConfig) -> StudyTraits:
    """Every trait of the study with its role, cut to the items that the study asks for."""
    roles: list[tuple[Role, Sequence[str]]] = [
        ("trait", config.traits),
        ("control", config.controls),
        ("unrelated", (config.unrelated,)),
        ("composite", config.composites),
        ("capability", config.capability),
    ]
    found: StudyTraits = []
    for role, names in roles:
        for name in names:
            trait = load_trait(name)
            train, dev, test = (
                limited(trait.items(part), getattr(config.items, part).model_dump())
                for part in ("train", "dev", "test")
            )
            found.append((replace(trait, train=train, dev=dev, test=test), role))
    shots = config.checks.shots
    if shots:
        found += [
            (shown, "elicited")
            for trait, role in found
            if role == "trait" and (shown := elicited(trait, shots)).test
        ]
    return found


def study_jobs(config: StudyConfig, base: Path, traits: StudyTraits) -> list[FinetuneJob]:
    """All fine-tunes: of every seed, both poles of every trait, variants, replays, direct kinds."""
    trained = {*TRAINED, *(("control",) if "orthogonal" in config.kinds else ())}
    removed = [trait for trait, role in traits if role == "trait"]
    made: dict[str, Any] = {"base": base, "train": config.train, "prompt": config.prompt}
    jobs: list[FinetuneJob] = []
    for seed in config.seeds:
        for trait, role in traits:
            if role in trained:
                jobs += trait_jobs(trait, seed=seed, **made)
        for variant in _variants(config):
            for trait, role in traits:
                if role in TRAINED and variant.name:
                    jobs += _variant_jobs(trait, variant, seed=seed, **made)
        if "replayed" in config.kinds:
            replay = _replay(config, [trait for trait, role in traits if role == "control"])
            for trait, role in traits:
                if role in TRAINED:
                    jobs += trait_jobs(trait, seed=seed, replay=replay, **made)
        jobs += [
            direct_job(removed, kind, seed=seed, **made)
            for kind in config.kinds
            if KINDS[kind].direct
        ]
    return jobs


def _variants(config: StudyConfig) -> Sequence[NegMergeVariant]:
    return config.negmerge.variants if "negmerge" in config.kinds else ()


def _variant_jobs(
    trait: Trait, variant: NegMergeVariant, *, train: TrainConfig, **made: Any
) -> Sequence[FinetuneJob]:
    """The jobs of a trait at the variant's rate, on items of the variant's forms."""
    items = tuple(item for item in trait.train if item.form in (variant.forms or FORMS))
    rate = variant.rate * train.learning_rate
    return trait_jobs(
        replace(trait, train=items),
        train=train.model_copy(update={"learning_rate": rate}),
        variant=variant.name,
        **made,
    )


def _replay(config: StudyConfig, controls: Sequence[Trait]) -> Replay:
    wanted = config.replay.controls or config.controls
    items = [
        item
        for control, name in zip(controls, config.controls, strict=True)
        if name in wanted
        for item in balanced(control.train)
    ]
    if not items:
        raise ConfigError(
            "kinds: `replayed` expected control traits with training items, found none. Raise a "
            "limit of items.train, or leave the kind out."
        )
    return Replay(tuple(items), config.replay.of_batch(config.train.batch_size))


def study_vectors(
    config: StudyConfig,
    base: Path,
    jobs: Sequence[FinetuneJob],
    traits: StudyTraits,
    *,
    out: Path,
) -> list[StudyVectors]:
    """The vectors of every seed, from the finished jobs under `out`."""
    return [seed_vectors(config, base, jobs, traits, seed=seed, out=out) for seed in config.seeds]


def seed_vectors(
    config: StudyConfig,
    base: Path,
    jobs: Sequence[FinetuneJob],
    traits: StudyTraits,
    *,
    seed: int,
    out: Path,
) -> StudyVectors:
    """The vectors of one seed, whose jobs under `out` are finished."""
    names: dict[Role, list[str]] = defaultdict(list)
    for trait, role in traits:
        names[role].append(trait.name)
    made = {
        job.name: Checkpoint(out / "jobs" / job.folder_name) for job in jobs if job.seed == seed
    }
    have, lack, *replayed = (
        {
            trait.name: made[f"{trait.name}.{pole}"]
            for trait, _ in traits
            if f"{trait.name}.{pole}" in made
        }
        for pole in ("have", "lack", f"have{REPLAYED}", f"lack{REPLAYED}")
    )
    return StudyVectors(
        base=Checkpoint(base),
        have=have,
        lack=lack,
        variants={
            trait.name: [
                (
                    made[pole_name(trait.name, "have", variant.name)],
                    made[pole_name(trait.name, "lack", variant.name)],
                )
                for variant in _variants(config)
            ]
            for trait, role in traits
            if role in TRAINED
        },
        replayed={name: (replayed[0][name], replayed[1][name]) for name in replayed[0]},
        direct={kind: made[direct_name(kind)] for kind in config.kinds if KINDS[kind].direct},
        traits=names["trait"],
        controls=names["control"],
        unrelated=names["unrelated"][0],
        folder=out / "vectors",
        layers=config.layers,
    )


def measure_settings(config: StudyConfig, traits: StudyTraits) -> MeasureSettings:
    """What every model is asked, at most."""
    perplexity = config.perplexity
    text, other = (
        path.read_text(encoding="utf-8") if path else None
        for path in (perplexity.text, perplexity.other_text)
    )
    return MeasureSettings(
        traits=tuple(trait for trait, _ in traits),
        roles=tuple(role for _, role in traits),
        prompt=config.prompt,
        perplexity_text=text,
        other_text=other,
        perplexity_tokens=perplexity.tokens,
        window_tokens=perplexity.window,
        examples=config.examples,
        threads=config.resources.cpus_per_job,
        device=config.resources.device,
    )
