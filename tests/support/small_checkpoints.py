"""Checkpoints of a few kilobytes, for tests of everything around the arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

Tensors = dict[str, np.ndarray]

EMBEDDING = "model.embed_tokens.weight"
POSITIONS = "model.position_ids"


def tensors(seed: int, *, width: int = 8) -> Tensors:
    generator = np.random.default_rng(seed)
    made: Tensors = {EMBEDDING: generator.standard_normal((32, width)).astype(np.float32)}
    for layer in range(2):
        name = f"model.layers.{layer}.mlp.weight"
        made[name] = generator.standard_normal((width, width)).astype(np.float32)
    made[POSITIONS] = np.arange(4)
    return made


def write(folder: Path, content: Tensors) -> Path:
    folder.mkdir(parents=True)
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def read(folder: Path, stem: str = "model") -> Tensors:
    return dict(load_file(folder / f"{stem}.safetensors"))
