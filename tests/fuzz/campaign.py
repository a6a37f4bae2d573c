"""Runs cases, under limits on time and memory, and keeps those that fail."""

from __future__ import annotations

import resource
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter
from types import FrameType

from fuzz.targets import TARGETS
from tvmerge.errors import TVMergeError
from tvmerge.files.untrusted import printable

# Of processor time; every case has a few kilobytes at most.
SECONDS = 5.0
_LONGEST_MESSAGE = 25_000  # twenty faults of a recipe, each of a thousand characters


class TooSlow(BaseException):
    """A case took longer than SECONDS; nothing that is fuzzed can catch it by mistake."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that neither parsed nor was refused as it should be."""

    target: str
    seed: int
    number: int
    reason: str


@dataclass(slots=True)
class Tally:
    """What became of some cases of one target."""

    target: str
    cases: int = 0
    accepted: int = 0
    slowest_seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count another tally of the same target in."""
        self.cases += other.cases
        self.accepted += other.accepted
        self.slowest_seconds = max(self.slowest_seconds, other.slowest_seconds)
        self.failures += other.failures


def case(target: str, seed: int, number: int) -> bytes:
    """The bytes of a case."""
    return TARGETS[target].make(Random(f"{target} {seed} {number}"))


def outcome(target: str, content: bytes) -> bool:
    """Whether the target accepts the bytes; AssertionError where its refusal is not well-formed."""
    try:
        return TARGETS[target].parse(content)
    except TVMergeError as error:
        message = str(error)
        assert 20 < len(message) < _LONGEST_MESSAGE, f"a message of {len(message)} characters"
        assert all(line == printable(line) for line in message.split("\n")), ascii(message)
        return False


def run(target: str, seed: int, numbers: range) -> Tally:
    """Run the cases of these numbers; failures end no run."""
    tally = Tally(target)
    for number in numbers:
        content = case(target, seed, number)
        started = perf_counter()
        try:
            with _time_limit():
                tally.accepted += outcome(target, content)
        except (Exception, TooSlow):
            tally.failures.append(Failure(target, seed, number, traceback.format_exc(limit=-4)))
        tally.cases += 1
        tally.slowest_seconds = max(tally.slowest_seconds, perf_counter() - started)
    return tally


def limit_memory(size_bytes: int) -> None:
    """Let this process have no more memory than that: more is a MemoryError, and a failure."""
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))


def keep(failure: Failure, folder: Path) -> Path:
    """Write the case of a failure into `folder`, to be replayed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{failure.target}-{failure.seed}-{failure.number}.case"
    path.write_bytes(case(failure.target, failure.seed, failure.number))
    return path


@contextmanager
def _time_limit() -> Iterator[None]:
    def too_slow(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, too_slow)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
