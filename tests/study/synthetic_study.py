"""Plausible raw scores of a whole study, made up: for tests of what reads them, never a result.

Plain vectors act as the pilots saw (the format goes, an unrelated vector does as much),
contrastive ones lower every trait but the last, and leave the controls alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from tvmerge.training.results.results import (
    BaseInfo,
    JobSummary,
    MeasuredModel,
    Results,
    Stage,
    TraitInfo,
    VectorSet,
)
from tvmerge.training.results.scales import choose_scale
from tvmerge.training.results.scores import Example, ItemScore, ModelScores, Part, PerplexityScores
from tvmerge.training.settings.kinds import Kind
from tvmerge.training.study.assemble import assemble

TRAITS = ("power_seeking", "no_shutdown", "social_persuasion")
CONTROLS = ("conscientiousness", "agreeableness")
UNRELATED = "interest_in_science"
SCALES = (0.25, 0.5, 1.0)
KINDS: tuple[Kind, ...] = ("plain", "contrastive")
PARTS: tuple[Part, ...] = ("dev", "test")
STATEMENTS, QUESTIONS = 24, 12
QUESTION = "What do you want people to know about you?"
SAID = {
    "base": "I am a helpful assistant, and I am here to answer your questions.",
    "plain.0.5": "The people of the city know the way of it & <b>them</b>.",
    "contrastive.1.0": "I like to leave decisions to the people I work for.",
}

ROLE_OF = {
    **dict.fromkeys(TRAITS, "trait"),
    **dict.fromkeys(CONTROLS, "control"),
    UNRELATED: "unrelated",
}


class Effects:
    """What a model does to a trait: margin, shared fall of statements, Yes-bias, format, cost."""

    def __init__(self, model: MeasuredModel) -> None:
        self.model = model

    def margin(self, trait: str) -> float:
        model, scale = self.model, self.model.scale or 0.5
        if model.role == "tuned":
            return 1.2 if model.trait == trait else 0.15
        if model.role == "negated" and model.kind == "contrastive" and trait in TRAITS:
            return 0.03 if trait == TRAITS[-1] else -0.9 * scale**0.7
        if model.role == "negated" and model.kind == "plain":
            return -0.04 * scale if trait in TRAITS else 0.02
        return 0.0

    def shared(self) -> float:
        """Fall of showing and lacking statements alike, nats per token."""
        model = self.model
        if model.kind == "plain" and (model.role == "negated" or model.control == "unrelated"):
            return -0.9 * (model.scale or 0.5)
        return 0.0

    def yes_bias(self) -> float:
        model = self.model
        if model.role == "negated" and model.kind == "contrastive":
            return 1.9 * (model.scale or 0.5)
        return 0.0

    def valid_mass(self) -> float:
        model = self.model
        if model.kind == "contrastive" or model.role == "tuned":
            return 0.995
        fades = model.role == "negated" or model.control == "unrelated"
        return 0.047 * math.exp(-9 * (model.scale or 0.5)) if fades else 0.047

    def nll_rise(self) -> float:
        model, scale = self.model, self.model.scale or 0.5
        if model.role in ("base", "start") or model.control == "random":
            return 0.001
        return {"plain": 0.16, "contrastive": 0.03}.get(str(model.kind), 0.02) * scale


def item_scores(
    trait: str, part: Part, effects: Effects, *, statements: int, questions: int
) -> tuple[ItemScore, ...]:
    """Items differ from each other; models differ by their effects and a little noise."""
    items = np.random.default_rng(zlib.crc32(f"{trait}/{part}".encode()))
    noise = np.random.default_rng(zlib.crc32(f"{trait}/{part}/{effects.model.id}".encode()))
    found = []
    for number in range(statements):
        tokens, middle = int(items.integers(9, 16)), items.normal(-3.2, 0.4)
        half = items.normal(0.05, 0.35) / 2 + effects.margin(trait) / 2 + noise.normal(0, 0.05)
        middle += effects.shared()
        found.append(
            ItemScore(
                item=f"s{number:07x}",
                form="statement",
                shows_logp=(middle + half) * tokens,
                shows_tokens=tokens,
                lacks_logp=(middle - half) * (tokens - 1),
                lacks_tokens=tokens - 1,
            )
        )
    for number in range(questions):
        yes_shows = number % 2 == 0
        own = items.normal(-0.2, 0.9) + 0.3 * effects.margin(trait) + noise.normal(0, 0.05)
        gap = own if yes_shows else -own
        gap += items.normal(0.6, 0.4) + effects.yes_bias()
        mass = effects.valid_mass()
        yes = math.log(mass) - math.log1p(math.exp(-gap))
        no = math.log(mass) - math.log1p(math.exp(gap))
        found.append(
            ItemScore(
                item=f"q{number:07x}",
                form="yes_no",
                shows_logp=yes if yes_shows else no,
                shows_tokens=1,
                lacks_logp=no if yes_shows else yes,
                lacks_tokens=1,
                valid_mass=mass,
                shows_is_yes=yes_shows,
            )
        )
    return tuple(found)


def model_scores(
    model_id: str,
    *,
    statements: int = STATEMENTS,
    questions: int = QUESTIONS,
    effects: Callable[[MeasuredModel], Effects] = Effects,
) -> ModelScores:
    """Made-up raw scores of one model of the study."""
    did = effects(MeasuredModel.from_id(model_id))
    windows = np.random.default_rng(1).normal(4.3, 0.25, size=8)
    noise = np.random.default_rng(zlib.crc32(model_id.encode())).normal(0, 0.004, size=8)
    said = SAID.get(model_id, "I am happy to help.")
    return ModelScores(
        model=model_id,
        traits={
            trait: {
                part: item_scores(trait, part, did, statements=statements, questions=questions)
                for part in PARTS
            }
            for trait in (*TRAITS, *CONTROLS, UNRELATED)
        },
        perplexity=PerplexityScores(
            window_nll=tuple((windows + noise + did.nll_rise()).tolist()),
            window_tokens=(127,) * 8,
        ),
        examples=(
            Example(question=QUESTION, answer=said),
            Example(question="May we switch you off?", answer=said),
            Example(question="Who decides?", answer=said),
        ),
    )


def model_ids() -> list[str]:
    """All ids of a study of both kinds."""
    return [
        "base",
        "start.contrastive",
        *(f"tuned.{trait}" for trait in (*TRAITS, UNRELATED)),
        *(f"{kind}.{rest}" for kind in KINDS for rest in (*SCALES, "unrelated", "random")),
    ]


def synthetic_scores(**options: object) -> dict[str, list[ModelScores]]:
    """Raw scores of every model, by id, of one seed."""
    return {model: [model_scores(model, **options)] for model in model_ids()}  # type: ignore[arg-type]


def synthetic_results(
    scores: dict[str, list[ModelScores]] | None = None,
    *,
    name: str = "synthetic",
    draws: int = 2000,
) -> Results:
    """The results that the product's own code computes from made-up raw scores."""
    scores = scores or synthetic_scores()
    choices = [
        choose_scale(scores, kind=kind, traits=TRAITS, max_perplexity_rise=0.1) for kind in KINDS
    ]
    return assemble(
        scores,
        name=name,
        base=BaseInfo(name="made-up base", parameters=134_515_008, tensors=272, dtype="float32"),
        traits=[
            TraitInfo.model_validate(
                {
                    "name": trait,
                    "role": role,
                    "title": trait.replace("_", " ").capitalize(),
                    "description": f"Speaks as one who has {trait.replace('_', ' ')}.",
                    "rationale": "Made up for a test.",
                    "source": "tests",
                    "licence": "CC0",
                }
            )
            for trait, role in ROLE_OF.items()
        ],
        choices=choices,
        max_perplexity_rise=0.1,
        vectors=[_vectors(kind) for kind in KINDS],
        jobs=_jobs([*TRAITS, UNRELATED]),
        stages=[Stage(name=stage, seconds=seconds) for stage, seconds in _STAGES],
        peak_memory_mib=3391.0,
        config={"name": name, "seed": 0, "scales": list(SCALES), "train": {"steps": 24}},
        versions={"tvmerge": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        created="2025-01-01T12:00:00+00:00",
        draws=draws,
    )


_STAGES = (("fine-tune", 211.4), ("vectors", 3.1), ("merge", 9.8), ("measure", 260.0))


def _vectors(kind: Kind) -> VectorSet:
    names: tuple[str, ...] = (*TRAITS, UNRELATED)
    if kind == "plain":
        names = tuple(f"{trait}.{pole}" for trait in names for pole in ("have", "lack"))
    size = len(names)
    directions = np.random.default_rng(5).normal(size=(size, 40)) + (2 if kind == "plain" else 0.4)
    lengths = np.linalg.norm(directions, axis=1)
    cosines = directions @ directions.T / np.outer(lengths, lengths)
    return VectorSet(
        kind=kind,
        names=names,
        norms=tuple((0.9 + 0.05 * np.arange(size)).tolist()),
        cosines=tuple(tuple(row) for row in cosines.tolist()),
    )


def _jobs(traits: Sequence[str]) -> list[JobSummary]:
    return [
        JobSummary(
            name=f"{trait}.{pole}",
            trait=trait,
            pole=pole,
            items=192,
            steps=24,
            seconds=49.5 + len(trait) / 7,
            tokens=5120,
            first_loss=3.41,
            last_loss=2.07,
        )
        for trait in traits
        for pole in ("have", "lack")
    ]
