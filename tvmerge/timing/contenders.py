"""What a merge is timed against: copying with cat and cp, the floor, other tools on the PATH.

And, where a card computes, itself: with inputs that no cache holds, read by the processor and by
the card (GPUDirect Storage).

Every contender reads the same inputs and writes the same folder, which is cleared before; they run
in turn, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic

from tvmerge.checkpoints.stored import Stored
from tvmerge.engine.gpudirect import OFF, VARIABLE
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import TVMergeError
from tvmerge.files.page_cache import forget_all
from tvmerge.plans.plan import Plan
from tvmerge.receipts.receipt import RECEIPT_NAME
from tvmerge.timing.floor import floor_seconds

CAT_AND_CP = "cat + cp"
FLOOR = "floor"
TVMERGE = "tvmerge"
COLD = "tvmerge, cold"
DIRECT = "tvmerge, cold, GPUDirect"
MERGEKIT = "mergekit"
_MERGEKIT_COMMAND = "mergekit-yaml"
_PEAK = "VmHWM:"
# `tvmerge` that ends by saying its peak memory: what wait4 tells is at least that of the parent,
# from which the process was forked.
_TVMERGE = f"""
import sys
from tvmerge.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*(line for line in open("/proc/self/status") if line.startswith("{_PEAK}")))
"""
_SAID = 2000  # how much of a failed command's last words an error repeats


@dataclass(frozen=True, slots=True)
class Contest:
    """The merge that is timed: base - scale * (each tuned - base), written to the folder `out`."""

    base: Stored
    tuned: tuple[Stored, ...]
    scale: float
    plan: Plan
    out: Path
    options: RunOptions
    # The library by which the card's own reading takes part; empty: it does not.
    cufile: str = ""

    @property
    def files(self) -> list[str]:
        """All input files."""
        return [os.fspath(file) for stored in (self.base, *self.tuned) for file, _ in stored.shards]

    def clear(self) -> None:
        """Remove the output of whoever ran last."""
        shutil.rmtree(self.out, ignore_errors=True)


@dataclass(slots=True)
class Timings:
    """What one contender took: seconds of each round, and MiB at most where that is known."""

    seconds: list[float] = field(default_factory=list)
    peak_mib: float | None = None
    # Of all rounds: what a card has read by itself.
    direct_bytes: int = 0

    @property
    def median(self) -> float:
        """The middle round's seconds."""
        return median(self.seconds)

    def add(self, seconds: float, peak_mib: float | None = None) -> None:
        """One more round."""
        self.seconds.append(seconds)
        if peak_mib is not None:
            self.peak_mib = max(self.peak_mib or 0.0, peak_mib)


@dataclass(frozen=True, slots=True)
class Results:
    """All rounds; `engine` is what tvmerge says of itself, without the start of its process."""

    timings: dict[str, Timings]
    engine: Timings

    @property
    def share_of_floor(self) -> float:
        """The median of floor / engine over the rounds: 1 is as fast as the disk allows."""
        pairs = zip(self.timings[FLOOR].seconds, self.engine.seconds, strict=True)
        return median(floor / engine for floor, engine in pairs)

    def ratio(self, name: str) -> float | None:
        """The median of tvmerge / contender over the rounds, whole processes both."""
        theirs = self.timings[name].seconds
        if not theirs or name in (TVMERGE, FLOOR, COLD, DIRECT):
            return None
        ours = self.timings[TVMERGE].seconds
        if len(theirs) != len(ours):
            return median(ours) / median(theirs)
        return median(one / two for one, two in zip(ours, theirs, strict=True))

    @property
    def direct_ratio(self) -> float | None:
        """The median of a card's own reading / the processor's; None where there was none."""
        direct = self.timings.get(DIRECT)
        if direct is None or not direct.direct_bytes:
            return None
        pairs = zip(direct.seconds, self.timings[COLD].seconds, strict=True)
        return median(one / two for one, two in pairs)


def compete(contest: Contest, rounds: int, told: Callable[[str], None]) -> Results:
    """Time everybody `rounds` times in turn, and mergekit once where it is installed.

    `told` is called with a word on what runs. Raises what a merge raises, and TVMergeError where a
    command fails.
    """
    names = (CAT_AND_CP, FLOOR, TVMERGE, *((COLD, DIRECT) if contest.cufile else ()))
    timings = {name: Timings() for name in names}
    engine = Timings()
    told("reading the inputs once")
    _run(["cat", *contest.files])
    try:
        for number in range(rounds):
            # Each goes first in its turn: who follows whom decides what the disk still writes.
            order = list(timings)
            for name in order[number % len(order) :] + order[: number % len(order)]:
                told(f"round {number + 1} of {rounds}: {name}")
                contest.clear()
                _ROUNDS[name](contest, timings[name], engine)
        if shutil.which(_MERGEKIT_COMMAND):
            told(f"{MERGEKIT}, once")
            contest.clear()
            timings[MERGEKIT] = Timings()
            _time_mergekit(contest, timings[MERGEKIT])
    finally:
        contest.clear()
    return Results(timings, engine)


