"""What cards compute, by the host shim (cuda_shim): on every machine, without a card.

test_cards.py runs as it is, then in other orders of threads and of what streams do, then with two
cards.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cards import shim_build

pytestmark = pytest.mark.slow

TESTS = ("tests/cards/test_cards.py", "tests/cards/test_card_blocks.py")
SOME = "BF16 or threads or block or file"
# Settings of the shim, the tests that are chosen, and how many of them have to run at least.
RUNS = {
    "as it is": ({}, "", 200),
    "random order": ({"ORDER": "random", "SEED": "1"}, SOME, 50),
    "all at once": ({"EAGER": "1", "ORDER": "descending"}, SOME, 50),
    "two cards": (
        {"DEVICES": "2", "ORDER": "random"},
        "two_cards or threads or memory or block",
        9,
    ),
}


@pytest.fixture(scope="module")
def core() -> Path:
    return shim_build.module()


@pytest.mark.parametrize("name", RUNS)
def test_cards_compute_the_processors_bytes(core: Path, tmp_path: Path, name: str) -> None:
    settings, chosen, least = RUNS[name]
    ran, skipped = run(tmp_path, [*TESTS, "-k", chosen], shim_build.environment(core, **settings))
    # Skipped are at most those that want a second card.
    assert skipped == (0 if "DEVICES" in settings or chosen else 4)
    assert ran >= least


@pytest.mark.parametrize(
    ("settings", "chosen", "least"),
    [({"ORDER": "random"}, "not two_cards", 20), ({"DEVICES": "2"}, "two_cards", 2)],
)
def test_cards_read_files_by_themselves(
    core: Path, tmp_path: Path, settings: dict[str, str], chosen: str, least: int
) -> None:
    environment = shim_build.environment(core, **settings)
    environment["TVMERGE_GPUDIRECT"] = str(shim_build.cufile())
    tests = ["tests/cards/test_card_files.py", "-k", chosen]
    ran, skipped = run(tmp_path, tests, environment)
    if "keeps its files in memory" in (tmp_path / "report.xml").read_text():
        pytest.skip(f"{skipped} tests: this file system keeps its files in memory")
    assert ran >= least


def run(tmp_path: Path, chosen: list[str], environment: dict[str, str]) -> tuple[int, int]:
    """How many tests ran and passed in a process of their own, and how many were skipped."""
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", *chosen, "-q", f"--basetemp={tmp_path / 'files'}"]
    # What the shim complains of goes to stderr, also where an error is swallowed.
    command += ["--capture=no", "-p", "no:cacheprovider", f"--junitxml={report}"]
    done = subprocess.run(
        command,
        env=environment,
        cwd=shim_build.ROOT,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "cuda_shim:" not in done.stderr
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    skipped = int(suite.get("skipped", ""))
    return int(suite.get("tests", "")) - skipped, skipped
