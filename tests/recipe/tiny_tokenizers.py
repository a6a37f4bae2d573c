"""Models of a few kilobytes with real tokenizers whose tokens are what a test says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

EMBEDDING, HEAD, LAYER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.weight"
NORM = "model.norm.weight"
WIDTH = 3


def tokenizer(tokens: Sequence[str], special: Sequence[str] = ()) -> Tokenizer:
    """Words by their numbers; those that stand in angle brackets are special."""
    made = Tokenizer(models.WordLevel({t: n for n, t in enumerate(tokens)}, unk_token=tokens[0]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken(t, special=True) for t in special])
    return made


def write_model(
    folder: Path,
    tokens: Sequence[str],
    *,
    seed: int,
    special: Sequence[str] = (),
    head: bool = True,
    rows: int | None = None,
    dtype: Any = np.float32,
    settings: dict[str, Any] | None = None,
) -> Path:
    """A model with a row for every token, or so many; without a head its head is tied."""
    folder.mkdir(parents=True)
    held = [*tokens, *(one for one in special if one not in tokens)]
    generator = np.random.default_rng(seed)
    count = len(held) if rows is None else rows
    shapes = {EMBEDDING: (count, WIDTH), LAYER: (4, 4), NORM: (WIDTH,), HEAD: (count, WIDTH)}
    tensors = {n: generator.standard_normal(shape).astype(dtype) for n, shape in shapes.items()}
    if not head:
        del tensors[HEAD]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": count}
    config["tie_word_embeddings"] = not head
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer(tokens, special).save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", **(settings or {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def ids(folder: Path) -> dict[str, int]:
    """The tokens of a folder with their numbers."""
    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
