"""Whole matrices on cards (TVMERGE_MATRIX_DEVICE), by tensors that stand in for a card's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import read_model
from support.method_models import merge, recipe

from tvmerge.engine.matrix_devices import VARIABLE, asked_device
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError, DeviceError, MemoryLimitError
from tvmerge.fleet import nodes
from tvmerge.receipts.parsing import read_receipt
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
    for name, tensor in here.items():
        assert tensor.tobytes() == there[name].tobytes(), name
    numbers = {"cuda": {"cuda:0"}}.get(device, {"cuda:0", "cuda:1"})
    assert set(cards.sent) == numbers
    matrices = 4 if method == "pcb" else 2
    assert cards.fetched == matrices
    assert len(cards.sent) == matrices * (4 if method == "ethos" else 3)
    receipt = read_receipt(tmp_path / "there")
    assert receipt.run["torch"] == f"{torch.__version__} on {device}"


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


@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:all", 0), ("cuda:0,2", 2)])
def test_card_that_torch_does_not_see_is_an_error_before_anything_is_made(
    folder: Path, tmp_path: Path, device: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cards(monkeypatch, count, 2**30)
    monkeypatch.setenv(VARIABLE, device)
    with pytest.raises(DeviceError, match=rf"{VARIABLE}={device}: torch .* sees {count} cards"):
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


def test_card_that_runs_out_of_memory_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cards(monkeypatch, 1, 2**30)
    monkeypatch.setenv(VARIABLE, "cuda")

    def full(*_args: Any, **_kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.linalg, "svd", full)
    with pytest.raises(MemoryLimitError, match=r"layers.*w: cuda:0 has no memory left for tsv"):
        merge(recipe(folder, "tsv", {m: {} for m in "abc"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
