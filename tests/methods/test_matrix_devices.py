"""Whole matrices on cards (TVMERGE_MATRIX_DEVICE), by tensors that stand in for a card's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support.checkpoints import read_model
from support.method_models import merge, recipe

from tvmerge.cli import cli
from tvmerge.engine.matrices import check_matrices
from tvmerge.engine.matrix_devices import VARIABLE, asked_device
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError, DeviceError, MemoryLimitError
from tvmerge.fleet import nodes
from tvmerge.merging.merge import save_checkpoint
from tvmerge.plans.plan import plan_checkpoint
from tvmerge.receipts.parsing import read_receipt
from tvmerge.recipe import build, parse_recipe
from tvmerge.replay import replay
from tvmerge.version import __version__

torch = pytest.importorskip("torch")
from support.torch_cards import Cards  # noqa: E402 (needs torch)

METHODS: dict[str, dict[str, float]] = {
    "tsv": {}, "iso_c": {}, "iso_cts": {}, "wudi": {"iterations": 5}, "pcb": {"ratio": 0.3},
    "ethos": {"xi": 0.3},
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("device", ["cuda", "cuda:0,1", "cuda:all"])
def test_matrices_are_merged_where_it_was_asked(
    folder: Path, tmp_path: Path, method: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe(folder, method, {m: {} for m in "abc"}, **METHODS[method])
    if method == "ethos":
        models = {"c": {"auxiliary": True}, "a": {}, "b": {}}
        text = recipe(folder, method, models, **METHODS[method])
    here = merge(text, tmp_path / "here")
    cards = Cards(monkeypatch, 2, 2**30)
    monkeypatch.setenv(VARIABLE, device)
    there = merge(text, tmp_path / "there", RunOptions(threads=4))
    assert cards.together == []
    for name, tensor in here.items():
        assert tensor.tobytes() == there[name].tobytes(), name
    numbers = {"cuda": {"cuda:0"}}.get(device, {"cuda:0", "cuda:1"})
    assert set(cards.sent) == numbers
    matrices = 4 if method == "pcb" else 2
    assert cards.fetched == matrices
    assert len(cards.sent) == matrices * (4 if method == "ethos" else 3)
    receipt = read_receipt(tmp_path / "there")
    assert receipt.run["torch"] == f"{torch.__version__} on cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no card")
@pytest.mark.parametrize("method", METHODS)
def test_a_card_comes_to_what_the_processor_does(
    folder: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = (
        {"c": {"auxiliary": True}, "a": {}, "b": {}} if method == "ethos" else {"a": {}, "b": {}}
    )
    text = recipe(folder, method, models, **METHODS[method])
    here = merge(text, tmp_path / "here")
    monkeypatch.setenv(VARIABLE, "cuda")
    there = merge(text, tmp_path / "there")
    for name, tensor in here.items():
        assert np.allclose(tensor, there[name], rtol=1e-6, atol=1e-6), name


def test_what_torch_keeps_of_one_batch_is_free_for_the_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = Cards(monkeypatch, 1, 2**26)
    monkeypatch.setenv(VARIABLE, "cuda")
    text = recipe(folder, "tsv", {m: {} for m in "abc"})
    merge(text, tmp_path / "out", RunOptions(threads=2, batch_bytes=100_000))
    assert cards.fetched == 2


def test_tensor_of_a_card_refuses_those_of_the_processor_and_of_other_cards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Cards(monkeypatch, 2, 2**30)
    here = torch.ones(2, 2)
    there, elsewhere = (here.to(torch.device("cuda", number)) for number in (0, 1))
    with pytest.raises(AssertionError, match="a tensor of the processor"):
        there @ here
    with pytest.raises(AssertionError, match="cuda:1"):
        torch.cat([there.T, elsewhere])
    assert (torch.linalg.svd(there).S * 2 + 1.0).cpu().tolist() == [5.0, 1.0]


def test_device_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "gpu")
    with pytest.raises(ConfigError, match=f"{VARIABLE}: device 'gpu': expected cpu, cuda"):
        asked_device()
    monkeypatch.setenv(VARIABLE, "")
    assert asked_device() == "cpu"


@pytest.mark.parametrize(
    ("device", "count", "built", "why"),
    [
        ("cuda", 0, None, r"torch \S+ is a build without CUDA"),
        ("cuda:all", 0, "13.0", r"torch \S+ sees no card. Look at its driver"),
        ("cuda:0,2", 2, "13.0", "torch sees no card 2, but 2, from 0 on"),
    ],
)
def test_card_that_torch_does_not_see_is_an_error_before_anything_is_made(
    folder: Path,
    tmp_path: Path,
    device: str,
    count: int,
    built: str | None,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Cards(monkeypatch, count, 2**30)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setenv(VARIABLE, device)
    with pytest.raises(DeviceError, match=f"{VARIABLE}={device}: {why}.*, or set it to cpu"):
        merge(recipe(folder, "tsv", {m: {} for m in "ab"}), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_card_without_room_for_a_matrix_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cards(monkeypatch, 1, 2**20)
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(
        MemoryLimitError, match=r"tsv takes [0-9]+ MiB of a card .* cuda:0 has 1 MiB"
    ):
        merge(recipe(folder, "tsv", {m: {} for m in "abc"}), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (torch.OutOfMemoryError("full"), MemoryLimitError, "cuda:0 has no memory left: full"),
        (RuntimeError("CUDA error: an illegal"), DeviceError, "cuda:0: CUDA error: an illegal"),
    ],
)
def test_card_that_fails_is_an_error(
    folder: Path,
    tmp_path: Path,
    failure: Exception,
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Cards(monkeypatch, 1, 2**30)
    monkeypatch.setenv(VARIABLE, "cuda")

    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise failure

    monkeypatch.setattr(torch.linalg, "svd", fail)
    with pytest.raises(error, match=rf"layers\.\d\.w: {message}.*Set {VARIABLE} to cpu"):
        merge(recipe(folder, "tsv", {m: {} for m in "abc"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_replay_by_another_torch_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.yaml").write_text(recipe(folder, "tsv", {m: {} for m in "abc"}))
    command = ["merge", f"{tmp_path}/r.yaml", f"{tmp_path}/out"]
    assert CliRunner().invoke(cli, command).exit_code == 0
    receipt = read_receipt(tmp_path / "out")
    files = tuple(replace(one, digest="blake2b:" + "0" * 32) for one in receipt.files)
    other = replace(receipt, files=files)
    (fault,) = replay(other)
    assert fault.what == "comes out otherwise when it is made again"
    Cards(monkeypatch, 1, 2**30)
    monkeypatch.setenv(VARIABLE, "cuda")
    (fault,) = replay(other)
    now = f"now by torch {torch.__version__} on cuda"
    assert f"(by torch {torch.__version__}, {now}: last bits may be others)" in fault.what


def test_cluster_gives_no_cards_to_matrices_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "cuda")
    model = build(parse_recipe(Path("r"), recipe(folder, "tsv", {"a": {}, "b": {}}).encode()))
    cluster = RunOptions(ray_address="127.0.0.1:1", device="cpu")
    with pytest.raises(ConfigError, match=r"Ray hides a node's GPUs .* Add --device cuda"):
        save_checkpoint(model.weighting, model.donor, tmp_path / "out", dtype=None, options=cluster)
    plan = plan_checkpoint([model.weighting], model.donor)
    check_matrices(plan.jobs, replace(cluster, device="cuda"))
    monkeypatch.setenv(VARIABLE, "cuda:1")
    with pytest.raises(ConfigError, match="Expected cpu, cuda or cuda:all"):
        check_matrices(plan.jobs, replace(cluster, device="cuda"))
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_matrix_does_not_look_at_cards(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "cuda")
    merge(recipe(folder, "task_arithmetic", {"a": {"weight": 0.5}}), tmp_path / "out")
    assert read_receipt(tmp_path / "out").run["torch"] is None
    assert read_model(tmp_path / "out")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((__version__, "cpu"), "there.*: expected TVMERGE_MATRIX_DEVICE=cuda, found cpu"),
        (("0.0.1", "cuda"), f"expected tvmerge {__version__}, found 0.0.1"),
        (ModuleNotFoundError("no tvmerge"), f"expected tvmerge {__version__}, found no tvmerge"),
        ((__version__, "cuda"), None),
    ],
)
def test_node_that_would_make_other_bytes_is_refused(
    answer: Any, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = nodes.Node("1", "there", 2, 1)
    monkeypatch.setattr(
        nodes, "_answers", lambda asked, _function: [(one, answer) for one in asked]
    )
    monkeypatch.setenv(VARIABLE, "cuda")
    if message is None:
        nodes.refuse_versions([node])
    else:
        with pytest.raises(ConfigError, match=message):
            nodes.refuse_versions([node])
