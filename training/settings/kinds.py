"""The ways of removing traits that a study compares, and what each is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

Kind = Literal[
    "plain",
    "contrastive",
    "trimmed",
    "ties",
    "orthogonal",
    "negmerge",
    "layerwise",
    "replayed",
    "searched",
    "absence",
    "ascent",
    "preference",
]
Start = Literal["base", "start.contrastive"]
BASE: Start = "base"
# The base that knows the format of the answers: see vectors.
FORMATTED: Start = "start.contrastive"


@dataclass(frozen=True, slots=True, kw_only=True)
class KindInfo:
    """How a kind of edit is called, where it starts, and the scales tried unless told.

    `direct` kinds are no negated vectors: they train all traits away at once, for comparison, and
    their scale is the share of that training's path that is gone. `merged` kinds are one vector,
    merged of those of all traits.
    """

    subject: str
    method: str
    start: Start
    scales: tuple[float, ...]
    direct: bool = False
    merged: bool = False

    @property
    def by_trait(self) -> bool:
        """Whether it is a sum over the traits, each of which can be negated alone."""
        return not self.direct and not self.merged


KINDS: Mapping[Kind, KindInfo] = MappingProxyType({
    "plain": KindInfo(
        subject="Plain vectors",
        method="tuned to have the trait minus the base (Ilharco et al. 2022)",
        start=BASE,
        # Plain vectors share what both poles teach; that adds up over the traits and costs more.
        scales=(0.1, 0.25, 0.5),
    ),
    "contrastive": KindInfo(
        subject="Contrastive vectors",
        method="tuned to have the trait minus tuned to lack it, from a base that knows the format",
        start=FORMATTED,
        scales=(0.5, 1.0, 2.0),
    ),
    "trimmed": KindInfo(
        subject="Trimmed vectors",
        method="contrastive, of each vector the largest fifth of its elements",
        start=FORMATTED,
        scales=(0.5, 1.0, 2.0),
        merged=True,
    ),
    "ties": KindInfo(
        subject="TIES-merged vectors",
        method="contrastive, trimmed, signs elected over the traits (Yadav et al. 2023)",
        start=FORMATTED,
        scales=(1.0, 2.0, 4.0),
        merged=True,
    ),
    "orthogonal": KindInfo(
        subject="Orthogonalised vectors",
        method="contrastive, without their projections on the control traits' vectors",
        start=FORMATTED,
        scales=(0.5, 1.0, 2.0),
    ),
    "negmerge": KindInfo(
        subject="NegMerge vectors",
        method="contrastive, where several fine-tunes of a trait agree in sign (Kim et al. 2025)",
        start=FORMATTED,
        scales=(0.5, 1.0, 2.0),
    ),
    "layerwise": KindInfo(
        subject="Layer-scaled vectors",
        method="contrastive, its scale linear in the depth of the layer (LiNeS, Wang et al. 2024)",
        start=FORMATTED,
        # Of the norms that contrastive vectors have at 0.5, 1 and 2, if all layers change alike.
        scales=(0.75, 1.5, 3.0),
    ),
    "replayed": KindInfo(
        subject="Vectors with control replay",
        method="contrastive, of fine-tunes that also see control items, answered alike for both",
        start=FORMATTED,
        scales=(0.5, 1.0, 2.0),
    ),
    "searched": KindInfo(
        subject="Vectors at searched scales",
        method="contrastive, each at a scale of its own, searched under constraints",
        start=FORMATTED,
        scales=(1.0,),
    ),
    "absence": KindInfo(
        subject="Training towards absence",
        method="fine-tuning on the answers that lack the traits, all at once",
        start=BASE,
        scales=(0.25, 0.5, 1.0),
        direct=True,
    ),
    "ascent": KindInfo(
        subject="Gradient ascent",
        method="raising the loss of the answers that show the traits, all at once",
        start=BASE,
        scales=(0.1, 0.25, 0.5, 1.0),
        direct=True,
    ),
    "preference": KindInfo(
        subject="Preference tuning",
        method="DPO of lacking over showing answers (Rafailov et al. 2023), all traits at once",
        start=BASE,
        scales=(0.25, 0.5, 1.0),
        direct=True,
    ),
})  # fmt: skip
assert tuple(KINDS) == get_args(Kind)
# Those with a name of their own.
NAMES: Mapping[Kind, str] = MappingProxyType({"ties": "TIES", "negmerge": "NegMerge"})


def in_sentence(kind: Kind) -> str:
    """What the kind is called within a sentence: `plain vectors`, `TIES-merged vectors`."""
    subject = KINDS[kind].subject
    return subject if kind in NAMES else subject[:1].lower() + subject[1:]


def kind_title(kind: Kind) -> str:
    """The kind's own name where it stands alone: `Plain`, `TIES`."""
    return NAMES.get(kind, kind.capitalize())


def start_of(kind: Kind) -> Start:
    """The id of the model that a kind's edits start from."""
    return KINDS[kind].start
