"""Models filled in memory: the bytes that `save` writes, or nothing at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from in_memory.torch_models import COUNT, EMBED, HEAD, Small, bits, weights
from safetensors.torch import load_file
from support.checkpoints import read_model, write_model
from transformers import AutoModelForCausalLM

from tvmerge import Checkpoint
from tvmerge.errors import (
    MismatchError,
)


def saved_bits(expression: Checkpoint, out: Path, dtype: str | None = None) -> object:
    expression.save(out, dtype=dtype)
    files = sorted(out.glob("*.safetensors"))
    return bits({name: tensor for file in files for name, tensor in load_file(file).items()})


def llama(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def llamas(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A tiny Llama with tied embeddings in the dtype, and the same with noise on it."""
    place = tmp_path_factory.mktemp(request.param)
    model = llama(tiny_base).to(getattr(torch, request.param))
    model.save_pretrained(place / "base")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(place / "tuned")
    return place / "base", place / "tuned"


def test_a_loaded_llama_is_the_one_that_save_gives_at_every_scale(
    llamas: tuple[Path, Path], tmp_path: Path
) -> None:
    base, tuned = map(Checkpoint, llamas)
    v = tuned - base
    model = llama(llamas[1])
    loaded = (base + 0.5 * v).load_into(model)
    (base + 0.5 * v).save(tmp_path / "saved")
    assert bits(model.state_dict()) == bits(llama(tmp_path / "saved").state_dict())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for number, scale in enumerate((0.3, -2.0, 0.3)):
        loaded.rescale(scale)
        (base + scale * (0.5 * v)).save(tmp_path / f"{number}")
        assert bits(model.state_dict()) == bits(llama(tmp_path / f"{number}").state_dict())
        assert loaded.scale == scale
    loaded.restore()
    assert bits(model.state_dict()) == bits(llama(llamas[0]).state_dict())
    tokens = torch.arange(8)[None]
    expected = llama(llamas[0])(tokens).logits
    assert torch.equal(model(tokens).logits, expected)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "float8_e4m3fn"])
def test_weights_are_rounded_once_to_the_dtype_that_the_model_has(
    base: Checkpoint, tuned: Checkpoint, tmp_path: Path, dtype: str
) -> None:
    model = Small().to(getattr(torch, dtype))
    merged = base - 0.3 * (tuned - base)
    merged.load_into(model)
    assert bits(model.state_dict()) == saved_bits(merged, tmp_path / "out", dtype)
    checkpoint = Small().to(getattr(torch, dtype))
    base.load_into(checkpoint)
    assert bits(checkpoint.state_dict()) == saved_bits(base, tmp_path / "as-it-is", dtype)


def test_tensors_that_the_engine_cannot_write_to_get_the_same_bytes(
    base: Checkpoint, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = base + 0.3 * (tuned - base)
    plain, strided = Small(), Small()
    strided.embed.weight = torch.nn.Parameter(torch.zeros(6, 16).T)
    strided.head.weight = torch.nn.Parameter(torch.zeros(16, 12)[:, ::2])
    merged.load_into(plain)
    merged.load_into(strided)
    assert not strided.embed.weight.is_contiguous()
    assert bits(strided.state_dict()) == bits(plain.state_dict())
    # And one tensor at a time, as large ones are.
    monkeypatch.setattr("tvmerge.algebra.fill._STAGING_BYTES", 1)
    told: list[tuple[int, int]] = []
    merged.load_into(strided, progress=lambda done, of: told.append((done, of)))
    assert bits(strided.state_dict()) == bits(plain.state_dict())
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_model_on_a_gpu_gets_the_same_bytes(base: Checkpoint, tuned: Checkpoint) -> None:
    merged = base + 0.3 * (tuned - base)
    here, there = Small().bfloat16(), Small().bfloat16().cuda()
    merged.load_into(here)
    merged.load_into(there)
    assert bits(there.cpu().state_dict()) == bits(here.state_dict())


def test_scales_count_from_the_start_that_is_given(
    base: Checkpoint, tuned: Checkpoint, tmp_path: Path
) -> None:
    other = Checkpoint(write_model(tmp_path / "other", weights(2)))
    start = base + 0.5 * (other - base)
    model = Small()
    loaded = (start - (tuned - base)).load_into(model, start=start)
    loaded.rescale(0.25)
    expected = start - 0.25 * (tuned - base)
    assert bits(model.state_dict()) == saved_bits(expected, tmp_path / "out")


def test_the_edit_says_what_rounding_left(base: Checkpoint, tuned: Checkpoint) -> None:
    whole = (base + 0.5 * (tuned - base)).load_into(Small())
    assert whole.edit.changed == whole.edit.intended == 2 * 16 * 6
    assert whole.edit.cosine == pytest.approx(1)
    eighth = whole.rescale(0.25)
    assert whole.differing_tensors == ()
    assert eighth.intended_sq == pytest.approx(whole.rescale(0.5).intended_sq / 4)


def test_integer_tensors_that_differ_are_named_and_are_the_donors(
    base: Checkpoint, tmp_path: Path
) -> None:
    other = Checkpoint(write_model(tmp_path / "other", weights(1, **{COUNT: np.arange(3)})))
    model = Small()
    loaded = (base + (other - base)).load_into(model)
    assert loaded.differing_tensors == (COUNT,)
    assert model.steps.tolist() == [7, 8, 9]


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float8_e5m2"])
def test_a_state_dict_holds_what_save_writes(
    base: Checkpoint, tuned: Checkpoint, tmp_path: Path, dtype: str | None
) -> None:
    merged = base + 0.3 * (tuned - base)
    expected = saved_bits(merged, tmp_path / "out", dtype)
    found = merged.state_dict(dtype=dtype)
    assert bits(found) == expected
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        name: array.shape for name, array in read_model(tmp_path / "out").items()
    }


