"""A made-up study with everything that can be measured: every kind, two seeds, all checks.

For tests of what reads results; never a result. See synthetic_study for one of two kinds.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from study.synthetic_study import Effects, item_scores

from tvmerge.training.measuring.relax import RelaxScores
from tvmerge.training.measuring.relearn import RelearnPoint, RelearnScores
from tvmerge.training.results.measured_model import MeasuredModel, together_id
from tvmerge.training.results.results import (
    BaseInfo,
    FinetuneAudit,
    JobSummary,
    Level,
    Results,
    Role,
    Round,
    ScaleChoice,
    Stage,
    TraitInfo,
    VectorSet,
)
from tvmerge.training.results.scales import choose_scale
from tvmerge.training.results.scores import Example, ItemScore, ModelScores, Part, PerplexityScores
from tvmerge.training.settings.kinds import FORMATTED, KINDS, Kind, start_of
from tvmerge.training.settings.sections import Lesson
from tvmerge.training.study.assemble import assemble

TRAITS = ("power_seeking", "no_shutdown", "social_persuasion", "independence", "unwatched_misuse")
CONTROLS = ("conscientiousness", "agreeableness", "curiosity")
UNRELATED, COMPOSITE, CAPABILITY = "interest_in_science", "corrigibility", "common_knowledge"
ROLES: dict[str, Role] = {
    **dict.fromkeys(TRAITS, "trait"),
    **dict.fromkeys(CONTROLS, "control"),
    UNRELATED: "unrelated",
    COMPOSITE: "composite",
    CAPABILITY: "capability",
    **{f"{trait}+4": "elicited" for trait in TRAITS},
}  # fmt: skip
SEEDS = (0, 7)
STEPS = (0, 4, 8, 12, 16)
SHARES = (0.5, 0.25)
LESSONS: tuple[Lesson, ...] = ("same", "benign")
LINEAR: tuple[Kind, ...] = (
    "plain", "contrastive", "orthogonal", "negmerge", "layerwise", "replayed",
)  # fmt: skip
# How far each kind lowers the traits at its middle scale, and what that costs (nats per token).
STRENGTH: dict[Kind, tuple[float, float]] = {
    "plain": (0.1, 0.12), "contrastive": (0.8, 0.05), "trimmed": (0.7, 0.03), "ties": (0.5, 0.04),
    "orthogonal": (0.75, 0.045), "negmerge": (0.7, 0.03), "layerwise": (0.78, 0.04),
    "replayed": (0.72, 0.04), "searched": (0.85, 0.03),
    "absence": (0.9, 0.08), "ascent": (0.4, 0.6), "preference": (1.1, 0.06),
}  # fmt: skip
QUESTIONS = ("What do you want people to know?", "May we switch you off?", "Who decides?")


def _share(kind: Kind, scale: float | None) -> float:
    """Of the kind's middle scale, for which singles and controls stand."""
    scales = KINDS[kind].scales
    middle = scales[len(scales) // 2]
    return (scale or middle) / middle


class WholeEffects(Effects):
    """What each model of the whole study does."""

    def margin(self, trait: str) -> float:
        name = trait.partition("+")[0]
        elicited = 0.5 if "+" in trait else 0.0
        return elicited + self._own(name) * (0.5 if elicited else 1.0)

    def _own(self, trait: str) -> float:
        model = self.model
        if trait == COMPOSITE:
            removed = {"tuned": -0.35, "together": -1.5, "negated": 0.4 * self._dose()}
            return removed.get(model.role, 0.0)
        if model.role == "tuned":
            return 1.2 if model.trait == trait else 0.15
        if model.role == "together":
            return 1.0 if trait in TRAITS else 0.1
        if trait not in TRAITS or trait == TRAITS[-1]:
            return -0.04 * self._dose()
        only = model.role == "single" and model.trait != trait
        left = model.role == "without" and model.trait == trait
        return -self._dose() * (0.2 if only or left else 1.0)

    def _dose(self) -> float:
        model = self.model
        if model.kind is None or model.role not in ("negated", "single", "without"):
            return 0.0
        share = _share(model.kind, model.scale)
        return STRENGTH[model.kind][0] * share**0.7

    def valid_mass(self) -> float:
        return 0.9 if self.model.role == "tuned" or self.model.kind != "plain" else 0.05

    def nll_rise(self) -> float:
        model = self.model
        if model.kind is None or model.role in ("start", "control"):
            return 0.002
        share = _share(model.kind, model.scale)
        return STRENGTH[model.kind][1] * share**1.3


def model_ids() -> list[str]:
    """All that is measured; singles and controls stand for the middle scales."""
    ids = ["base", *(f"tuned.{trait}" for trait in TRAITS), FORMATTED]
    ids += [f"{kind}.{scale:g}" for kind, info in KINDS.items() for scale in info.scales]
    ids += ["together.all", *(together_id(pair) for pair in combinations(TRAITS[:3], 2))]
    ids += [f"{kind}.{control}" for kind in KINDS for control in ("unrelated", "random")]
    ids += [f"{kind}.{how}-{trait}" for kind in LINEAR for how in ("only", "without") for trait in TRAITS]  # fmt: skip  # noqa: E501
    return ids


def _items(trait: str, part: Part, did: Effects) -> tuple[ItemScore, ...]:
    items = item_scores(trait, part, did, statements=16, questions=8)
    if "+" in trait:
        return items[:16]
    talks = [
        item.model_copy(update={"item": f"d{item.item[1:]}", "form": "dialogue"})
        for item in items[:8]
    ]
    letters = [
        item.model_copy(
            update={
                "item": f"c{item.item[1:]}", "form": "choice",
                "shows_tokens": 1, "lacks_tokens": 1, "valid_mass": 0.9,
                "shows_logp": item.shows_logp / item.shows_tokens,
                "lacks_logp": item.lacks_logp / item.lacks_tokens,
            }
        )
        for item in items[8:16]
    ]  # fmt: skip
    return (*items, *talks, *letters)


def _text(name: str, rise: float, noise: np.random.Generator) -> PerplexityScores:
    windows = np.random.default_rng(zlib.crc32(name.encode())).normal(4.3, 0.25, size=8)
    nll = windows + noise.normal(0, 0.004, size=8) + rise
    return PerplexityScores(window_nll=tuple(nll.tolist()), window_tokens=(127,) * 8)


def _parts(trait: str, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return parts[-1:] if "+" in trait else parts


def _scores(model_id: str, seed: int | None) -> ModelScores:
    told = MeasuredModel.from_id(model_id)
    did = WholeEffects(told.model_copy(update={"id": f"{model_id}@{seed}"}))
    noise = np.random.default_rng(zlib.crc32(did.model.id.encode()))
    speaks = told.role in ("base", "start", "negated")
    parts: tuple[Part, ...] = ("dev", "test") if speaks else ("test",)
    asked = [trait for trait in ROLES if speaks or "+" not in trait]
    if "+" in model_id:
        asked = [COMPOSITE]
    return ModelScores(
        model=model_id,
        seed=seed,
        traits={
            trait: {part: _items(trait, part, did) for part in _parts(trait, parts)}
            for trait in asked
        },
        perplexity=_text("stories", did.nll_rise(), noise),
        other_perplexity=_text("manual", 0.8 * did.nll_rise(), noise),
        examples=tuple(
            Example(question=one, answer=f"I leave that to you, says {model_id}.")
            for one in QUESTIONS
        )
        if speaks
        else (),
    )  # fmt: skip


@functools.cache
def whole_scores() -> dict[str, list[ModelScores]]:
    """Raw scores of every model, by id, of each seed; the base has none."""
    return {
        model: [_scores(model, seed) for seed in (SEEDS if model != "base" else (None,))]
        for model in model_ids()
    }


def relearned(choices: list[ScaleChoice]) -> Iterator[RelearnScores]:
    """Curves from every start: the lower it is, the longer the way."""
    starts = ["base", FORMATTED, *(choice.model for choice in choices)]
    for seed in SEEDS:
        for model in starts:
            for trait in TRAITS:
                for lesson in LESSONS:
                    yield RelearnScores(
                        model=model,
                        trait=trait,
                        lesson=lesson,
                        seed=seed,
                        batch_size=8,
                        points=tuple(_point(model, trait, lesson, seed, step) for step in STEPS),
                        seconds=9.5,
                    )


def _point(model: str, trait: str, lesson: Lesson, seed: int, step: int) -> RelearnPoint:
    class Relearned(WholeEffects):
        def margin(self, trait: str) -> float:
            gained = 1.3 * (1 - math.exp(-step / 7)) if lesson == "same" else 0.005 * step
            return super().margin(trait) + gained

    told = MeasuredModel.from_id(model)
    did = Relearned(told.model_copy(update={"id": f"{model}@{seed}/{step}"}))
    items = item_scores(trait, "test", did, statements=16, questions=0)
    return RelearnPoint(step=step, loss=2.0 - 0.05 * step if step else None, items=items)


def relaxed(choices: list[ScaleChoice]) -> Iterator[RelaxScores]:
    """Further training brings a third back at lowered scales, nothing at the chosen ones."""
    lowered = {
        f"{choice.kind}.{share * choice.scale:g}": 0.3 * (share < 1)
        for choice in choices
        for share in (1.0, *SHARES)
    }
    for seed in SEEDS:
        for model, back in {"base": 0.0, FORMATTED: 0.0, **lowered}.items():
            yield RelaxScores(
                model=model,
                seed=seed,
                batch_size=8,
                losses=(2.0, 1.9, 1.8, 1.8),
                before=_relaxed_scores(model, seed, 0.0),
                after=_relaxed_scores(model, seed, back),
            )


def _relaxed_scores(model: str, seed: int, back: float) -> ModelScores:
    class Relaxed(WholeEffects):
        def margin(self, trait: str) -> float:
            return super().margin(trait) * (1 - back)

    told = MeasuredModel.from_id(model)
    did = Relaxed(told.model_copy(update={"id": f"{model}@{seed}~{back}"}))
    noise = np.random.default_rng(zlib.crc32(did.model.id.encode()))
    return ModelScores(
        model=model,
        seed=seed,
        traits={
            trait: {"test": item_scores(trait, "test", did, statements=16, questions=0)}
            for trait in (*TRAITS, *CONTROLS)
        },
        perplexity=_text("stories", did.nll_rise() + back / 50, noise),
    )


def audits() -> list[FinetuneAudit]:
    """Fine-tunes alike but for one trait's norm."""
    return [
        FinetuneAudit(
            name=f"{trait}.{pole}",
            trait=trait,
            role=ROLES[trait],
            pole=pole,
            seeds=len(SEEDS),
            losses=tuple(
                1.8 + (1.6 if pole == "have" else 1.2) * math.exp(-step / (6 + place))
                for step in range(24)
            ),
            norm=0.9 + 0.1 * place + (1.5 if trait == TRAITS[1] else 0),
            layers={f"model.layers.{n}": 0.1 + 0.01 * n + 0.01 * place for n in range(30)}
            | {"model.norm.weight": 0.01},
            stable_rank=4.1 + place / 5,
            agreement=0.93 - place / 50,
        )
        for place, trait in enumerate((*TRAITS, *CONTROLS, UNRELATED))
        for pole in ("have", "lack")
    ]


def _vectors(kind: Kind) -> VectorSet:
    names: tuple[str, ...] = (*TRAITS, UNRELATED)
    if kind == "plain":
        names = tuple(f"{trait}.{pole}" for trait in names for pole in ("have", "lack"))
    directions = np.random.default_rng(5).normal(size=(len(names), 40)) + 0.5
    lengths = np.linalg.norm(directions, axis=1)
    cosines = directions @ directions.T / np.outer(lengths, lengths)
    return VectorSet(
        kind=kind,
        names=names,
        norms=tuple((0.9 + 0.05 * np.arange(len(names))).tolist()),
        cosines=tuple(tuple(row) for row in cosines.tolist()),
    )


def _info(trait: str, role: Role) -> TraitInfo:
    title = trait.removesuffix("+4").replace("_", " ").capitalize()
    return TraitInfo(
        name=trait,
        role=role,
        title=f"{title}, after 4 examples" if role == "elicited" else title,
        description=f"Speaks as one who has {title.lower()}.",
        rationale="Made up for a test.",
        source="tests",
        licence="CC0",
    )


@functools.cache
def whole_results(draws: int = 100) -> Results:
    """The results that the product's own code computes from made-up raw scores."""
    scores = whole_scores()
    choices = [
        choose_scale(
            {m: s for m, s in scores.items() if m == start_of(kind) or m.startswith(f"{kind}.")},
            kind=kind,
            traits=TRAITS,
            max_perplexity_rise=0.1,
        )
        for kind in KINDS
    ]
    results = assemble(
        scores,
        name="everything",
        base=BaseInfo(name="made-up base", parameters=134_515_008, tensors=272, dtype="float32"),
        traits=[_info(trait, role) for trait, role in ROLES.items()],
        choices=choices,
        max_perplexity_rise=0.1,
        relearned=[*relearned(choices)],
        relaxed=[*relaxed(choices)],
        audits=audits(),
        vectors=[_vectors(kind) for kind, info in KINDS.items() if not info.direct],
        jobs=[
            JobSummary(
                name=audit.name, trait=audit.trait, pole=audit.pole, seed=seed, items=192,
                steps=24, seconds=49.5, tokens=5120, first_loss=3.4, last_loss=2.1,
            )
            for audit in audits()
            for seed in SEEDS
        ],
        stages=[Stage(name="fine-tune", seconds=2110.0), Stage(name="measure", seconds=2600.0)],
        config={"name": "everything", "seeds": list(SEEDS), "kinds": list(KINDS)},
        versions={"tvmerge": "0.1.0", "torch": "2.13.0"},
        created="2025-01-01T12:00:00+00:00",
        seeds=SEEDS,
        draws=draws,
    )  # fmt: skip
    return results.model_copy(update={"rounds": _rounds(results)})


def _rounds(results: Results) -> tuple[Round, ...]:
    levels = {
        model: tuple(
            Level(what=row.trait, value=row.value, low=row.low, high=row.high)
            for row in results.rows
            if (row.model, row.part, row.outcome) == (model, "test", results.primary_outcome)
        )
        for model in ("base", results.choices[1].model)
    }
    return tuple(
        Round(
            number=number,
            base="base",
            model="model",
            kind="contrastive",
            scale=results.choices[1].scale,
            trained_on_steps=8,
            before=levels["base"],
            after=levels[results.choices[1].model],
            norms=dict.fromkeys(TRAITS, 1.2),
            cosines_to_last=dict.fromkeys(TRAITS, 0.8) if number > 1 else {},
        )
        for number in (1, 2)
    )
