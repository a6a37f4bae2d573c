"""Devices: what they name, what is opened, who is told of them. No test needs a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cards.fake_cards import MIB, OLD, PLENTY, without_card
from support.method_models import merge, recipe, weighted

from tvmerge import Checkpoint, _core
from tvmerge.engine import devices
from tvmerge.engine.devices import ALL, CardFound, lent, open_cards, parse_device
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError, DeviceError
from tvmerge.fleet.nodes import Node, gpus_of, refuse_missing_gpus
from tvmerge.merging.merge import save_checkpoint

pytestmark = pytest.mark.usefixtures("closed")


def receipt_run(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "tvmerge_receipt.json").read_text())["run"]
    return found


def same_but_for_the_run(one: Path, other: Path) -> bool:
    def content(folder: Path) -> dict[str, Any]:
        held: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
        receipt = json.loads(held["tvmerge_receipt.json"])
        del receipt["run"]
        return held | {"tvmerge_receipt.json": receipt}

    return content(one) == content(other)


# ---- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("cpu", ()),
        ("cuda", (0,)),
        ("cuda:1", (1,)),
        ("cuda:0,1", (0, 1)),
        ("cuda:10,2", (10, 2)),
        ("cuda:all", ALL),
    ],
)
def test_device_names_its_cards(text: str, indices: object) -> None:
    assert parse_device(text) == indices


@pytest.mark.parametrize(
    "text",
    ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:0,", "cuda:0, 1", "cuda:all,0", "cuda:99999",
     "cuda0", "cpu:0", "cuda:٣", "cuda\n"],
)  # fmt: skip
def test_what_is_no_device_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected cpu, cuda, cuda:1, cuda:0,1 or cuda:all"):
        parse_device(text)


def test_card_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="card 1 is named twice"):
        parse_device("cuda:1,0,1")


# ---- opening ---------------------------------------------------------------------------------


def test_the_processor_needs_no_look_at_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_core, "cards")
    monkeypatch.delattr(_core, "Card")
    assert open_cards("cpu") == ()
    assert RunOptions().workspace().cards == ()


def test_cards_are_opened_once_with_a_share_of_what_is_free(fakes: list[tuple[int, int]]) -> None:
    (first,) = open_cards("cuda")
    both = open_cards("cuda:1,0")
    assert both[0] is first
    assert open_cards("cuda:all") == both == open_cards("cuda:0,1")
    assert fakes == [(0, 8192 * MIB), (1, 768 * MIB)]


def test_another_limit_opens_anew(fakes: list[tuple[int, int]]) -> None:
    before = open_cards("cuda")
    assert open_cards("cuda", 100) is open_cards("cuda", 100)
    assert open_cards("cuda", 100) != before
    assert fakes == [(0, 8192 * MIB), (0, 100 * MIB)]


def test_a_fork_opens_its_own(
    fakes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_cards("cuda")
    monkeypatch.setattr(devices.os, "getpid", lambda: -1)
    open_cards("cuda")
    assert [index for index, _ in fakes] == [0, 0]


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="device memory 0 MiB: expected at least 1"):
        open_cards("cuda", 0)


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("cuda:7", r"there is no card 7, but cuda:0 Plenty, cuda:1 Little, cuda:2 Old"),
        ("cuda:0,2", r"cuda:2 Old: compute capability 5.2 is below 8.0"),
    ],
)
def test_card_that_cannot_be_used_is_named(
    device: str, why: str, fakes: list[tuple[int, int]]
) -> None:
    with pytest.raises(DeviceError, match=why):
        open_cards(device)
    assert not fakes


def test_all_cards_unusable_is_an_error(
    fakes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_core, "cards", lambda: [OLD])
    with pytest.raises(DeviceError, match=r"'cuda:all': cuda:2 Old: compute capability 5.2"):
        open_cards("cuda:all")


@without_card
@pytest.mark.parametrize("device", ["cuda", "cuda:0,1", "cuda:all"])
def test_without_a_card_the_reason_is_said(device: str) -> None:
    assert _core.cuda_problem()
    with pytest.raises(DeviceError) as refused:
        open_cards(device)
    assert _core.cuda_problem().rstrip(".") in str(refused.value)
    assert refused.value.exit_code == 9


def test_lent_cards_forget_also_after_an_error(fakes: object) -> None:
    cards = open_cards("cuda:all")
    with lent(cards):
        pass
    with pytest.raises(KeyError), lent(cards):
        raise KeyError
    assert [card.forgotten for card in cards] == [2, 2]  # type: ignore[attr-defined]


# ---- merging ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "more", "functions"),
    [
        ("linear", {}, {"merge"}),
        ("slerp", {"t": 0.3}, {"merge", "measure"}),
        ("ties", {"density": 0.5}, {"merge", "select"}),
        ("della", {"density": 0.5, "epsilon": 0.1}, {"merge", "delta_sums"}),
    ],
)
def test_every_step_of_a_merge_gets_the_cards(
    method: str,
    more: dict[str, float],
    functions: set[str],
    models: Path,
    calls: list[tuple[str, tuple[Any, ...]]],
) -> None:
    wanted = {"a": {}} if method == "slerp" else weighted()
    text = recipe(models, method, wanted, base=None if method == "linear" else "base", **more)
    cards = open_cards("cuda:0,1")
    for device in ("cpu", "cuda:0,1"):
        calls.clear()
        merge(text, models / device / "out", RunOptions(device=device, batch_bytes=3000))
        expected = () if device == "cpu" else cards
        assert all(given == expected for _, given in calls)
    assert {name for name, _ in calls} >= functions
    batches = sum(name == "merge" for name, _ in calls)
    assert batches > 1
    assert [card.forgotten for card in cards] == [batches] * 2  # type: ignore[attr-defined]
    assert same_but_for_the_run(models / "cpu" / "out", models / "cuda:0,1" / "out")
    assert receipt_run(models / "cpu" / "out")["device"] == "cpu"
    assert receipt_run(models / "cuda:0,1" / "out")["device"] == "Fake 0, Fake 1"


def test_merge_begun_on_a_card_is_finished_on_the_processor(
    models: Path, calls: list[tuple[str, tuple[Any, ...]]]
) -> None:
    model = Checkpoint("base") + 0.5 * (Checkpoint("a") - Checkpoint("base"))

    def stop(done: int, whole: int) -> None:
        if done * 2 > whole:
            raise KeyboardInterrupt

    def save(out: str, options: RunOptions) -> int:
        report = save_checkpoint(model.weighting, model.donor, out, dtype=None, options=options)
        return report.resumed_bytes

    begun = RunOptions(threads=1, device="cuda", batch_bytes=500, progress=stop)
    with pytest.raises(KeyboardInterrupt, match="is kept in"):
        save("out", begun)
    calls.clear()
    assert save("out", RunOptions(threads=1, batch_bytes=500)) > 0
    assert not any(cards for _, cards in calls)
    save("again/out", RunOptions(batch_bytes=500))
    assert same_but_for_the_run(Path("out"), Path("again/out"))


def test_buffers_are_larger_where_a_card_computes() -> None:
    assert RunOptions(threads=3).buffer_bytes() == 36 * MIB
    assert RunOptions(threads=3, device="cuda").buffer_bytes() == 72 * MIB


# ---- clusters --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "gpus"), [("cpu", 0), ("cuda", 1), ("cuda:5", 1), ("cuda:0,1", 2), ("cuda:all", 3)]
)
def test_worker_asks_for_as_many_gpus_as_the_device_names(device: str, gpus: int) -> None:
    assert gpus_of(Node("0123456789", "here", cpus=4, gpus=3), device) == gpus


@pytest.mark.parametrize(("device", "least"), [("cuda", 1), ("cuda:0,1", 2), ("cuda:all", 1)])
def test_node_with_too_few_gpus_is_refused_by_name(device: str, least: int) -> None:
    nodes = [Node("aaaa", "full", cpus=4, gpus=8), Node("bbbb", "bare", cpus=4, gpus=0)]
    with pytest.raises(DeviceError, match=rf"^node bare \(bbbb\): .*: expected {least}, found 0"):
        refuse_missing_gpus(nodes, device)
    refuse_missing_gpus(nodes, "cpu")
    refuse_missing_gpus(nodes[:1], device)


def test_card_found_is_shown_as_it_is_named() -> None:
    assert str(CardFound(*PLENTY)) == "cuda:0 Plenty"
