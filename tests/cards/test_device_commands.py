"""The command line and devices: what is refused, asked for and shown. No test needs a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from cards.fake_cards import PLENTY, without_card
from click.testing import CliRunner, Result
from support.method_models import recipe

from tvmerge import _core
from tvmerge.cli import cli
from tvmerge.cli.options import RunFlags, run_options
from tvmerge.errors import DeviceError

pytestmark = pytest.mark.usefixtures("closed")


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def test_replay_and_diff_compute_on_cards_and_checks_read_without(
    models: Path, calls: list[tuple[str, tuple[Any, ...]]]
) -> None:
    assert run("apply", "base", "out", "--add", "a").exit_code == 0
    calls.clear()
    assert run("verify", "out", "--device", "cuda").exit_code == 0
    assert [cards for _, cards in calls] == [()]
    calls.clear()
    assert run("verify", "out", "--device", "cuda", "--replay").exit_code == 0
    assert [len(cards) for _, cards in calls] == [0, 1]
    calls.clear()
    assert run("diff", "base", "out", "--device", "cuda").exit_code == 0
    assert [(name, len(cards)) for name, cards in calls] == [("measure", 1)]


@without_card
@pytest.mark.parametrize(
    "command",
    [
        "apply base out --add a",
        "vector base a out",
        "merge recipe.yaml out",
        "sweep recipe.yaml out --scale 0.5,1",
        "plan recipe.yaml out",
        "diff base a",
    ],
)
def test_missing_card_is_exit_code_9_and_leaves_nothing(command: str, models: Path) -> None:
    Path("recipe.yaml").write_text(recipe(Path(), "task_arithmetic", {"a": {"weight": 0.5}}))
    before = sorted(models.rglob("*"))
    done = run(*command.split(), "--device", "cuda")
    assert done.exit_code == 9, done.output
    assert done.output.startswith("Error: device 'cuda': ")
    assert sorted(models.rglob("*")) == before


def test_device_comes_from_the_environment_and_is_checked(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVMERGE_DEVICE", "gpu")
    refused = run("apply", "base", "out", "--add", "a")
    assert refused.exit_code == 2
    assert "device 'gpu': expected cpu, cuda" in refused.output
    assert run("apply", "base", "out", "--add", "a", "--device", "cpu").exit_code == 0


def test_memory_of_cards_without_a_card_is_a_mistake() -> None:
    said = CliRunner().invoke(cli, ["bench", "--memory-device", "300"])
    assert said.exit_code == 2
    assert "--memory-device is for cards" in said.output and "--device cuda" in said.output


@pytest.mark.parametrize(
    ("args", "memory_mib", "more"),
    [
        ("", 512, None),
        ("--device cpu", 512, None),
        ("--device cuda:1", 2048, None),
        ("--device cuda --memory 700 --memory-device 300", 700, 300),
    ],
)
def test_memory_limit_is_larger_where_a_card_computes(
    args: str, memory_mib: int, more: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TVMERGE_MEMORY")
    given: list[RunFlags] = []

    @click.command()
    @run_options
    def command(flags: RunFlags) -> None:
        given.append(flags)

    assert CliRunner().invoke(command, args.split()).exit_code == 0
    options = given[0].run_options()
    assert (options.memory_mib, options.device_memory_mib) == (memory_mib, more)


@without_card
def test_bench_says_at_once_that_there_is_no_card(tmp_path: Path) -> None:
    done = run("bench", "--device", "cuda", "--dir", str(tmp_path))
    assert done.exit_code == DeviceError.exit_code
    assert _core.cuda_problem() in done.output
    assert list(tmp_path.iterdir()) == []


def test_plan_says_what_computes(models: Path, calls: object) -> None:
    found = json.loads(run("plan", "base", "--add", "a", "--device", "cuda:1", "--json").stdout)
    assert (found["device"], found["cards"]) == ("cuda:1", ["Fake 1"])
    output = run("plan", "base", "--add", "a", "--device", "cuda:1", "--no-probe").output
    assert "  device   cuda:1 (Fake 1)\n" in output
    assert "  device   cpu\n" in run("plan", "base", "--add", "a", "--no-probe").output


@without_card
def test_devices_says_why_there_are_none() -> None:
    found = json.loads(run("devices", "--json").stdout)
    assert found["cards"] == []
    assert found["problem"] == _core.cuda_problem() != ""
    assert found["processor"]["isas"] == _core.available_isas()
    done = run("devices")
    assert done.exit_code == 0
    assert f"no card can be used: {_core.cuda_problem()}" in done.output
    assert "generic" in done.output


def test_devices_lists_cards(fakes: object) -> None:
    found = json.loads(run("devices", "--json").stdout)
    assert found["cards"][0] == {
        "device": "cuda:0",
        "index": 0,
        "name": "Plenty",
        "compute_capability": "9.0",
        "free_bytes": PLENTY[3],
        "total_bytes": PLENTY[4],
        "usable": True,
        "problem": None,
    }
    assert [card["usable"] for card in found["cards"]] == [True, True, False]
    lines = run("devices").output.splitlines()
    assert lines[1].split() == ["cuda:0", "Plenty", "9.0", "83.75", "GB", "85.90", "GB", "yes"]
    assert lines[3].endswith("no: compute capability 5.2 is below 8.0")
