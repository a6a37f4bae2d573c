"""Checkpoints of any size with random weights, for measuring a machine without a model at hand.

A Llama's tensors in bfloat16, in shards. A tuned one differs from its base as a fine-tune does:
elements move by up to about 1 %.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tvmerge.errors import storage_errors
from tvmerge.files.safetensors import layout, size_in_bytes
from tvmerge.files.weight_files import INDEX_SUFFIX
from tvmerge.plans.plan import OutShard

_SHARD_BYTES = 1_000_000_000
_VOCABULARY = 32_000
# Drawn once and written again and again: a disk does not care, and a large model is made fast.
_POOL_BYTES = 1 << 23
# The upper bytes, sign and seven bits of the exponent: values of either sign, 2^-9 to 2^-5.
_HIGH_BYTES = bytes((0x3B, 0x3C, 0xBB, 0xBC)) * 64
# The bit of the lower bytes that a fine-tune flips: the mantissa's last one, 2^-7 of the value.
_FLIPPED = bytes((0x00, 0x01)) * 128

_Shape = tuple[int, ...]


def write_random_model(folder: Path, parameters: float, *, tuned: int = 0) -> int:
    """Write a checkpoint of about so many parameters to the new `folder`; returns its bytes.

    `tuned` numbers the fine-tunes of a base; 0 is the base itself. Raises StorageError where the
    disk refuses.
    """
    shapes = _shapes(parameters)
    pool = _pool(tuned)
    with storage_errors(folder):
        folder.mkdir(parents=True)
        shards = list(_shards(shapes))
        for shard in shards:
            _write(folder / shard.name, shard, pool)
        if len(shards) > 1:
            weight_map = {entry.name: shard.name for shard in shards for entry in shard.entries}
            index = {"metadata": {}, "weight_map": weight_map}
            (folder / f"model{INDEX_SUFFIX}").write_text(json.dumps(index, indent=2) + "\n")
        (folder / "config.json").write_text(json.dumps(llama_config(shapes), indent=2) + "\n")
    return sum(shard.size_bytes for shard in shards)


def _shapes(parameters: float) -> dict[str, _Shape]:
    """A Llama's tensors; width and depth grow together, as from TinyLlama's 2048 and 22."""
    width = max(64, round((parameters / 1.1e9) ** 0.5 * 2048 / 64) * 64)
    ffn, kv = width * 11 // 4, max(8, width // 8)
    vocabulary = _VOCABULARY if parameters >= 1e8 else 1024
    layer = {
        "input_layernorm": (width,),
        "mlp.down_proj": (width, ffn),
        "mlp.gate_proj": (ffn, width),
        "mlp.up_proj": (ffn, width),
        "post_attention_layernorm": (width,),
        "self_attn.k_proj": (kv, width),
        "self_attn.o_proj": (width, width),
        "self_attn.q_proj": (width, width),
        "self_attn.v_proj": (kv, width),
    }
    per_layer = 2 * width * width + 2 * width * kv + 3 * width * ffn + 2 * width
    layers = max(1, round((parameters - 2 * vocabulary * width) / per_layer))
    found: dict[str, _Shape] = {"model.embed_tokens.weight": (vocabulary, width)}
    for number in range(layers):
        found |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return found | {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}


def _pool(tuned: int) -> bytes:
    """Random bytes of which every two are a finite bfloat16, near those of the base."""
    values = bytearray(random.Random(0).randbytes(_POOL_BYTES))
    values[1::2] = values[1::2].translate(_HIGH_BYTES)
    if tuned:
        low = values[0::2]
        flips = random.Random(tuned).randbytes(len(low)).translate(_FLIPPED)
        moved = int.from_bytes(low, "little") ^ int.from_bytes(flips, "little")
        values[0::2] = moved.to_bytes(len(low), "little")
    return bytes(values)


def _shards(shapes: dict[str, _Shape]) -> Iterator[OutShard]:
    held: list[list[tuple[str, str, _Shape]]] = [[]]
    size = 0
    for name, shape in shapes.items():
        size += size_in_bytes("BF16", shape)
        if held[-1] and size > _SHARD_BYTES:
            held.append([])
            size = size_in_bytes("BF16", shape)
        held[-1].append((name, "BF16", shape))
    for number, tensors in enumerate(held, 1):
        file = f"model-{number:05d}-of-{len(held):05d}" if len(held) > 1 else "model"
        head, entries, size_bytes = layout(tensors, {"format": "pt"})
        yield OutShard(f"{file}.safetensors", head, size_bytes, tuple(entries))


def _write(path: Path, shard: OutShard, pool: bytes) -> None:
    with path.open("xb") as file:
        file.write(shard.head)
        left = shard.size_bytes - len(shard.head)
        while left > 0:
            left -= file.write(pool[:left])


def llama_config(shapes: dict[str, _Shape], dtype: str = "bfloat16") -> dict[str, object]:
    """The config.json of a Llama with tensors of these shapes; `dtype` is torch's name."""
    vocabulary, width = shapes["model.embed_tokens.weight"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": shapes["model.layers.0.mlp.up_proj.weight"][0],
        "num_attention_heads": width // 64,
        "num_hidden_layers": sum(name.endswith("q_proj.weight") for name in shapes),
        "num_key_value_heads": max(1, shapes["model.layers.0.self_attn.k_proj.weight"][0] // 64),
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
    }
