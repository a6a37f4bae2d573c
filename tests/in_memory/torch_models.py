"""A small torch model, checkpoints for it, and tensors as bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

EMBED, HEAD, COUNT = "embed.weight", "head.weight", "steps"


class Small(torch.nn.Module):
    """Two layers, a buffer that is saved, one that is not."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(16, 6)
        self.head = torch.nn.Linear(6, 16, bias=False)
        self.register_buffer("steps", torch.arange(3))
        self.register_buffer("angles", torch.ones(4), persistent=False)
        if tied:
            self.head.weight = self.embed.weight


def weights(seed: int, **changed: np.ndarray) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {
        EMBED: generator.standard_normal((16, 6)).astype(np.float32),
        HEAD: generator.standard_normal((16, 6)).astype(np.float32),
        COUNT: np.array([7, 8, 9]),
    }
    return made | changed


def bits(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, bytes]]:
    return {
        name: (tensor.dtype, tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }
