"""LoRA adapters as inputs: what peft merges, through every door."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from support.adapters import MODULE, RANK, peft_adapter, write_adapter
from support.checkpoints import read_model, tensor_bytes
from support.small_checkpoints import tensors, write

from tvmerge import Checkpoint, TaskVector, _core
from tvmerge.cli import cli
from tvmerge.engine.run_options import Progress, RunOptions
from tvmerge.merging.merge import save_checkpoint
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.verify import verify
from tvmerge.replay import replay

WEIGHT = f"{MODULE}.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "computed"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.output


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, tensor in found.items():
        bound = 2e-6 * max(1.0, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(tensor, expected[name], rtol=0, atol=bound, err_msg=name)


def llama(folder: Path, **config: Any) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=64, num_hidden_layers=2, num_key_value_heads=2, **sizes, **config)
    ).save_pretrained(folder)
    return folder


def gpt2(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=24, n_layer=2, n_head=2)).save_pretrained(
        folder
    )
    return folder


def biased(folder: Path) -> Path:
    return llama(folder, attention_bias=True)


def tied(folder: Path) -> Path:
    return llama(folder, tie_word_embeddings=True)


ATTENTION = ["q_proj", "v_proj"]
ADAPTERS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "plain": (llama, {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"}),
    "rslora": (llama, {"r": 4, "use_rslora": True, "target_modules": ATTENTION}),
    "patterns": (
        llama,
        {
            "target_modules": ATTENTION,
            "rank_pattern": {"v_proj": 5, r"layers\.1\.self_attn\.q_proj": 2},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 3},
        },
    ),
    "saved": (llama, {"target_modules": ATTENTION, "modules_to_save": ["norm", "lm_head"]}),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"]}),
    "tied": (tied, {"target_modules": ["lm_head", "embed_tokens"]}),
    "all biases": (biased, {"target_modules": ["q_proj"], "bias": "all"}),
    "own biases": (biased, {"target_modules": ATTENTION, "bias": "lora_only"}),
    "bias of B": (biased, {"target_modules": ATTENTION, "lora_bias": True, "lora_alpha": 3}),
    "fan_in_fan_out": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "bfloat16": (llama, {"target_modules": ATTENTION, "dtype": "bfloat16"}),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_applied_adapter_is_what_peft_merges(kind: str, tmp_path: Path, cache: Path) -> None:
    from transformers import AutoModelForCausalLM

    make, config = ADAPTERS[kind]
    base, adapter = make(tmp_path / "base"), tmp_path / "adapter"
    merged = peft_adapter(adapter, lambda: AutoModelForCausalLM.from_pretrained(base), **config)
    run("apply", base, tmp_path / "out", "--add", adapter)
    run("vector", base, adapter, tmp_path / "vector")
    run("apply", base, tmp_path / "again", "--add", tmp_path / "vector")
    found = read_model(tmp_path / "out")
    assert_close(found, merged)
    assert any((found[name] != tensor).any() for name, tensor in read_model(base).items())
    assert tensor_bytes(tmp_path / "again" / "model.safetensors") == tensor_bytes(
        tmp_path / "out" / "model.safetensors"
    )
    assert not any(cache.iterdir())


def test_convolutions_are_what_peft_merges(tmp_path: Path) -> None:
    import torch

    def load() -> torch.nn.Module:
        model = torch.nn.Sequential()
        torch.manual_seed(1)
        model.add_module("conv", torch.nn.Conv2d(4, 6, (3, 2)))
        model.add_module("point", torch.nn.Conv2d(6, 5, 1))
        model.add_module("line", torch.nn.Conv1d(5, 4, 3))
        return model

    weights = {name: tensor.numpy() for name, tensor in load().state_dict().items()}
    base = write(tmp_path / "base", weights)
    targets = ["conv", "point", "line"]
    merged = peft_adapter(tmp_path / "adapter", load, r=2, target_modules=targets)
    run("apply", base, tmp_path / "out", "--add", tmp_path / "adapter")
    assert_close(read_model(tmp_path / "out"), merged)


def test_adapters_add_up_with_scales_beside_checkpoints(tmp_path: Path) -> None:
    base, tuned = write(tmp_path / "base", tensors(0)), write(tmp_path / "tuned", tensors(1))
    one = write_adapter(tmp_path / "one")
    two = write_adapter(tmp_path / "two", use_rslora=True)
    run("apply", base, tmp_path / "out", "--subtract", f"{one}=0.5", "--add", two, "--add", tuned)
    held = load_file(one / "adapter_model.safetensors")
    a, b = (held[f"base_model.model.{MODULE}.lora_{x}.weight"].astype(float) for x in "AB")
    delta = (6 / np.sqrt(RANK) - 0.5 * 6 / RANK) * (b @ a)
    found = read_model(tmp_path / "out")[WEIGHT]
    np.testing.assert_allclose(found, tensors(1)[WEIGHT] + delta, atol=2e-6)


def test_expression_in_python_is_the_command(tmp_path: Path) -> None:
    path, adapter = write(tmp_path / "base", tensors(0)), write_adapter(tmp_path / "adapter")
    base = Checkpoint(path)
    run("apply", path, tmp_path / "out", "--add", f"{adapter}=0.5")
    expected = tensor_bytes(tmp_path / "out" / "model.safetensors")
    for name, vector in (
        ("checked", TaskVector(adapter, base=base)),
        ("later", TaskVector(adapter)),
        ("file", TaskVector(adapter / "adapter_model.safetensors")),
    ):
        (base + 0.5 * vector).save(tmp_path / name)
        assert tensor_bytes(tmp_path / name / "model.safetensors") == expected
    vector = TaskVector(adapter)
    assert ((base + vector) - base).coefficients == vector.coefficients


def test_products_have_the_same_bits_everywhere() -> None:
    generator = np.random.default_rng(0)
    for rows, rank, columns in ((1, 1, 1), (300, 7, 2050), (5, 64, 1024)):
        left, right, out = (
            generator.standard_normal(shape).astype(np.float32)
            for shape in ((rows, rank), (rank, columns), (rows, columns))
        )
        sums = np.zeros((rows, columns))
        for k in range(rank):  # in this order, each product being exact
            sums += left[:, k : k + 1].astype(float) * right[k].astype(float)
        expected = (out.astype(float) + 0.3 * sums).astype(np.float32)
        for isa in _core.available_isas():
            for threads in (1, 3):
                found = out.copy()
                _core.add_low_rank(
                    found.ctypes.data,
                    left.ctypes.data,
                    right.ctypes.data,
                    rows=rows,
                    rank=rank,
                    columns=columns,
                    scale=0.3,
                    threads=threads,
                    isa=isa,
                )
                assert found.tobytes() == expected.tobytes(), (isa, threads)


def test_tensor_of_many_blocks_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write(tmp_path / "base", tensors(0))
    generator = np.random.default_rng(5)
    saved = generator.standard_normal((8, 8)).astype(np.float32)
    held = load_file(write_adapter(tmp_path / "plain") / "adapter_model.safetensors")
    held[f"base_model.model.{MODULE}.base_layer.weight"] = saved
    adapter = write_adapter(tmp_path / "adapter", held, fan_in_fan_out=True)
    whole = TaskVector(adapter, base=Checkpoint(base)).state_dict()
    monkeypatch.setattr("tvmerge.inputs.low_rank._BLOCK_ELEMENTS", 24)
    in_blocks = TaskVector(adapter, base=Checkpoint(base)).state_dict()
    assert whole[WEIGHT].equal(in_blocks[WEIGHT])
    a, b = (held[f"base_model.model.{MODULE}.lora_{x}.weight"].astype(float) for x in "AB")
    expected = saved.astype(float) - tensors(0)[WEIGHT] + 2 * (b @ a).T
    np.testing.assert_allclose(whole[WEIGHT].numpy(), expected, atol=2e-6)


RECIPE = """
merge_method: {method}
base_model: {base}
models:
  - {{model: {one}, parameters: {{weight: 0.7, density: 0.5}}}}
  - {{model: {two}, parameters: {{weight: -0.4, density: 0.5}}}}
