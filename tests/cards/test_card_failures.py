"""Cards that are not there, have no memory left, or fail in the middle: by the host shim.

Whatever fails, a merge writes the processor's bytes or nothing under its name, says what happened,
and the same command goes on from there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cards import shim_build
from support.checkpoints import write_model

pytestmark = pytest.mark.slow

HOW_MANY = {
    "copy": (1, 2, 5, 13, 21, 24),
    "refuse": (1, 3, 6, 9, 14, 23),
    "launch": (1, 2, 5, 13, 21, 40),
}


@pytest.fixture(scope="module")
def core() -> Path:
    given = os.environ.get("TVMERGE_SHIM_CORE")  # a mutant (cuda_mutants.py)
    return Path(given) if given else shim_build.module()


def outcomes(
    core: Path, folder: Path, method: str, cases: list[dict[str, object]]
) -> list[dict[str, object]]:
    """Each case's merge: what it came to, whether there is an output, and the merge after it."""
    command = [sys.executable, "-m", "cards.failing_cards", str(folder)]
    done = subprocess.run(
        [*command, method, *map(json.dumps, cases)],
        env=shim_build.environment(core),
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases)
    for case, one in zip(cases, found, strict=True):
        context = f"{case}: {one}"
        assert one["exists"] == (one["found"] == "same"), context
        assert one["then"] == "same", context
        assert one["left"] == [], context
    return found


def failing(what: str) -> dict[str, object]:
    return {"TVMERGE_SHIM_FAIL": what}


@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
@pytest.mark.parametrize("call", HOW_MANY)
def test_card_that_fails_is_an_error_and_leaves_no_output(
    core: Path, tmp_path: Path, method: str, call: str
) -> None:
    found = outcomes(
        core, tmp_path, method, [failing(f"{call}:{number}") for number in HOW_MANY[call]]
    )
    failed = [str(one["found"]) for one in found if one["found"] != "same"]
    assert len(failed) >= 3  # the merge has at least so many calls
    # Which call hears of it first is the threads' affair.
    what = "cudaErrorInvalidValue" if call == "refuse" else "unspecified launch failure"
    assert all(re.match(f"DeviceError: cuda_shim 0: (.*: )?{what}", text) for text in failed), (
        failed
    )


def test_memory_that_is_refused_once_is_done_without(core: Path, tmp_path: Path) -> None:
    cases = [
        failing(f"{call}:{n}") | {"device_memory_mib": 128}
        for call in ("malloc", "hostalloc")
        for n in (1, 2, 3)
    ]
    cases.append({"TVMERGE_SHIM_MEMORY": str(200 << 20), "device_memory_mib": 512})
    cases.append({"TVMERGE_SHIM_MEMORY": str(70 << 20), "device_memory_mib": 128})
    found = outcomes(core, tmp_path, "ties", cases)
    assert [one["found"] for one in found] == ["same"] * len(cases)


def test_memory_that_is_not_there_is_an_error(core: Path, tmp_path: Path) -> None:
    cases: list[dict[str, object]]
    cases = [failing("malloc:0"), failing("hostalloc:0"), {"TVMERGE_SHIM_MEMORY": "1000000"}]
    found = [str(one["found"]) for one in outcomes(core, tmp_path, "ties", cases)]
    assert found[0].startswith("MemoryLimitError: cuda_shim 0: no memory left")
    assert found[1].startswith("MemoryLimitError: the system gives no pinned memory")
    assert found[2].startswith("MemoryLimitError: cuda_shim 0: ")


def command(core: Path, folder: Path, *arguments: str, **settings: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tvmerge", *arguments],
        env=shim_build.environment(core, **settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"DEVICES": "0"}, "no NVIDIA card is visible here"),
        ({"DEVICES": "-1"}, "no NVIDIA driver is installed here"),
        ({"CAPABILITY": "75"}, "too old: compute capability 7.5, expected 8.0 or later"),
    ],
)
def test_machine_without_a_card_of_use_says_why(
    core: Path, tmp_path: Path, settings: dict[str, str], why: str
) -> None:
    for number, name in enumerate(("base", "a")):
        write_model(tmp_path / name, {"w": np.full((4, 4), number, np.float32)})
    arguments = ("apply", "base", "out", "--add", "a", "--device", "cuda")
    code, text = command(core, tmp_path, *arguments, **settings)
    assert code == 9, text
    assert why in " ".join(text.split())
    assert "Traceback" not in text
    assert not (tmp_path / "out").exists()
    code, text = command(core, tmp_path, "devices", **settings)
    assert code == 0, text
    assert why in " ".join(text.split())
    code, text = command(core, tmp_path, *arguments[:-1], "cpu", **settings)
    assert code == 0, text
