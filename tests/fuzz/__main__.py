"""The command line of the fuzzer; see `fuzz/__init__.py`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import SystemRandom
from time import perf_counter

from fuzz.campaign import Tally, keep, limit_memory, outcome, run
from fuzz.targets import TARGETS

_CHUNK = 2000
_MEMORY_BYTES = 1 << 30
_LISTED = 20

Job = tuple[str, int, range]


def main() -> int:
    """Run what the command line asks for; 1 where a case failed."""
    asked = _parser().parse_args()
    if asked.replay:
        accepted = outcome(asked.replay.name.split("-")[0], asked.replay.read_bytes())
        _say("accepted" if accepted else "refused")
        return 0
    _say(f"seed {asked.seed}")
    shares = {asked.target: 1.0} if asked.target else {n: t.share for n, t in TARGETS.items()}
    tallies = {name: Tally(name) for name in shares}
    started = perf_counter()
    # Tells of a worker that dies, which multiprocessing.Pool would wait for.
    with ProcessPoolExecutor(
        asked.processes, get_context("spawn"), limit_memory, (_MEMORY_BYTES,)
    ) as pool:
        jobs = _jobs(shares, asked.cases, asked.seed)
        for tally in pool.map(run, *zip(*jobs, strict=True)):
            tallies[tally.target].add(tally)
    failures = [failure for tally in tallies.values() for failure in tally.failures]
    for failure in failures[:_LISTED]:
        _say(f"\n{keep(failure, asked.failures)}\n{failure.reason}")
    _tell(tallies, perf_counter() - started)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("--cases", type=int, default=1_000_000, help="over all targets")
    parser.add_argument("--target", choices=TARGETS, help="all cases to this one")
    parser.add_argument("--seed", type=int, default=SystemRandom().getrandbits(32))
    parser.add_argument("--failures", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--replay", type=Path, help="one kept case")
    return parser


def _jobs(shares: dict[str, float], cases: int, seed: int) -> Iterator[Job]:
    for target, share in shares.items():
        count = round(cases * share)
        for start in range(0, count, _CHUNK):
            yield target, seed, range(start, min(start + _CHUNK, count))


def _tell(tallies: dict[str, Tally], seconds: float) -> None:
    _say(f"{'target':10} {'cases':>10} {'accepted':>9} {'slowest':>10}")
    for tally in tallies.values():
        share = tally.accepted / max(tally.cases, 1)
        slowest = f"{tally.slowest_seconds * 1e3:.0f} ms"
        _say(f"{tally.target:10} {tally.cases:10,} {share:9.1%} {slowest:>10}")
    cases = sum(tally.cases for tally in tallies.values())
    failures = sum(len(tally.failures) for tally in tallies.values())
    _say(
        f"{cases:,} cases in {seconds:.0f} s, {cases / seconds:,.0f} a second; {failures} failures"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