def _time_cat_and_cp(contest: Contest, timings: Timings, _engine: Timings) -> None:
    contest.out.mkdir(parents=True)
    started = monotonic()
    _run(["cat", *contest.files])
    copied = [os.fspath(file) for file, _ in contest.base.shards]
    _run(["cp", *copied, os.fspath(contest.out)])
    timings.add(monotonic() - started)


def _time_floor(contest: Contest, timings: Timings, _engine: Timings) -> None:
    contest.out.mkdir(parents=True)
    outputs = [contest.out / shard.name for shard in contest.plan.shards]
    timings.add(floor_seconds(contest.plan, outputs, contest.options))


def _time_tvmerge(contest: Contest, timings: Timings, engine: Timings) -> None:
    engine.add(_apply(contest, timings, None))


def _time_cold(contest: Contest, timings: Timings, _engine: Timings) -> None:
    _apply(contest, timings, OFF, cold=True)


def _time_direct(contest: Contest, timings: Timings, _engine: Timings) -> None:
    _apply(contest, timings, contest.cufile, cold=True)
    run = json.loads((contest.out / RECEIPT_NAME).read_bytes())["run"]
    timings.direct_bytes += run["direct_bytes"]


def _apply(contest: Contest, timings: Timings, direct: str | None, *, cold: bool = False) -> float:
    """One round of `tvmerge apply`; returns the seconds that it says of itself.

    `direct` takes the place of TVMERGE_GPUDIRECT; None: that is as it is here.
    """
    base, out = os.fspath(contest.base.source), os.fspath(contest.out)
    command = [sys.executable, "-c", _TVMERGE, "apply", base, out, "--json"]
    for stored in contest.tuned:
        command += ["--subtract", f"{stored.source}={contest.scale}"]
    command += ["--threads", str(contest.options.thread_count())]
    if contest.options.memory_mib is not None:
        command += ["--memory", str(contest.options.memory_mib)]
    command += ["--device", contest.options.device]
    if contest.options.device_memory_mib is not None:
        command += ["--memory-device", str(contest.options.device_memory_mib)]
    if cold:
        forget_all(contest.files)
    started = monotonic()
    answer, _ = _run(command, {} if direct is None else {VARIABLE: direct})
    seconds = monotonic() - started
    if cold:  # who comes next finds them cached
        _run(["cat", *contest.files])
    report, _, peak = answer.decode().rpartition(_PEAK)
    timings.add(seconds, int(peak.split()[0]) / 1024)
    taken: float = json.loads(report)["seconds"]
    return taken


def _time_mergekit(contest: Contest, timings: Timings) -> None:
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": os.fspath(contest.base.source),
        "models": [
            {"model": os.fspath(stored.source), "parameters": {"weight": -contest.scale}}
            for stored in contest.tuned
        ],
        "dtype": "bfloat16",
    }
    config = contest.out.with_name(contest.out.name + ".yaml")
    config.write_text(json.dumps(recipe))  # JSON is YAML
    try:
        command = [_MERGEKIT_COMMAND, os.fspath(config), os.fspath(contest.out)]
        started = monotonic()
        _, peak_mib = _run([*command, "--no-copy-tokenizer", "--no-write-model-card", "--quiet"])
        timings.add(monotonic() - started, peak_mib)
    finally:
        config.unlink()


_ROUNDS: dict[str, Callable[[Contest, Timings, Timings], None]] = {
    CAT_AND_CP: _time_cat_and_cp,
    FLOOR: _time_floor,
    TVMERGE: _time_tvmerge,
    COLD: _time_cold,
    DIRECT: _time_direct,
}


def _run(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[bytes, float]:
    """Run a command to its end; returns what it said, and its peak memory in MiB.

    The memory is right where it is more than this process has; its environment has more than this
    one's.
    """
    with tempfile.TemporaryFile() as complaint, tempfile.TemporaryFile() as answer:
        process = subprocess.Popen(
            command,
            stdout=answer if command[0] == sys.executable else subprocess.DEVNULL,
            stderr=complaint,
            env={**os.environ, **(environment or {})},
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)  # subprocess does not tell the memory
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        complaint.seek(0)
        answer.seek(0)
        if process.returncode:
            said = complaint.read().decode(errors="replace")[-_SAID:].strip()
            raise TVMergeError(f"{command[0]} ended with {process.returncode}: {said}")
        return answer.read(), usage.ru_maxrss / 1024
