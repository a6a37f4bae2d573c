"""Heads that are the embedding again: models that store one tensor for both."""

from __future__ import annotations

from tvmerge.checkpoints.heads import is_embedding, is_head, ties_embedding
from tvmerge.plans.assembly import Model


def ties_head(model: Model, name: str) -> bool:
    """Whether the head `name` is not stored, because the model takes its embedding for it."""
    return is_head(name) and name not in model.entries and ties_embedding(model.config)


def tie_path(model: Model) -> tuple[str, ...]:
    """The key of the config that ties head and embedding, by its path."""
    for key, value in model.config.items():
        if isinstance(value, dict) and "tie_word_embeddings" in value:
            return key, "tie_word_embeddings"
    return ("tie_word_embeddings",)


def named_in(model: Model, name: str) -> str | None:
    """The name under which a model has a tensor: its own, for a tied head that of the embedding."""
    if name in model.entries:
        return name
    if not ties_head(model, name):
        return None
    return next((one for one in model.entries if is_embedding(one)), None)
