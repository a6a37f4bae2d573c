"""Runs `tvmerge` commands on a disk that fails on order (shim/), and kills them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from support.checkpoints import write_model

HERE = Path(__file__).parent
KILLED = -signal.SIGKILL
# A merge of the inputs below takes some forty batches.
BATCH_BYTES = 48 * 1024
RECEIPT = "tvmerge_receipt.json"
MERGE = "apply base out --subtract tuned=0.5 --threads 2 --quiet"
UNFINISHED = ".out.unfinished"


@dataclass(frozen=True, slots=True)
class Run:
    """A command that has ended: its exit code (-signal where one ended it) and all it printed."""

    exit_code: int
    said: str


@dataclass(frozen=True, slots=True)
class Started:
    """A command that runs, or has stopped itself."""

    pid: int
    said: Path


class FaultyDisk:
    """Starts commands; `rules` are those of shim/faults.c and hold for paths below `folder`."""

    def __init__(self, server: subprocess.Popen[str], scratch: Path) -> None:
        self._server, self._scratch, self._runs = server, scratch, 0

    def start(
        self,
        command: str,
        folder: Path,
        rules: str = "",
        *,
        log: Path | None = None,
        batch_bytes: int = BATCH_BYTES,
        maps: bool = False,
    ) -> Started:
        """Start `tvmerge COMMAND` in `folder`; unless it `maps`, it reads what it could map."""
        if not maps:
            rules = f"map@1-=ENODEV,{rules}"
        self._runs += 1
        said = self._scratch / f"said-{self._runs}"
        said.touch()  # it may be killed before it opens that
        pid = self._ask(
            argv=command.split(),
            folder=str(folder.resolve()),
            rules=rules,
            log=str(log or ""),
            said=str(said),
            batch_bytes=batch_bytes,
        )
        assert pid is not None
        return Started(pid, said)

    def stopped(self, started: Started) -> None:
        """Wait until it has stopped itself (rule `stop`), or has ended."""
        self._ask(stopped=started.pid)

    def wait(self, started: Started, seconds: float | None = None) -> Run | None:
        """Wait for its end; None where it still runs after so many seconds."""
        exit_code = self._ask(wait=started.pid, seconds=seconds)
        if exit_code is None:
            return None
        return Run(exit_code, started.said.read_text())

    def run(self, command: str, folder: Path, rules: str = "", *, maps: bool = False) -> Run:
        """Run `tvmerge COMMAND` in `folder` to its end."""
        ended = self.wait(self.start(command, folder, rules, maps=maps))
        assert ended is not None
        return ended

    def calls(self, command: str, folder: Path) -> list[str]:
        """Run the command and return what it asked of the disk: lines of "KIND PATH"."""
        log = self._scratch / f"calls-{self._runs}"
        ended = self.wait(self.start(command, folder, log=log))
        assert ended is not None
        assert ended.exit_code == 0, ended.said
        return log.read_text().splitlines()

    def run_and_kill(self, command: str, folder: Path, seconds: float) -> Run:
        """Run it for so long at most, then SIGKILL."""
        started = self.start(command, folder)
        ended = self.wait(started, seconds)
        if ended is None:
            os.kill(started.pid, signal.SIGKILL)
            ended = self.wait(started)
        assert ended is not None
        return ended

    def _ask(self, **order: object) -> int | None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        answer: int | None = json.loads(self._server.stdout.readline())
        return answer


@contextmanager
def faulty_disk(scratch: Path) -> Iterator[FaultyDisk]:
    """Compile the shim into `scratch` and keep the server that runs commands under it."""
    shim = scratch / "faults.so"
    compiler = os.environ.get("CC", "cc")
    sources = [HERE / "shim" / name for name in ("faults.c", "calls.c")]
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", shim, *sources], check=True)
    server = subprocess.Popen(
        [sys.executable, HERE / "fault_server.py"],
        # Last, behind a sanitizer's library.
        env=os.environ | {"LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {shim}".strip()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with server:
            yield FaultyDisk(server, scratch)
    finally:
        server.wait()


def changes(calls: list[str]) -> list[str]:
    """Of a run's calls those that the rules' kind `change` counts, in their order."""
    others = ("open ", "read ", "lock ", "map ", "populate ")
    return [call for call in calls if not call.startswith(others)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; of receipts, all but what tells of the run itself."""
    held = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    for name in held:
        if Path(name).name != RECEIPT:
            continue
        receipt = json.loads(held[name])
        del receipt["run"], receipt["digest"]  # the latter is the receipt's own
        held[name] = json.dumps(receipt).encode()
    return held


def write_inputs(place: Path) -> None:
    """Two sharded models of 2 MB: `base` with all that comes along, and `tuned`."""
    generator = np.random.default_rng(0)
    shapes = {f"model.layers.{i}.weight": (90 + i, 128) for i in range(40)}
    for name, shards in {"base": 3, "tuned": 2}.items():
        held: dict[str, np.ndarray] = {
            tensor: generator.standard_normal(shape).astype(np.float32)
            for tensor, shape in shapes.items()
        }
        held["model.position_ids"] = np.arange(64)
        write_model(place / name, held, shards=shards, config={"torch_dtype": "float32"})
    (place / "base" / "tokenizer.json").write_bytes(b"{}" + b" " * 10_000)
    (place / "base" / "code").mkdir()
    (place / "base" / "code" / "modeling.py").write_text("# of the model\n")


def ends_well(disk: FaultyDisk, place: Path, expected: dict[str, bytes], command: str) -> None:
    """On a sound disk the command ends with the expected files, and leaves nothing else."""
    ended = disk.run(command, place)
    assert ended.exit_code == 0, ended.said
    assert contents(place / "out") == expected
    assert {path.name for path in place.iterdir()} == {"base", "tuned", "out"}
    shutil.rmtree(place / "out")
