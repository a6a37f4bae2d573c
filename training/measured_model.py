"""The models that a study measures, and the ids that name them."""

from __future__ import annotations

from typing import Literal

from tvmerge.errors import ConfigError
from tvmerge.training.config import Kind
from tvmerge.training.scores import Record

ModelRole = Literal["base", "start", "tuned", "negated", "control"]
Control = Literal["unrelated", "random"]
KINDS: tuple[Kind, ...] = ("plain", "contrastive")


class MeasuredModel(Record):
    """A model that was measured; changes are counted from `reference`."""

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
        """The model that a study's id names.

        `base`, `start.contrastive`, `tuned.<trait>`, `<kind>.<scale>`, `<kind>.unrelated`,
        `<kind>.random`.
        """
        head, _, tail = model_id.partition(".")
        if model_id == "base":
            return cls(id=model_id, role="base", edit_norm=edit_norm)
        if model_id == "start.contrastive":
            return cls(
                id=model_id,
                role="start",
                kind="contrastive",
                reference="base",
                edit_norm=edit_norm,
            )
        if head == "tuned" and tail:
            return cls(id=model_id, role="tuned", trait=tail, reference="base", edit_norm=edit_norm)
        if head in KINDS and tail:
            common = {
                "id": model_id,
                "kind": head,
                "reference": start_of(head),
                "edit_norm": edit_norm,
            }
            if tail in ("unrelated", "random"):
                return cls.model_validate({**common, "role": "control", "control": tail})
            return cls.model_validate(
                {**common, "role": "negated", "scale": _scale(tail, model_id)}
            )
        raise ConfigError(_unknown_id(model_id))


def start_of(kind: str) -> str:
    """The id of the model that a kind's edits start from."""
    return "base" if kind == "plain" else f"start.{kind}"


def _scale(text: str, model_id: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(_unknown_id(model_id)) from None


def _unknown_id(model_id: str) -> str:
    return (
        f"model id {model_id!r}: expected base, start.contrastive, tuned.<trait>, or "
        f"plain or contrastive followed by .<scale>, .unrelated or .random."
    )
