"""Generates checkpoints of a chosen size for benchmarks: a Llama's tensors, random, in bfloat16.

    python -m benchmarks.models OUT --parameters 1.1e9 --tuned 3

The tuned models differ from the base as fine-tunes do: each element moves by about 1 %.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import click
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

SHARD_BYTES = 1_000_000_000
VOCABULARY = 32_000
# Random numbers are drawn once and reused at a moving offset: a disk does not care, and a large
# model is made in seconds.
POOL_ELEMENTS = 1 << 24


def shapes(parameters: float) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of a Llama with about this many parameters (width and depth as TinyLlama's)."""
    width = max(64, round((parameters / 1.1e9) ** 0.5 * 2048 / 64) * 64)
    ffn, kv = width * 11 // 4, width // 8
    embedding = VOCABULARY * width if parameters >= 1e8 else 1024 * width
    per_layer = 2 * width * width + 2 * width * kv + 3 * width * ffn + 2 * width
    layers = max(2, round((parameters - 2 * embedding) / per_layer))
    vocabulary = embedding // width
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        found |= {
            prefix + "input_layernorm.weight": (width,),
            prefix + "mlp.down_proj.weight": (width, ffn),
            prefix + "mlp.gate_proj.weight": (ffn, width),
            prefix + "mlp.up_proj.weight": (ffn, width),
            prefix + "post_attention_layernorm.weight": (width,),
            prefix + "self_attn.k_proj.weight": (kv, width),
            prefix + "self_attn.o_proj.weight": (width, width),
            prefix + "self_attn.q_proj.weight": (width, width),
            prefix + "self_attn.v_proj.weight": (kv, width),
        }
    return found | {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def write(folder: Path, parameters: float, seed: int) -> int:
    """Write one sharded checkpoint; returns its size in bytes. Existing ones are kept."""
    done = folder / "config.json"
    if done.exists():
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    folder.mkdir(parents=True, exist_ok=True)
    pool = np.random.default_rng(0).standard_normal(POOL_ELEMENTS, dtype=np.float32) * 0.02
    move = np.random.default_rng(seed).standard_normal(POOL_ELEMENTS, dtype=np.float32) * 2e-4
    values = (pool + (move if seed else 0)).astype(ml_dtypes.bfloat16)
    shards: list[dict[str, np.ndarray]] = [{}]
    held = 0
    tensors = shapes(parameters)
    for number, (name, shape) in enumerate(tensors.items()):
        tensor = np.resize(np.roll(values, number * 4099), math.prod(shape)).reshape(shape)
        if held and held + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            held = 0
        shards[-1][name] = tensor
        held += tensor.nbytes
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = sum(2 * math.prod(shape) for shape in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    done.write_text(json.dumps(_config(tensors), indent=2))
    return total


def _config(tensors: dict[str, tuple[int, ...]]) -> dict[str, object]:
    vocabulary, width = tensors["model.embed_tokens.weight"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": tensors["model.layers.0.mlp.up_proj.weight"][0],
        "num_attention_heads": width // 64,
        "num_hidden_layers": sum(name.endswith("q_proj.weight") for name in tensors),
        "num_key_value_heads": max(1, tensors["model.layers.0.self_attn.k_proj.weight"][0] // 64),
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--parameters", default=1.1e9, show_default=True)
@click.option("--tuned", default=3, show_default=True, help="Fine-tunes beside the base.")
def main(out: Path, parameters: float, tuned: int) -> None:
    """Write OUT/base and OUT/tuned1, OUT/tuned2, ..."""
    for number in range(tuned + 1):
        name = f"tuned{number}" if number else "base"
        click.echo(f"{out / name}: {write(out / name, parameters, number):,} bytes")


if __name__ == "__main__":
    main()
