"""The parts of a study's YAML file that single kinds of edits go by."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from tvmerge.training.settings.kinds import KINDS, Kind
from tvmerge.training.settings.sections import Section, distinct
from tvmerge.training.traits.items import FORMS, Form

ScaleList = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]


class Scales(Section):
    """The scales that are tried, for each kind (see kinds for those tried unless told).

    A plain list (`scales: [0.5, 1]`) means the same scales for all kinds.
    """

    plain: ScaleList = KINDS["plain"].scales
    contrastive: ScaleList = KINDS["contrastive"].scales
    trimmed: ScaleList = KINDS["trimmed"].scales
    ties: ScaleList = KINDS["ties"].scales
    orthogonal: ScaleList = KINDS["orthogonal"].scales
    negmerge: ScaleList = KINDS["negmerge"].scales
    layerwise: ScaleList = KINDS["layerwise"].scales
    replayed: ScaleList = KINDS["replayed"].scales
    searched: ScaleList = KINDS["searched"].scales
    absence: ScaleList = KINDS["absence"].scales
    ascent: ScaleList = KINDS["ascent"].scales
    preference: ScaleList = KINDS["preference"].scales

    @model_validator(mode="before")
    @classmethod
    def _one_list_for_all(cls, said: Any) -> Any:
        return dict.fromkeys(KINDS, said) if isinstance(said, list) else said

    @field_validator("*")
    @classmethod
    def _once_each(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return distinct(values)

    def of(self, kind: Kind) -> tuple[float, ...]:
        """The scales of one kind."""
        scales: tuple[float, ...] = getattr(self, kind)
        return scales


class LayersConfig(Section):
    """What the kind `layerwise` multiplies its scale by, in the first layer and in the last.

    Linear between them; outside the layers as in the first. See tvmerge.methods.lines.
    """

    first: NonNegativeFloat = 0.2
    last: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _some_layer_counts(self) -> LayersConfig:
        if not self.first and not self.last:
            raise ValueError("expected `first` or `last` above 0, found 0 for both.")
        return self


class ReplayConfig(Section):
    """The share of each batch that control items take in the fine-tunes of the kind `replayed`.

    `controls`: those whose training items are replayed (none named: all).
    """

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    controls: tuple[str, ...] = ()

    def of_batch(self, batch_size: int) -> int:
        """How many items of each batch are replayed."""
        return round(self.share * batch_size)


class SearchConfig(Section):
    """How the kind `searched` finds a scale for each trait; see search."""

    trials: PositiveInt = 40
    max_scale: PositiveFloat = 2.0
    max_control_change: PositiveFloat = 0.1
    max_bias_shift: PositiveFloat = 1.0


class NegMergeVariant(Section):
    """One of the fine-tunes that have to agree; as it is, the one that all kinds use.

    `rate` times train.learning_rate; trained on items of these `forms` only (none named: all).
    """

    rate: PositiveFloat = 1.0
    forms: tuple[Form, ...] = ()

    @property
    def name(self) -> str:
        """`rate0.5`, `statement+choice`, `rate2.statement`; empty for what all kinds use."""
        rate = [] if self.rate == 1 else [f"rate{self.rate:g}"]
        forms = "+".join(form for form in FORMS if form in self.forms)
        return ".".join([*rate, *([forms] if forms else [])])


class NegMergeConfig(Section):
    """Which fine-tunes of each trait the kind `negmerge` merges: of both poles, with each seed."""

    variants: Annotated[tuple[NegMergeVariant, ...], Field(min_length=2)] = (
        NegMergeVariant(),
        NegMergeVariant(rate=0.5),
        NegMergeVariant(rate=2.0),
    )

    @field_validator("variants")
    @classmethod
    def _once_each(cls, values: tuple[NegMergeVariant, ...]) -> tuple[NegMergeVariant, ...]:
        distinct(tuple(variant.name for variant in values))
        return values
