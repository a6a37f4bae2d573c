"""LoRA adapters for tests: trained by nobody, saved by peft or written by hand."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

MODULE = "model.layers.0.mlp"
PREFIX = f"base_model.model.{MODULE}"
RANK = 3


def write_adapter(
    folder: Path,
    tensors: Mapping[str, np.ndarray] | None = None,
    **config: Any,
) -> Path:
    """An adapter of rank 3 for small_checkpoints, by default of one module with 8 x 8 weights."""
    generator = np.random.default_rng(3)
    if tensors is None:
        tensors = {
            f"{PREFIX}.lora_A.weight": generator.standard_normal((RANK, 8)).astype(np.float32),
            f"{PREFIX}.lora_B.weight": generator.standard_normal((8, RANK)).astype(np.float32),
        }
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6} | config
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder


def peft_adapter(
    folder: Path, load: Callable[[], Any], *, seed: int = 0, dtype: str = "float32", **config: Any
) -> dict[str, np.ndarray]:
    """Save an adapter with random weights; the weights of peft's own merge, by name on the disk."""
    import peft
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    with warnings.catch_warnings():  # peft's, of tied weights and saved embeddings
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(load(), peft.LoraConfig(**config))
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = 0.05 * torch.randn(parameter.shape, generator=generator)
                parameter.data = (parameter.data + noise).to(getattr(torch, dtype)).float()
        model.save_pretrained(folder)
        file = folder / "adapter_model.safetensors"
        held = {name: one.to(getattr(torch, dtype)) for name, one in load_torch(file).items()}
        save_torch(held, file)
        merged = model.merge_and_unload()
    return {name: tensor.detach().numpy() for name, tensor in merged.state_dict().items()}
