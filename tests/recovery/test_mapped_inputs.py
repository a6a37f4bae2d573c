"""Inputs that are mapped in place of being read: the same bytes, and no bus error ends a run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recovery.fault_runs import MERGE, UNFINISHED, FaultyDisk, Run, contents
from support.checkpoints import write_model

WHOLE = 1 << 30  # one batch


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Two models of 9 MB: `base` and `tuned`, each in more than one window."""
    generator = np.random.default_rng(0)
    for name in ("base", "tuned"):
        values = generator.standard_normal((3, 750_000)).astype(np.float32)
        held = {f"w{number}": row for number, row in enumerate(values)}
        write_model(tmp_path / name, held, config={})
    return tmp_path


def run(disk: FaultyDisk, place: Path, rules: str = "", log: Path | None = None) -> Run:
    """The merge by one thread, in one batch, of mapped inputs."""
    command = MERGE.replace("--threads 2", "--threads 1")
    ended = disk.wait(disk.start(command, place, rules, log=log, batch_bytes=WHOLE, maps=True))
    assert ended is not None
    return ended


def test_mapped_inputs_give_the_same_bytes(disk: FaultyDisk, large: Path, tmp_path: Path) -> None:
    assert disk.run(MERGE, large).exit_code == 0
    read = contents(large / "out")
    (large / "out").rename(large / "read")
    ended = run(disk, large, log=tmp_path / "calls")
    assert ended.exit_code == 0, ended.said
    assert contents(large / "out") == read
    calls = (tmp_path / "calls").read_text().splitlines()
    for name in ("base", "tuned"):
        assert f"populate {name}/model.safetensors" in calls


def test_an_input_cut_short_after_it_was_mapped_is_an_error(disk: FaultyDisk, large: Path) -> None:
    ended = run(disk, large, "populate:tuned/model@2=cut")
    assert ended.exit_code == 7, ended.said
    assert "tuned/model.safetensors: was changed while it was read" in ended.said
    assert not (large / "out").exists()
    assert not (large / UNFINISHED).exists()


# A bus error of somebody else's, between or after merges that had their handler in place.
FOREIGN = """
import faulthandler, mmap, os, signal, sys
from pathlib import Path
from tvmerge import Checkpoint
place, steps = Path(sys.argv[1]), sys.argv[2:]
base, tuned = Checkpoint(place / "base"), Checkpoint(place / "tuned")

def fault():
    (place / "short").write_bytes(bytes(8192))
    with (place / "short").open("r+b") as file:
        held = mmap.mmap(file.fileno(), 8192)
        file.truncate(0)
        held[5000]

def during(moved, _whole):
    globals()[steps[-1]]()

for step in steps:
    if step == "faulthandler":
        faulthandler.enable()
    elif step == "merge":
        (base - 0.5 * (tuned - base)).save(place / f"out{len(os.listdir(place))}")
    elif step == "during":
        (base - 0.5 * (tuned - base)).save(place / "last", progress=during)
    elif step == "send":
        os.kill(os.getpid(), signal.SIGBUS)
    elif step == "fault":
        fault()
"""


@pytest.mark.parametrize(
    "steps",
    [
        "merge fault",
        "merge send",
        "faulthandler merge fault",
        "merge faulthandler merge fault",
        "merge faulthandler merge send",
        "faulthandler during fault",
        "faulthandler merge faulthandler during fault",
        "during fault",
    ],
)
def test_bus_errors_of_others_are_theirs(steps: str, large: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FOREIGN, large, *steps.split()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == -signal.SIGBUS
    assert ended.stderr.count("Fatal Python error: Bus error") == ("faulthandler" in steps)
