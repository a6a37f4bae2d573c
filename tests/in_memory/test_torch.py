"""Tensors combined where they lie: the bytes that `save` writes, on the CPU and on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from in_memory.torch_models import EMBED, HEAD, Small, bits, weights
from oracles.arithmetic import random_array
from support.checkpoints import DTYPES, FLOATS, write_model

from tvmerge import Checkpoint
from tvmerge.errors import ConfigError, MismatchError
from tvmerge.files.dtype import TORCH_NAMES
from tvmerge.torch import ScaledModel, combine_

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
        ],
    ),
]
SCALES = (1.0, -0.5, 0.25)


def tensor_of(array: np.ndarray, dtype: str) -> torch.Tensor:
    raw = torch.from_numpy(array.view(np.uint8).copy())
    return raw.view(getattr(torch, TORCH_NAMES[dtype])).reshape(array.shape)


def raw_bits(tensor: torch.Tensor) -> bytes:
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1, 1023, 1024, 70_001, 600_000])
def test_the_bytes_are_those_that_save_writes(
    tmp_path: Path, device: str, dtype: str, size: int
) -> None:
    generator = np.random.default_rng(size)
    arrays = [random_array(generator, dtype, (size,), wild=True) for _ in SCALES]
    models = [
        Checkpoint(write_model(tmp_path / str(k), {"w": array})) for k, array in enumerate(arrays)
    ]
    expression = Checkpoint.average(models, SCALES, normalize=False)
    expected = expression.state_dict()["w"]
    terms = [
        (scale, tensor_of(array, dtype).to(device))
        for scale, array in zip(SCALES, arrays, strict=True)
    ]
    out = torch.empty_like(terms[0][1])
    assert combine_(out, terms) is out
    assert raw_bits(out) == raw_bits(expected)
    # In place, and where no whole vector of the processor or the card begins.
    assert raw_bits(combine_(terms[1][1], terms)) == raw_bits(expected)
    assert DTYPES[dtype].itemsize == out.element_size()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["BF16", "F32", "F8_E4M3"])
def test_views_may_begin_anywhere(device: str, dtype: str) -> None:
    generator = np.random.default_rng(1)
    held = [
        tensor_of(random_array(generator, dtype, (5000,), wild=False), dtype).to(device)
        for _ in range(3)
    ]
    terms = [(s, x[k + 1 : k + 4097]) for k, (s, x) in enumerate(zip(SCALES, held, strict=True))]
    expected = combine_(torch.empty_like(held[0][:4096]), [(s, x.clone()) for s, x in terms])
    out = torch.zeros(5000, dtype=held[0].dtype, device=device)
    combine_(out[3:4099], terms)
    assert raw_bits(out[3:4099]) == raw_bits(expected)
    assert not out[:3].float().any() and not out[4099:].float().any()


@pytest.mark.parametrize("device", DEVICES)
def test_scales_do_not_drift(device: str) -> None:
    torch.manual_seed(0)
    model = Small().to(device).to(torch.bfloat16)
    start = bits({n: p.cpu() for n, p in model.named_parameters()})
    vectors = {
        "a": {EMBED: torch.randn(16, 6), HEAD: torch.randn(16, 6)},
        "b": {HEAD: torch.randn(16, 6, dtype=torch.float64)},
    }
    scaled = ScaledModel(model, vectors)
    scaled.set(a=-0.5, b=0.3)
    once = bits({n: p.cpu() for n, p in model.named_parameters()})
    for scale in (0.1, 7.0, -3.0):
        scaled.set({"a": scale, "b": -scale})
    scaled.set(a=-0.5, b=0.3)
    assert bits({n: p.cpu() for n, p in model.named_parameters()}) == once != start
    scaled.negate(0.5, ["a"])
    assert scaled.scales == {"a": -0.5, "b": 0.0}
    scaled.restore()
    assert bits({n: p.cpu() for n, p in model.named_parameters()}) == start


def test_vectors_may_lie_in_files(tmp_path: Path) -> None:
    base = Checkpoint(write_model(tmp_path / "base", weights(0)))
    tuned = Checkpoint(write_model(tmp_path / "tuned", weights(1)))
    model = Small()
    base.load_into(model)
    ScaledModel(model, {"trait": tuned - base}).set(trait=-0.5)
    (tuned - base).save(tmp_path / "vector")
    other = Small()
    base.load_into(other)
    ScaledModel(other, {"trait": tmp_path / "vector"}).set(trait=-0.5)
    assert bits(dict(model.named_parameters())) == bits(dict(other.named_parameters()))
    expected = (base - 0.5 * (tuned - base)).state_dict()
    for name in (EMBED, HEAD):
        held = dict(model.named_parameters())[name].detach()
        assert torch.allclose(held, expected[name], rtol=0, atol=1e-6)


def test_tied_parameters_are_rewritten_once() -> None:
    model = Small(tied=True)
    start = model.head.weight.detach().clone()
    one = torch.ones(16, 6)
    ScaledModel(model, {"a": {HEAD: one}, "b": {EMBED: one}}).set(a=1, b=2)
    assert torch.equal(model.embed.weight.detach(), start + 3)


def test_a_backward_pass_notices_that_weights_have_changed() -> None:
    model = Small()
    loss = model.head(model.embed(torch.arange(4))).square().sum()
    ScaledModel(model, {"a": {HEAD: torch.ones(16, 6)}}).set(a=0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_does_not_fit_is_refused() -> None:
    model, x = Small(), torch.zeros(4, 6)
    with pytest.raises(MismatchError, match=r"term 0: shape \[6, 4\], expected \[4, 6\]"):
        combine_(x, [(1, torch.zeros(6, 4))])
    with pytest.raises(ConfigError, match=r"term 0: not in one piece; call contiguous\(\)"):
        combine_(torch.zeros(6, 4), [(1, x.T)])
    with pytest.raises(
        ConfigError, match=r"term 0: torch.int64, .*expected a plain tensor of one of"
    ):
        combine_(x, [(1, torch.zeros(4, 6, dtype=torch.int64))])
    with pytest.raises(ConfigError, match="scale nan: expected a finite number"):
        combine_(x, [(float("nan"), x)])
    with pytest.raises(MismatchError, match=r"is no parameter of the model. Did you mean 'head"):
        ScaledModel(model, {"a": {"heda.weight": torch.zeros(16, 6)}})
    with pytest.raises(ConfigError, match=r"vector 'powr': expected one of power. Did you mean"):
        ScaledModel(model, {"power": {HEAD: torch.zeros(16, 6)}}).set(powr=1)
