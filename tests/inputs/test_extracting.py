"""A task vector as a LoRA adapter: the best of its rank, loaded by peft, honest about the rest."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.checkpoints import read_model
from support.small_checkpoints import EMBEDDING, tensors, write

from tvmerge import Checkpoint, TaskVector
from tvmerge.cli import cli
from tvmerge.compression.extracting import extract, low_rank
from tvmerge.errors import ConfigError, MismatchError, NothingChangedError, OutputError
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.receipt import relative_error

WEIGHT = "model.layers.0.mlp.weight"
NORM = "model.norm.weight"


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return Checkpoint(write(tmp_path / "base", tensors(0) | {NORM: np.ones(8, np.float32)}))


@pytest.fixture
def tuned(tmp_path: Path) -> Checkpoint:
    norm = {NORM: np.full(8, 1.5, np.float32)}
    return Checkpoint(write(tmp_path / "tuned", tensors(1) | norm))


def best(delta: np.ndarray, rank: int) -> np.ndarray:
    left, values, right = np.linalg.svd(delta.astype(float), full_matrices=False)
    return np.asarray((left[:, :rank] * values[:rank]) @ right[:rank])


def test_adapter_is_the_best_of_its_rank(
    base: Checkpoint, tuned: Checkpoint, tmp_path: Path
) -> None:
    found = extract(tuned - base, base, tmp_path / "adapter", rank=2)
    (base + TaskVector(tmp_path / "adapter", base=base)).save(tmp_path / "out")
    before, after, wanted = (read_model(tmp_path / name) for name in ("base", "out", "tuned"))
    kept = whole = 0.0
    for name in (WEIGHT, EMBEDDING):
        expected = best(wanted[name] - before[name], 2)
        np.testing.assert_allclose(after[name] - before[name], expected, atol=1e-5)
    for name, tensor in before.items():
        if tensor.dtype == np.float32:
            delta = (wanted[name] - tensor).astype(float)
            whole += float((delta**2).sum())
            kept += float(
                (delta**2).sum() - ((wanted[name] - after[name]).astype(float) ** 2).sum()
            )
    assert (after[NORM] == wanted[NORM]).all()
    assert found.kept_share == pytest.approx(kept / whole, abs=1e-5)
    assert {one.name: one.action for one in found.tensors}[NORM] == "saved whole"


def test_full_rank_is_the_whole_vector(base: Checkpoint, tuned: Checkpoint, tmp_path: Path) -> None:
    assert extract(tuned - base, base, tmp_path / "a", rank=99).kept_share == pytest.approx(1)
    (base + TaskVector(tmp_path / "a", base=base)).save(tmp_path / "out")
    for name, tensor in read_model(tmp_path / "tuned").items():
        if tensor.dtype == np.float32:
            found = read_model(tmp_path / "out")[name]
            np.testing.assert_allclose(found, tensor, atol=1e-5)


def test_projection_finds_what_the_whole_decomposition_does() -> None:
    generator = np.random.default_rng(0)
    shape = (200, 230)
    sizes = 2.0 ** -np.arange(20)[:, None]
    large = generator.standard_normal((200, 20)) @ (sizes * generator.standard_normal((20, 230)))
    matrix = (large + 1e-4 * generator.standard_normal(shape)).astype(np.float32)
    b, a, kept_sq = low_rank(matrix, 4)
    np.testing.assert_allclose(b @ a, best(matrix, 4), atol=2e-5)
    assert kept_sq == pytest.approx(float((best(matrix, 4) ** 2).sum()), rel=1e-5)


def test_peft_merges_it_as_tvmerge_does(tiny_base: Path, tmp_path: Path) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    tuned = AutoModelForCausalLM.from_pretrained(tiny_base)
    torch.manual_seed(0)
    for parameter in tuned.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    tuned.save_pretrained(tmp_path / "tuned")
    adapter = tmp_path / "adapter"
    arguments = ["vector", str(tiny_base), str(tmp_path / "tuned"), str(adapter), "--rank", "8"]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert 0.1 < found["kept_share"] < 0.9
    assert {one["action"] for one in found["tensors"]} == {"product", "saved whole"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(tiny_base)
        merged = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    base = Checkpoint(tiny_base)
    for name, tensor in (base + TaskVector(adapter, base=base)).state_dict().items():
        torch.testing.assert_close(tensor, merged[name], atol=2e-6, rtol=0)


def test_what_is_no_matrix_is_named(tmp_path: Path) -> None:
    held = {"experts": np.ones((2, 3, 4), np.float32), "a.weight": np.ones((3, 4), np.float32)}
    start = Checkpoint(write(tmp_path / "start", held))
    end = Checkpoint(write(tmp_path / "end", {name: 2 * one for name, one in held.items()}))
    found = extract(end - start, start, tmp_path / "adapter", rank=1)
    assert [one.name for one in found.tensors if one.action == "left out"] == ["experts"]
    assert found.kept_share == pytest.approx(12 / 36)


def test_refusals_leave_nothing(base: Checkpoint, tuned: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    same = Checkpoint(write(tmp_path / "same", read_model(tmp_path / "base")))
    with pytest.raises(NothingChangedError, match="zero everywhere"):
        extract(same - base, base, out, rank=1)
    with pytest.raises(ConfigError, match="rank 0"):
        extract(tuned - base, base, out, rank=0)
    with pytest.raises(OutputError, match="is, or lies inside, the input"):
        extract(tuned - base, base, tmp_path / "base" / "adapter", rank=1)
    (tmp_path / "base" / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(MismatchError, match="keeps its linear layers as"):
        extract(tuned - base, base, out, rank=1)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_receipt_says_how_near_the_adapter_comes(tmp_path: Path) -> None:
    kinds = {"experts": np.ones((2, 3, 4), np.float32)}
    generator = np.random.default_rng(5)
    held = [tensors(seed) | {NORM: generator.random(8, np.float32)} | kinds for seed in (0, 1)]
    held[1]["experts"] = 2 * held[1]["experts"]
    base, tuned = (write(tmp_path / n, one) for n, one in zip(("base", "tuned"), held, strict=True))
    adapter = tmp_path / "adapter"
    run("vector", base, tuned, adapter, "--rank", 2)
    receipt = read_receipt(adapter)
    assert receipt.recipe.form == "rank=2"
    assert {record.path: record.coefficient for record in receipt.inputs} == {
        str(tuned): 1.0, str(base): -1.0,
    }  # fmt: skip
    names = [file.name for file in receipt.files]
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    start = Checkpoint(base)
    kept = TaskVector(adapter, base=start).state_dict()
    for tensor in receipt.tensors:
        exact = (held[1][tensor.name] - held[0][tensor.name]).astype(float)
        stored = kept[tensor.name].double().numpy() if tensor.name in kept else 0 * exact
        assert tensor.edit is not None
        expected = np.sqrt(((exact - stored) ** 2).sum() / (exact**2).sum())
        assert relative_error(tensor.edit) == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert tensor.edit.changed == np.count_nonzero(stored)
        assert tensor.edit.intended == np.count_nonzero(exact)
    reasons = {tensor.name: tensor.reason for tensor in receipt.tensors}
    assert reasons == {
        EMBEDDING: "product", WEIGHT: "product", WEIGHT.replace("0", "1"): "product",
        NORM: "saved whole", "experts": "left out",
    }  # fmt: skip
    assert f"Made with tvmerge {receipt.version} (rank=2):" in run("inspect", adapter)
    assert "every byte as in the receipt" in run("verify", adapter, "--inputs")
    assert "is not made again" in run("verify", adapter, "--replay", code=2)
    content = (adapter / "adapter_config.json").read_text()
    (adapter / "adapter_config.json").write_text(content.replace('"r": 2', '"r": 3'))
    assert "adapter_config.json: its content was changed" in run("verify", adapter, code=3)
