"""Mistakes put into the code for cards on purpose: do the tests find each of them?

    PYTHONPATH=tests python -m cards.cuda_mutants [NAME ...]

Each mutant, of those in mutations.py, is built by itself (only what includes the mutated file is
compiled) and goes to the tests of kernels, then under sanitizers, then to test_cards.py in the
orders of test_cuda_shim.py, until one of them fails. A mutant that survives shows a test that is
missing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from cards import shim_build
from cards.mutations import MUTANTS
from cards.shim_build import Mutation

SECONDS = 150


def killed_by(mutation: Mutation) -> str:
    """The test that fails with this mutation; empty if all pass."""
    if mutation[0] == "csrc/cuda":
        for name, flags, arguments in (
            ("kernels", shim_build.OPTIMISED, ("4", "1", "random")),
            ("kernels, sanitized", shim_build.SANITIZED, ("8", "3", "descending")),
        ):
            program = shim_build.kernel_tests(flags, mutation)
            if not passes([str(program), *arguments], dict(os.environ)):
                return name
    core = shim_build.module(mutation)
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    some = "BF16 or threads or block or file"
    runs: dict[str, tuple[dict[str, str], list[str]]] = {
        "some cards": ({"ORDER": "random"}, ["-k", some]),
        "two cards": ({"DEVICES": "2"}, ["-k", "two_cards"]),
        "all at once": ({"EAGER": "1"}, ["-k", some]),
        "all cards": ({}, []),
    }
    for name, (settings, chosen) in runs.items():
        tests = ["tests/cards/test_card_blocks.py", "tests/cards/test_cards.py", *chosen]
        if not passes([*pytest, *tests], shim_build.environment(core, **settings)):
            return name
    direct = {**shim_build.environment(core), "TVMERGE_GPUDIRECT": str(shim_build.cufile())}
    if not passes([*pytest, "tests/cards/test_card_files.py"], direct):
        return "files by the card"
    if not passes(
        [*pytest, "tests/cards/test_card_failures.py"],
        {**shim_build.environment(core), "TVMERGE_SHIM_CORE": str(core)},
    ):
        return "failing cards"
    return ""


def passes(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """False also for what crashes, or takes too long."""
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=shim_build.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(SECONDS) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and those that it has started
        process.wait()
        return False


def main(names: Sequence[str]) -> int:
    survivors = []
    harmless = ("csrc/cuda", "// What all kernels", "// what all kernels")
    if not names and (killer := killed_by(harmless)):
        print(f"the tests fail without a mistake: {killer}")  # noqa: T201
        return 1
    for name in names or MUTANTS:
        start = time.monotonic()
        try:
            killer = killed_by(MUTANTS[name])
        except shim_build.BuildError as error:
            killer = f"NOT BUILT: {error}"[-400:]
            survivors.append(name)
        if not killer:
            survivors.append(name)
        seconds = time.monotonic() - start
        print(f"{killer or 'SURVIVES':20} {seconds:5.0f} s  {name}", flush=True)  # noqa: T201
    print(f"{len(survivors)} survive: {survivors}")  # noqa: T201
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
