"""A merge on disk: layout, companions, what is copied and what is reported, memory."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from oracles.arithmetic import linear, round_once, ulps
from support.checkpoints import (
    DTYPES,
    FLOATS,
    INDEX,
    read_file,
    read_model,
    same_bits,
    write_file,
    write_index,
    write_model,
)

from tvmerge import Checkpoint
from tvmerge.errors import ConfigError, MismatchError, NothingChangedError
from tvmerge.receipts.receipt import RecipeText
from tvmerge.recipe import build, parse_recipe

CONFIG = {"architectures": ["X"], "torch_dtype": "bfloat16"}


def weights(seed: int, dtype: str = "BF16") -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: round_once(generator.standard_normal(shape), dtype)
        for name, shape in (("embed", (40, 16)), ("layers.0.up", (33, 7)), ("norm", (16,)))
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base", weights(0), shards=2, config=CONFIG)


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tuned", weights(1, "F32"))


def negated(base: Path, tuned: Path) -> Checkpoint:
    model = Checkpoint(base)
    return model - 0.5 * (Checkpoint(tuned) - model)


# ---- what is copied --------------------------------------------------------------------------


def test_integers_and_booleans_come_from_the_base_and_differences_are_told(tmp_path: Path) -> None:
    held = {"ids": np.arange(9), "mask": np.array([True, False]), "u8": np.zeros(5, np.uint8)}
    base = write_model(tmp_path / "base", weights(0) | held)
    other = held | {"ids": np.arange(9)[::-1].copy(), "mask": np.array([True, True])}
    tuned = write_model(tmp_path / "tuned", weights(1) | other)
    report = negated(base, tuned).save(tmp_path / "out")
    assert set(report.differing_tensors) == {"ids", "mask"}
    assert (report.combined_tensors, report.copied_tensors) == (3, 3)
    out = read_model(tmp_path / "out")
    assert all(same_bits(out[name], array) for name, array in held.items())


def test_changed_elements_are_counted_bit_by_bit(tmp_path: Path) -> None:
    before = weights(0)
    after = {name: array.copy() for name, array in before.items()}
    after["norm"][3:5] *= np.float32(2).astype(DTYPES["BF16"])
    base = write_model(tmp_path / "base", before)
    tuned = write_model(tmp_path / "tuned", after)
    for number, scale in enumerate((0.5, 1.0)):
        model = Checkpoint(base) + scale * (Checkpoint(tuned) - Checkpoint(base))
        assert model.save(tmp_path / str(number)).changed_elements == 2


def test_an_edit_that_rounding_swallows_is_an_error(base: Path, tmp_path: Path) -> None:
    tuned = write_model(tmp_path / "tuned", weights(1))
    model = Checkpoint(base) + 1e-9 * (Checkpoint(tuned) - Checkpoint(base))
    with pytest.raises(NothingChangedError, match=r"bit for bit.*or keep the result in float32"):
        model.save(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]
    report = model.save(tmp_path / "out", dtype="F64")
    assert report.changed_elements == report.elements == 887
    assert report.lost_elements == 0
    assert report.edit_cosine == pytest.approx(1)


def test_an_edit_of_which_rounding_leaves_next_to_nothing_is_an_error(tmp_path: Path) -> None:
    before = {"w": np.full(1000, 1, DTYPES["BF16"])}
    after = {"w": np.full(1000, 1.0078125, DTYPES["BF16"])}
    for count in (10, 11):
        after["w"][:count] = 3
        tuned = write_model(tmp_path / f"tuned{count}", after)
        base = write_model(tmp_path / f"base{count}", before)
        model = Checkpoint(base) + 0.25 * (Checkpoint(tuned) - Checkpoint(base))
        if count == 10:
            with pytest.raises(NothingChangedError, match=r"of 1,000 elements .* 990 \(99.00%\)"):
                model.save(tmp_path / "out")
            assert not (tmp_path / "out").exists()
        else:
            report = model.save(tmp_path / "out")
            assert (report.intended_elements, report.lost_elements) == (1000, 989)
            assert report.edit_cosine == pytest.approx(0.99999, abs=1e-3)


# ---- layout ----------------------------------------------------------------------------------


def test_shards_and_index_are_those_of_the_base(base: Path, tuned: Path, tmp_path: Path) -> None:
    negated(base, tuned).save(tmp_path / "out")
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["weight_map"] == json.loads((base / INDEX).read_text())["weight_map"]
    elements = sum(array.size for array in weights(0).values())
    assert index["metadata"] == {"total_parameters": elements, "total_size": 2 * elements}
    for file in base.glob("*.safetensors"):
        held = read_file(tmp_path / "out" / file.name)
        assert {n: (a.dtype, a.shape) for n, a in held.items()} == {
            n: (a.dtype, a.shape) for n, a in read_file(file).items()
        }


def test_one_file_becomes_one_file_without_an_index(
    base: Path, tuned: Path, tmp_path: Path
) -> None:
    model = Checkpoint(tuned) - 0.5 * (Checkpoint(base) - Checkpoint(tuned))
    model.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "model.safetensors",
        "tvmerge_receipt.json",
    ]


def test_shards_get_the_usual_names_whatever_they_were(tuned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    held = weights(0)
    for number, name in enumerate(held):
        write_file(folder / "parts" / f"{9 - number}.safetensors", {name: held[name]})
    write_index(folder, {name: f"parts/{9 - i}.safetensors" for i, name in enumerate(held)})
    negated(folder, tuned).save(tmp_path / "out")
    names = {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {
        INDEX,
        "README.md",
        "tvmerge_receipt.json",
    }
    assert read_model(tmp_path / "out").keys() == held.keys()


@pytest.mark.parametrize("dtype", FLOATS)
def test_another_dtype_is_written_and_declared(
    dtype: str, base: Path, tuned: Path, tmp_path: Path
) -> None:
    negated(base, tuned).save(tmp_path / "out", dtype=dtype)
    for name, array in read_model(tmp_path / "out").items():
        exact = linear([weights(0)[name], weights(1, "F32")[name]], [1.5, -0.5])
        assert ulps(array, round_once(exact, dtype)) <= (2 if dtype == "F64" else 1)
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
             "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == CONFIG | {"torch_dtype": names[dtype]}


def test_an_unknown_dtype_is_refused(base: Path, tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dtype 'bfloat61'.*Did you mean 'bfloat16'"):
        negated(base, tuned).save(tmp_path / "out", dtype="bfloat61")
    assert not (tmp_path / "out").exists()


def test_everything_but_weights_comes_along_byte_for_byte(
    base: Path, tuned: Path, tmp_path: Path
) -> None:
    wanted = ["tokenizer.json", "LICENSE", "modeling_x.py", "nested/a.json", "chat_template.jinja"]
    unwanted = ["pytorch_model.bin", "x.gguf", ".cache/x", "optimizer.pt", "checkpoint-5/a.json",
                "training_args.bin", "model.onnx", "nested/b.bin", "old.safetensors"]  # fmt: skip
    for name in wanted + unwanted:
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(b"\0" + name.encode())
    negated(base, tuned).save(tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and path.suffix != ".safetensors"
    }
    assert found == {*wanted, "config.json", "README.md", INDEX, "tvmerge_receipt.json"}
    for name in [*wanted, "config.json"]:
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()


def test_the_card_names_inputs_and_coefficients(base: Path, tuned: Path, tmp_path: Path) -> None:
    negated(base, tuned).save(tmp_path / "out")
    _, front, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == ["base", "tuned"]
    assert yaml.safe_load(front)["base_model_relation"] == "merge"
    assert "| base | 1.5 |" in body
    assert "| tuned | -0.5 |" in body
    assert str(tmp_path) not in body


@pytest.mark.parametrize(
    "name", ["v1.2_a-b", "No", "null", "1e5", "e5", "2024-01-01", "a: b", "#x", "a-", "_", "ünï"]
)
def test_any_folder_name_is_text_in_the_card(name: str, base: Path, tmp_path: Path) -> None:
    tuned = write_model(tmp_path / name, weights(1, "F32"))
    negated(base, tuned).save(tmp_path / "out")
    front = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)[1]
    wanted = {
        "base_model": sorted({"base", name}),
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "task-arithmetic", "tvmerge"],
    }
    assert front == yaml.safe_dump(wanted)


def test_the_card_of_a_recipe_holds_it_without_this_machines_folders(
    base: Path, tuned: Path, tmp_path: Path
) -> None:
    recipe = {
        "merge_method": "ties",
        "base_model": str(base),
        "models": [{"model": str(tuned), "parameters": {"weight": 1, "density": 0.5}}],
    }
    text = f"# a ``` within\n{json.dumps(recipe, indent=1)}"
    model = build(parse_recipe(tmp_path / "ties.yaml", text.encode()))
    model.save(tmp_path / "out", recipe=RecipeText("ties", text))
    _, front, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["tags"] == ["merge", "tvmerge"]
    assert "`ties`, by the recipe below" in body and "linear combination" not in body
    assert str(tmp_path) not in body
    _, block, behind = re.split(r"^````(?:yaml)?$", body, flags=re.MULTILINE)
    assert behind.strip() == ""
    named = recipe | {"base_model": "base", "models": [recipe["models"][0] | {"model": "tuned"}]}
    assert yaml.safe_load(block) == named


def test_a_quantised_model_is_refused(base: Path, tuned: Path, tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"quant_method": "fp8"}}
    (base / "config.json").write_text(json.dumps(config))
    for model in (
        negated(base, tuned),
        Checkpoint(tuned) + (Checkpoint(base) - Checkpoint(tuned)),
        Checkpoint(base) - Checkpoint(tuned),
    ):
        with pytest.raises(MismatchError, match=r"is quantised.*Dequantise it first"):
            model.save(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_progress_reaches_the_total(base: Path, tuned: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    report = negated(base, tuned).save(tmp_path / "out", progress=lambda *now: told.append(now))
    assert told[-1] == (report.bytes_moved, report.bytes_moved)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# ---- in use ----------------------------------------------------------------------------------


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
def test_transformers_loads_the_result_with_the_expected_weights(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    states = []
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(torch.bfloat16 if name == "base" else torch.float32)
        model.save_pretrained(tmp_path / name, max_shard_size="20KB")
        states.append({n: p.detach().double() for n, p in model.state_dict().items()})
    base, a, b = (Checkpoint(tmp_path / name) for name in ("base", "a", "b"))
    (base - 0.5 * (a - base) - 0.5 * (b - base)).save(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    for name, value in loaded.state_dict().items():
        exact = 2 * states[0][name] - 0.5 * states[1][name] - 0.5 * states[2][name]
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, exact.float().to(torch.bfloat16)), name
    assert loaded(torch.arange(8)[None]).logits.isfinite().all()


LARGE = """
import sys
from pathlib import Path
from tvmerge import Checkpoint
base, tuned = Checkpoint(sys.argv[1]), Checkpoint(sys.argv[2])
(base - 0.5 * (tuned - base)).save(sys.argv[3], memory_mib=160, threads=int(sys.argv[4]))
status = Path("/proc/self/status").read_text()
print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


def sparse_model(folder: Path, first: bytes) -> Path:
    """A file of 600 MB that takes no room on the disk: zeros, but for its first bytes."""
    folder.mkdir()
    from tvmerge.files.safetensors import layout

    tensors = [("embed", "BF16", (150_000, 1000)), ("up", "BF16", (150_000, 1000))]
    head, _, size = layout(tensors, {"format": "pt"})
    with (folder / "model.safetensors").open("wb") as file:
        file.write(head + first)
        file.truncate(size)
    return folder


@pytest.mark.parametrize("threads", [2, 16])
def test_a_model_of_600_mb_merges_in_160_mib(threads: int, tmp_path: Path) -> None:
    inputs = [sparse_model(tmp_path / name, name.encode()) for name in ("base", "tune")]
    out = tmp_path / "out"
    ran = subprocess.run(
        [sys.executable, "-c", LARGE, *map(str, inputs), str(out), str(threads)],
        check=True, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    size = (out / "model.safetensors").stat().st_size
    (out / "model.safetensors").unlink()
    assert size > 600_000_000
    assert int(ran.stdout) * 1024 < 160 * 2**20
