"""Valid documents, small ones, that the mutations start from."""

from __future__ import annotations

import json
from random import Random

from tvmerge.safetensors import DTYPE_BITS, layout, size_in_bytes

NAMES = ("a", "b", "model.embed_tokens.weight", "model.layers.0.mlp.weight", "é", "lm_head.weight")
_DTYPES = ("F32", "BF16", "F16", "F64", "F8_E4M3", "I64", "U8", "BOOL", "F4")


def header(random: Random) -> tuple[bytes, int]:
    """The JSON text of a header, and the size of its file."""
    tensors = []
    for name in random.sample(NAMES, random.randrange(len(NAMES))):
        dtype = random.choice(_DTYPES)
        shape = tuple(random.choice((0, 1, 2, 3, 8, 5)) for _ in range(random.randrange(4)))
        if dtype == "F4":
            shape = (*shape, 2)
        assert DTYPE_BITS[dtype] and size_in_bytes(dtype, shape) >= 0
        tensors.append((name, dtype, shape))
    head, _, size = layout(tensors, {"format": "pt"} if random.random() < 0.7 else {})
    return head[8:], size


def index(random: Random) -> bytes:
    """The JSON text of an index."""
    shards = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)] + ["parts/x.safetensors"]
    weight_map = {name: random.choice(shards) for name in random.sample(NAMES, 4)}
    return json.dumps({"metadata": {"total_size": 12}, "weight_map": weight_map}).encode()


RECIPES = (
    "merge_method: task_arithmetic\nbase_model: base\nmodels:\n"
    "  - {model: tuned-a, parameters: {weight: -0.5}}\n"
    "  - model: org/tuned-b\n    parameters:\n      weight: 0.3\n"
    "parameters:\n  lambda: 0.9\n  normalize: false\n  int8_mask: true\n"
    "dtype: bfloat16\nout_dtype: float32\n",
    "models:\n- &m\n  model: a # one\n  parameters: &p {weight: 1.5e-1}\n- model: 'b'\n"
    '  parameters: *p\n- {<<: *m, model: "c\\n"}\nmerge_method: linear\n'
    "parameters: {weight: 0x10}\ntokenizer_source: base\n",
    "%YAML 1.1\n---\nmerge_method: linear\n"
    "models: [{model: !!str 12, parameters: {weight: 1:30}}]\n"
    "dtype: |-\n  float16\nbase_model: >-\n  base\n  model\n...\n",
    "name: tall\nmerge_method: passthrough\nslices:\n- sources:\n  - model: a\n"
    "    layer_range: [0, 3]\n    parameters: {scale: [{filter: mlp, value: [0, 1]}, {value: 1}]}\n"
    "- sources: [{model: b, layer_range: [1, 4]}]\n---\nmerge_method: linear\n"
    "modules: {text: {models: [{model: tall, parameters: {weight: [1, 0.5]}}]}}\n",
)
RECIPE_TOKENS = (
    b":", b": ", b"- ", b"\n", b"\n  ", b"\n- ", b"{", b"}", b"[", b"]", b",", b"#", b"&a ", b"*a",
    b"*m", b"*p", b"<<: ", b"? ", b"|", b">", b"'", b'"', b"!!int ", b"!!float ", b"!!bool ",
    b"!!timestamp ", b"!!binary ", b"!!set ", b"!!omap ", b"!!pairs ", b"!!null ", b"!x ", b"%TAG ",
    b"---\n", b"...\n", b"\t", b"~", b"=", b".nan", b"-.inf", b"1e999", b"0x" + b"f" * 60, b"1:60",
    b"9" * 120, b"0b2", b"2001-13-01", b"2001-01-01 24:61:00", b'"\\UFFFFFFFF"', b'"\\ud800"',
    b"\0", b"\x1b", b"\xff", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"[" * 60, b"- " * 60,
    b"weight: ", b"model: ", b"filter: ", b"layer_range: ", b"modules: ", b"slices: ",
    b"yes", b"null", b"@", b"`", b"%", b"\\",
)  # fmt: skip


def recipe(random: Random) -> bytes:
    """A recipe's YAML text."""
    return random.choice(RECIPES).encode()


def recipe_in_json(random: Random) -> bytes:
    """A recipe in the part of YAML that is JSON."""
    models = [{"model": name, "parameters": {"weight": 0.5}} for name in ("a", "b", "org/c")]
    content = {
        "merge_method": random.choice(("linear", "task_arithmetic")),
        "base_model": "base",
        "models": random.sample(models, random.randint(1, 3)),
        "parameters": {"normalize": True, "weight": 1},
        "dtype": "bfloat16",
    }
    return json.dumps(content).encode()
