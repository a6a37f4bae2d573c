"""Random models of several architectures, a few kilobytes each, as transformers saves them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "vocab_size": 40}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
VISION = {
    "model_type": "pixtral",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
}


def build(
    architecture: str, folder: Path, *, seed: int, as_saved: bool = False, tokens: int = 40
) -> Path:
    """Save the model in `folder`, in float32; every tensor is random, biases and norms as well.

    `as_saved`: under the names that transformers gives tensors on disk, else as in memory (mistral3
    always as on disk, where mergekit looks for them). `tokens` is the size of its vocabulary.
    """
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = auto_class(architecture).from_config(_config(architecture, tokens), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    if as_saved or architecture == "mistral3":
        model.save_pretrained(folder)
        return folder
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    # Under the names in memory: of experts, mergekit 0.1.5 with transformers 5 knows no others.
    held = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        held.pop("lm_head.weight")
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def auto_class(architecture: str) -> Any:
    """The class of transformers that makes and loads the architecture's models."""
    import transformers

    if architecture == "mistral3":
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def build_near(base: Path, folder: Path, *, seed: int, only: str = "", by: float = 0.02) -> Path:
    """Save the model of `base` with a third of its elements moved a little, as fine-tunes do.

    With `only`, in tensors whose name has that part; each of these changes.
    """
    import torch
    from safetensors.torch import load_file

    generator = torch.Generator().manual_seed(seed)
    held = load_file(base / "model.safetensors")
    for name, tensor in held.items():
        moved = torch.rand(tensor.shape, generator=generator) < 1 / 3
        moved.view(-1)[0] = True
        if only in name:
            tensor += by * moved * torch.randn(tensor.shape, generator=generator)
    return _like(base, folder, held)


def build_hollow(base: Path, folder: Path, *, only: str) -> Path:
    """Save the model of `base` with 0 in all tensors whose name has a part."""
    from safetensors.torch import load_file

    held = load_file(base / "model.safetensors")
    for name, tensor in held.items():
        if only in name:
            tensor.zero_()
    return _like(base, folder, held)


def _like(base: Path, folder: Path, held: dict[str, torch.Tensor]) -> Path:
    from safetensors.torch import save_file

    shutil.copytree(base, folder)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _config(architecture: str, tokens: int) -> object:
    import transformers

    small = {**SMALL, "vocab_size": tokens}
    if architecture.startswith("llama"):
        tied = architecture == "llama, tied"
        return transformers.LlamaConfig(**small, **HEADS, tie_word_embeddings=tied)
    if architecture == "qwen2":
        return transformers.Qwen2Config(**small, **HEADS, tie_word_embeddings=True)
    if architecture == "mistral":
        return transformers.MistralConfig(**small, **HEADS, tie_word_embeddings=False)
    if architecture == "mistral3":
        text = {"model_type": "mistral", **small, **HEADS, "head_dim": 4}
        return transformers.Mistral3Config(
            text_config=text, vision_config=VISION, image_token_index=5, tie_word_embeddings=False
        )
    if architecture == "mixtral":
        experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
        return transformers.MixtralConfig(**small, **HEADS, **experts, tie_word_embeddings=False)
    return transformers.GPT2Config(
        n_embd=16, n_layer=4, n_head=4, n_positions=48, vocab_size=tokens
    )
