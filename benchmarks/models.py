"""Generates checkpoints of a chosen size for benchmarks: a Llama's tensors, random.

    python -m benchmarks.models OUT --parameters 1.1e9 --tuned 3 --dtype bfloat16

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

from tvmerge.timing.random_model import llama_config

SHARD_BYTES = 1_000_000_000
VOCABULARY = 32_000
# Random numbers are drawn once and reused at a moving offset: a disk does not care, and a large
# model is made in seconds.
POOL_ELEMENTS = 1 << 24
DTYPES = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float32": np.float32,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}


def shapes(parameters: float) -> dict[str, tuple[int, ...]]:
    """Tensor shapes of a Llama with about this many parameters (width and depth as TinyLlama's)."""
    width = max(64, round((parameters / 1.1e9) ** 0.5 * 2048 / 64) * 64)
    heads = width // 64
    kv = 64 * max(d for d in range(1, max(2, heads // 8 + 1)) if heads % d == 0)
    ffn = width * 11 // 4
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


def many_small(count: int) -> dict[str, tuple[int, ...]]:
    """As many tensors, most of them of a few KiB: what a merge costs apart from its bytes."""
    found = shapes(1e5)
    return found | {f"model.small.{number}.weight": (1024,) for number in range(count - len(found))}


def write(
    folder: Path, tensors: dict[str, tuple[int, ...]], seed: int, dtype: str = "bfloat16"
) -> int:
    """Write one sharded checkpoint; returns its size in bytes. Existing ones are kept."""
    done = folder / "config.json"
    if done.exists():
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    folder.mkdir(parents=True, exist_ok=True)
    pool = np.random.default_rng(0).standard_normal(POOL_ELEMENTS, dtype=np.float32) * 0.02
    move = np.random.default_rng(seed).standard_normal(POOL_ELEMENTS, dtype=np.float32) * 2e-4
    values = (pool + (move if seed else 0)).astype(DTYPES[dtype])
    shards: list[dict[str, np.ndarray]] = [{}]
    held = 0
    for number, (name, shape) in enumerate(tensors.items()):
        tensor = _draw(values, number * 4099 % POOL_ELEMENTS, math.prod(shape)).reshape(shape)
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
    total = sum(values.itemsize * math.prod(shape) for shape in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    done.write_text(json.dumps(llama_config(tensors, dtype), indent=2))
    return total


def _draw(values: np.ndarray, start: int, count: int) -> np.ndarray:
    if start + count <= POOL_ELEMENTS:
        return values[start : start + count]
    return np.resize(np.roll(values, -start), count)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--parameters", default=1.1e9, show_default=True)
@click.option("--tuned", default=3, show_default=True, help="Fine-tunes beside the base.")
@click.option("--dtype", type=click.Choice(tuple(DTYPES)), default="bfloat16", show_default=True)
@click.option("--tensors", type=int, help="Instead: so many tensors, nearly all of them small.")
def main(out: Path, parameters: float, tuned: int, dtype: str, tensors: int | None) -> None:
    """Write OUT/base and OUT/tuned1, OUT/tuned2, ..."""
    chosen = many_small(tensors) if tensors else shapes(parameters)
    for number in range(tuned + 1):
        name = f"tuned{number}" if number else "base"
        click.echo(f"{out / name}: {write(out / name, chosen, number, dtype):,} bytes")


if __name__ == "__main__":
    main()