def test_the_state_dict_of_a_task_vector_is_float32_and_has_no_integers(
    base: Checkpoint, tuned: Checkpoint, tmp_path: Path
) -> None:
    v = tuned - base
    v.save(tmp_path / "v")
    files = sorted((tmp_path / "v").glob("*.safetensors"))
    stored = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert bits(v.state_dict()) == bits(stored)
    assert set(stored) == {EMBED, HEAD}


def test_a_checkpoint_with_both_names_of_a_tied_tensor_is_loaded_where_they_hold_the_same(
    tmp_path: Path,
) -> None:
    alike = weights(0)[EMBED]
    base = Checkpoint(write_model(tmp_path / "base", weights(0, **{HEAD: alike})))
    tuned = Checkpoint(write_model(tmp_path / "tuned", weights(1, **{HEAD: weights(1)[EMBED]})))
    model = Small(tied=True)
    (base + (tuned - base)).load_into(model)
    assert model.embed.weight.detach().numpy().tobytes() == weights(1)[EMBED].tobytes()

    untied = Checkpoint(write_model(tmp_path / "untied", weights(2)))
    before = bits(model.state_dict())
    with pytest.raises(MismatchError, match=r"untied: head.weight and embed.weight differ"):
        (base + 0.1 * (untied - base)).load_into(model)
    assert bits(model.state_dict()) == before


def test_a_backward_pass_notices_that_the_weights_were_replaced(base: Checkpoint) -> None:
    model = Small()
    loss = model.head(model.embed(torch.arange(3))).square().sum()
    base.load_into(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_weights_of_a_model_made_for_inference_are_filled(base: Checkpoint) -> None:
    with torch.inference_mode():
        model = Small()
    base.load_into(model)
    assert model.embed.weight.detach().numpy().tobytes() == weights(0)[EMBED].tobytes()


PEAK = """
import json, sys
from pathlib import Path
import torch
from tvmerge import Checkpoint

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) // 1024

base, tuned = Checkpoint(sys.argv[1]), Checkpoint(sys.argv[2])
model = torch.nn.ParameterDict({"w": torch.ones(2**24), "u": torch.ones(2**24)})
held = resident("VmRSS")
loaded = (base + 0.5 * (tuned - base)).load_into(model, threads=2)
loaded.rescale(0.3)
print(json.dumps([held, resident("VmHWM"), float(model["w"][-1])]))
"""


def test_filling_a_model_takes_small_buffers_and_no_second_copy(tmp_path: Path) -> None:
    for name, value in (("base", 1), ("tuned", 2)):
        held = {key: np.full(2**24, value, np.float32) for key in "wu"}
        write_model(tmp_path / name, held)
    said = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "base"), str(tmp_path / "tuned")],
        check=True, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    held, peak, value = json.loads(said.stdout)
    assert value == pytest.approx(1.15)
    assert held > 128  # MiB: the model itself
    assert peak - held < 48  # a second model would take 128
