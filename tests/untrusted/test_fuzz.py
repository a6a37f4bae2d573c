"""A thousand cases of the fuzzer for every parser, and that the fuzzer finds what it looks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from fuzz import campaign, documents, sealed
from fuzz.targets import TARGETS, Target
from support import torch_files

from tvmerge.errors import FormatError

SEED = 20221212
TESTS = Path(__file__).parents[1]  # where `python -m fuzz` finds it


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_documents_are_refused_as_they_should_be_or_read(target: str) -> None:
    tally = campaign.run(target, SEED, range(1000))
    assert not tally.failures, tally.failures[0].reason
    # Both happen: else the mutations would damage nothing, or everything at once.
    assert 20 < tally.accepted < 980


def test_the_documents_that_are_damaged_are_sound() -> None:
    for number in range(50):
        random = Random(number)
        text, size = documents.header(random)
        assert TARGETS["header"].parse(size.to_bytes(8, "little") + text)
        assert TARGETS["index"].parse(documents.index(random))
        config, weights = documents.adapter(random)
        assert TARGETS["adapter"].parse(len(config).to_bytes(8, "little") + config + weights)
        assert TARGETS["torch"].parse(torch_files.archive(*documents.torch_pickle(random)))
        assert TARGETS["recipe"].parse(documents.recipe_in_json(random))
    for yaml in documents.RECIPES:
        assert TARGETS["recipe"].parse(yaml.encode())
    assert TARGETS["receipt"].parse(sealed.receipt())
    assert TARGETS["journal"].parse(sealed.journal())


def test_a_case_is_decided_by_its_seed_and_number_alone() -> None:
    for target in TARGETS:
        cases = [campaign.case(target, 7, number) for number in range(200)]
        assert cases[::-1] == [campaign.case(target, 7, number) for number in range(200)][::-1]
        assert cases != [campaign.case(target, 8, number) for number in range(200)]
        assert len(set(cases)) > 50


def raises(error: BaseException) -> Target:
    def parse(_case: bytes) -> bool:
        raise error

    return Target(lambda random: random.randbytes(8), parse, 1.0)


def never_ends(_case: bytes) -> bool:
    while True:
        pass


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (raises(KeyError("x")), "KeyError"),
        (raises(MemoryError()), "MemoryError"),
        (raises(RecursionError()), "RecursionError"),
        (raises(FormatError("the.file: cannot be read: \x1b[2J")), "AssertionError"),
        (raises(FormatError("the.file: " + "x" * 10**6)), "a message of 1000010 characters"),
        (Target(lambda random: random.randbytes(8), never_ends, 1.0), "TooSlow"),
    ],
)
def test_other_errors_long_messages_and_slow_cases_are_failures(
    target: Target, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(TARGETS, "broken", target)
    monkeypatch.setattr(campaign, "SECONDS", 0.2)
    (failure,) = campaign.run("broken", 3, range(5, 6)).failures
    assert reason in failure.reason
    kept = campaign.keep(failure, tmp_path / "kept")
    assert kept.name == "broken-3-5.case"
    assert kept.read_bytes() == campaign.case("broken", 3, 5)


def test_the_command_tells_its_seed_and_fails_where_a_case_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuzz", "--cases", "100", "--seed", "5", "--processes", "1"]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("seed 5\n")
    assert "100 cases in" in done.stdout and done.stdout.endswith("; 0 failures\n")
    (tmp_path / "header-5-1.case").write_bytes(campaign.case("header", 5, 1))
    replay = [*command[:3], "--replay", str(tmp_path / "header-5-1.case")]
    done = subprocess.run(replay, cwd=TESTS, capture_output=True, text=True)
    assert done.stdout in ("accepted\n", "refused\n")
