"""The models that a study measures, and the ids that name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from tvmerge.errors import ConfigError
from tvmerge.training.results.scores import Record
from tvmerge.training.settings.kinds import FORMATTED, KINDS, Kind, start_of

ModelRole = Literal["base", "start", "tuned", "negated", "control", "single", "without", "together"]
Control = Literal["unrelated", "random"]
CONTROLS: tuple[Control, ...] = ("unrelated", "random")
TOGETHER = "together.all"
ENSEMBLE = "together.ensemble"


class MeasuredModel(Record):
    """A model that was measured; changes are counted from `reference`.

    role        id                       what it is
    base        base                     what everything starts from
    start       start.contrastive        the base that knows the format of the answers
    tuned       tuned.<trait>            fine-tuned to have one trait
    negated     <kind>.<scale>           all traits removed at once
    control     <kind>.unrelated         another vector removed, at the norm of the chosen edit:
                <kind>.random            of an unrelated trait, or random
    single      <kind>.only-<trait>      one trait removed, at the chosen scale
    without     <kind>.without-<trait>   all but one removed
    together    together.all             all traits added: base + sum of the tuned models' vectors
                together.<trait>+<trait>
                together.ensemble        the tuned models side by side; see ensemble
    """

    id: str
    role: ModelRole
    kind: Kind | None = None
    scale: float | None = None
    control: Control | None = None
    trait: str | None = None
    reference: str | None = None
    edit_norm: float | None = None

    @classmethod
    def from_id(cls, model_id: str, *, edit_norm: float | None = None) -> MeasuredModel:
        """The model that a study's id names; an id that names none raises ConfigError."""
        said = _said(model_id)
        if said is None:
            raise ConfigError(
                f"model id {model_id!r}: expected base, {FORMATTED}, tuned.<trait>, together.all, "
                "or a kind followed by .<scale>, .unrelated, .random, .only-<trait> or "
                f".without-<trait>. Kinds: {', '.join(KINDS)}."
            )
        return cls(id=model_id, edit_norm=edit_norm, **said)


def _said(model_id: str) -> dict[str, Any] | None:
    head, _, tail = model_id.partition(".")
    if model_id == "base":
        return {"role": "base"}
    if model_id == FORMATTED:
        return {"role": "start", "kind": "contrastive", "reference": "base"}
    if head in ("tuned", "together") and tail:
        return {"role": head, "trait": tail, "reference": "base"}
    for kind in KINDS:
        if head == kind and tail:
            of_kind = _of_kind(tail)
            return of_kind and {**of_kind, "kind": kind, "reference": start_of(kind)}
    return None


def _of_kind(tail: str) -> dict[str, Any] | None:
    if tail in CONTROLS:
        return {"role": "control", "control": tail}
    for prefix, role in (("only-", "single"), ("without-", "without")):
        if tail.startswith(prefix):
            return {"role": role, "trait": tail.removeprefix(prefix)}
    try:
        return {"role": "negated", "scale": float(tail)}
    except ValueError:
        return None


def together_id(traits: Sequence[str]) -> str:
    """The id of the model to which these traits were added: `together.a+b`."""
    return f"together.{'+'.join(traits)}"
