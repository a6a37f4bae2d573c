"""Heads that are the embedding again: models that have one tensor for both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tvmerge.files.safetensors import Header

_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|shared)\.weight$"
)
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")


def is_head(name: str) -> bool:
    """Whether the tensor turns hidden states into logits."""
    return _HEAD.search(name) is not None


def is_embedding(name: str) -> bool:
    """Whether the tensor has a row for every token of the vocabulary."""
    return _EMBEDDING.search(name) is not None


def ties_embedding(config: Mapping[str, Any]) -> bool:
    """Whether a model with this config takes its embedding for the head, as it does unless told."""
    texts = [config, *(value for value in config.values() if isinstance(value, dict))]
    return all(one["tie_word_embeddings"] for one in texts if "tie_word_embeddings" in one)


def without_tied_heads(header: Header) -> Header:
    """The header without heads that lie where an embedding does.

    transformers leaves these out of safetensors files, and not of pytorch_model.bin.
    """
    embeddings = {(e.begin, e.end) for e in header.entries if is_embedding(e.name)}
    kept = [e for e in header.entries if not is_head(e.name) or (e.begin, e.end) not in embeddings]
    return replace(header, entries=tuple(kept)) if len(kept) < len(header.entries) else header