"""


@pytest.mark.parametrize("method", ["ties", "dare_linear", "breadcrumbs"])
def test_recipe_with_adapters_is_that_with_their_models(method: str, tmp_path: Path) -> None:
    base = write(tmp_path / "base", tensors(0))
    for name, scale in (("one", 6), ("two", 2)):
        write_adapter(tmp_path / name, lora_alpha=scale)
        whole = f"merge_method: passthrough\nmodels: [{{model: {base}+{tmp_path / name}}}]\n"
        (tmp_path / "whole.yaml").write_text(whole)
        run("merge", tmp_path / "whole.yaml", tmp_path / f"{name}-tuned")
    for out, one, two in (
        ("merged", tmp_path / "one-tuned", tmp_path / "two-tuned"),
        ("out", f"{base}+{tmp_path / 'one'}", f"{base}+{tmp_path / 'two'}"),
    ):
        recipe = tmp_path / f"{out}.yaml"
        recipe.write_text(RECIPE.format(method=method, base=base, one=one, two=two))
        run("merge", recipe, tmp_path / out)
    found, expected = read_model(tmp_path / "out"), read_model(tmp_path / "merged")
    assert all((found[name] == tensor).all() for name, tensor in expected.items())
    assert not replay(read_receipt(tmp_path / "out"))


def test_adapter_may_be_the_base_of_a_recipe(tmp_path: Path) -> None:
    base, tuned = write(tmp_path / "base", tensors(0)), write(tmp_path / "tuned", tensors(1))
    adapter = write_adapter(tmp_path / "a+b")  # a path may have a plus of its own
    (tmp_path / "recipe.yaml").write_text(
        f"merge_method: task_arithmetic\nbase_model: {base}+{adapter}\n"
        f"models: [{{model: {tuned}, parameters: {{weight: 0.5}}}}]\n"
    )
    run("merge", tmp_path / "recipe.yaml", tmp_path / "out")
    whole = (Checkpoint(base) + TaskVector(adapter)).state_dict()[WEIGHT].numpy()
    expected = 0.5 * (whole + tensors(1)[WEIGHT])
    np.testing.assert_allclose(read_model(tmp_path / "out")[WEIGHT], expected, atol=2e-6)


def test_receipt_has_the_adapters_files_and_is_verified(tmp_path: Path) -> None:
    base, adapter = write(tmp_path / "base", tensors(0)), write_adapter(tmp_path / "adapter")
    run("apply", base, tmp_path / "out", "--add", adapter)
    receipt = read_receipt(tmp_path / "out")
    record = receipt.inputs[1]
    assert (record.path, record.coefficient) == (str(adapter), 1.0)
    names = ["adapter_model.safetensors", "adapter_config.json"]
    assert [file.name for file in record.files] == names
    assert verify(tmp_path / "out", inputs=True).intact
    assert not replay(receipt)
    weights = adapter / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert [fault.file for fault in verify(tmp_path / "out", inputs=True).faults] == [
        f"input {weights}"
    ]
    assert [fault.file for fault in replay(receipt)] == [f"input {weights}"]


def test_stored_vector_of_an_adapter_is_replayed(tmp_path: Path) -> None:
    base = write(tmp_path / "base", tensors(0))
    held = {f"base_model.model.{WEIGHT}": tensors(4)[WEIGHT]}
    adapter = write_adapter(tmp_path / "adapter", held)
    run("vector", base, adapter, tmp_path / "vector")
    receipt = read_receipt(tmp_path / "vector")
    assert [Path(one.path).name for one in receipt.inputs] == ["adapter", "base"]
    assert not replay(receipt)
    assert (read_model(tmp_path / "vector", "vector")[WEIGHT] != 0).all()


def test_what_is_computed_again_is_the_same_input(tmp_path: Path, cache: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")

    def files() -> list[tuple[Path, int, bytes]]:
        vector = TaskVector(adapter)
        (path, _) = vector.donor.shards[0]
        return [(path, path.stat().st_mtime_ns, path.read_bytes())]

    first = files()
    assert not any(cache.iterdir())
    assert files() == first


def test_interrupted_merge_goes_on_with_what_is_computed_again(tmp_path: Path, cache: Path) -> None:
    base = Checkpoint(write(tmp_path / "base", tensors(0)))
    adapter = write_adapter(tmp_path / "adapter")

    def stop(moved: int, whole: int) -> None:
        if moved > whole // 2:
            raise KeyboardInterrupt

    def save(out: str, progress: Progress | None = None) -> float:
        model = base + TaskVector(adapter, base=base)
        options = RunOptions(batch_bytes=256, threads=1, progress=progress)
        folder = tmp_path / out
        save_checkpoint(model.coefficients, base.donor, folder, dtype=None, options=options)
        return float(read_receipt(folder).run["resumed_bytes"])

    with pytest.raises(KeyboardInterrupt):
        save("out", stop)
    assert not any(cache.iterdir())
    assert save("out") > 0
    save("whole")
    assert tensor_bytes(tmp_path / "out" / "model.safetensors") == tensor_bytes(
        tmp_path / "whole" / "model.safetensors"
    )


def test_zero_factor_changes_nothing_and_says_so(tmp_path: Path) -> None:
    base = write(tmp_path / "base", tensors(0))
    adapter = write_adapter(tmp_path / "adapter")
    held = load_file(adapter / "adapter_model.safetensors")
    name = f"base_model.model.{MODULE}.lora_B.weight"
    save_file(held | {name: 0 * held[name]}, adapter / "adapter_model.safetensors")
    done = CliRunner().invoke(
        cli, ["apply", str(base), str(tmp_path / "out"), "--add", str(adapter)]
    )
    assert done.exit_code == 6
    assert not (tmp_path / "out").exists()


def test_inspect_tells_what_an_adapter_is(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base_model_name_or_path="org/base")
    assert "1 of rank 3, times 2\n" in run("inspect", adapter)
    found = json.loads(run("inspect", adapter, "--json"))
    assert found["kind"] == "LoRA adapter"
    assert found["adapter"] == {"base": "org/base", "products": [[3, 2.0, 1]], "saved": []}


def test_adapters_need_neither_numpy_nor_torch(tmp_path: Path) -> None:
    base, adapter = write(tmp_path / "base", tensors(0)), write_adapter(tmp_path / "adapter")
    code = (
        "import sys\nfrom tvmerge import Checkpoint, TaskVector\n"
        "base, adapter, out = sys.argv[1:]\nbase = Checkpoint(base)\n"
        "(base + TaskVector(adapter, base=base)).save(out)\n"
        "assert not {'numpy', 'torch', 'safetensors', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, base, adapter, tmp_path / "out"], check=True)


def test_threads_that_are_asked_for_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = write(tmp_path / "base", tensors(0)), write_adapter(tmp_path / "adapter")
    used: list[int] = []
    for name in ("combine_tensors", "add_low_rank"):
        real = getattr(_core, name)

        def told(*arguments: Any, real: Any = real, **options: Any) -> None:
            used.append(options["threads"])
            real(*arguments, **options)

        monkeypatch.setattr(_core, name, told)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: passthrough\nmodels: [{{model: {base}+{adapter}}}]\n")
    for number, arguments in enumerate(
        (
            ("apply", base, tmp_path / "out", "--add", adapter),
            ("vector", base, adapter, tmp_path / "vector"),
            ("merge", recipe, tmp_path / "merged"),
            ("plan", base, "--add", adapter, "--no-probe"),
            ("verify", tmp_path / "out", "--replay"),
            ("verify", tmp_path / "merged", "--replay"),
        ),
        3,
    ):
        used.clear()
        run(*arguments, "--threads", number)
        assert set(used) == {number}, arguments
