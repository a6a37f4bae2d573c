"""Valid documents, small ones, that the mutations start from."""

from __future__ import annotations

import json
from random import Random

from support import torch_files

from tvmerge.files.safetensors import DTYPE_BITS, layout, size_in_bytes

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


TORCH_TOKENS = (
    b"(", b")", b"t", b"}", b"]", b"a", b"e", b"s", b"u", b"R", b"b", b"Q", b".", b"N", b"\x88",
    b"\x85", b"\x86", b"\x87", b"q\0", b"h\0", b"\x94", b"\x93", b"K\7", b"X\1\0\0\0a",
    b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 8, b"\x8a\x09" + b"\x7f" * 9,
    b"X\xff\xff\xff\xff",
    b"ctorch\nHalfStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n", b"i",
    b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"\xff" * 4, b"\xff" * 8, b"\0" * 8,
    b"\1\0\x18\0", b"archive/data.pkl", b"archive/data/0", b"a/", b"\x85" * 2000,
)  # fmt: skip


def torch_pickle(random: Random) -> tuple[bytes, dict[str, bytes]]:
    """The pickle of a state dict, and the storages that go with it."""
    values, storages = {}, {"0": bytes(48)}
    for name in random.sample(NAMES, random.randrange(len(NAMES))):
        kind = random.choice(("Float", "Half", "Long"))
        of = torch_files.storage("0", 6, kind + "Storage")
        shape, strides, offset = random.choice((((2, 3), (3, 1), 0), ((2,), (1,), 3), ((), (), 5)))
        values[name] = torch_files.tensor(of, shape, strides, offset)
        if random.random() < 0.3:
            values[name] = torch_files.parameter(values[name])
    return torch_files.PROTOCOL + torch_files.mapping(values) + torch_files.STOP, storages


def index(random: Random) -> bytes:
    """The JSON text of an index."""
    shards = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)] + ["parts/x.safetensors"]
    weight_map = {name: random.choice(shards) for name in random.sample(NAMES, 4)}
    return json.dumps({"metadata": {"total_size": 12}, "weight_map": weight_map}).encode()


def adapter(random: Random) -> tuple[bytes, bytes]:
    """The two files of a LoRA adapter."""
    rank, tensors = random.randrange(1, 4), []
    for number in range(2):
        module = f"base_model.model.layers.{number}.up"
        tensors += [
            (f"{module}.lora_A.weight", "F32", (rank, 3)),
            (f"{module}.lora_B.weight", "BF16", (5, rank)),
        ]
    tensors.append(("base_model.model.embed.lora_embedding_A", "F32", (rank, 4)))
    tensors.append(("base_model.model.embed.lora_embedding_B", "F32", (2, rank)))
    tensors.append(("base_model.model.norm.weight", "F16", (3,)))
    head, _, size = layout(tensors, {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": random.choice((8, 0.5)),
        "use_rslora": random.random() < 0.5,
        "rank_pattern": {r"layers\.0\..*": rank},
        "alpha_pattern": {"up": 3},
    }
    return json.dumps(config).encode(), head + bytes(size - len(head))


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
