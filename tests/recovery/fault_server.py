"""Runs tvmerge commands in forked children of a process that has the failing disk preloaded.

Forked, because a child that has imported everything starts in a millisecond: hundreds of runs fit
in a test. Reads one JSON object a line: {"argv", "folder", "rules", "log", "said", "batch_bytes"}
starts a run and is answered with its pid; {"wait": pid, "seconds": s or null} is answered with
waitpid's status as os.waitstatus_to_exitcode gives it, or null where the run was not over by then;
{"stopped": pid} is answered once that run has stopped itself, or has ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import sys
import traceback
from typing import Any

from tvmerge.algebra.operands import Checkpoint
from tvmerge.cli import apply, main, saving, sweep, vector
from tvmerge.engine.run_options import RunOptions

LOADED = (Checkpoint, apply, saving, sweep, vector)  # before the fork, not in every child


def run(order: dict[str, Any]) -> None:
    """The child: what it prints goes to the file `said`."""
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    os.chdir(order["folder"])
    # No option of the command, since it changes nothing but what an interruption costs.
    RunOptions.__init__.__kwdefaults__["batch_bytes"] = order["batch_bytes"]
    os.environ |= {"FAULTS_UNDER": order["folder"], "FAULTS_RULES": order["rules"]}
    if order["log"]:
        os.environ["FAULTS_LOG"] = order["log"]
    ctypes.CDLL(None).faults_begin()
    main(order["argv"])


def start(order: dict[str, Any]) -> int:
    """Fork a child that runs the order; its pid."""
    pid = os.fork()
    if pid > 0:
        return pid
    status = 70  # no exit code of tvmerge
    try:
        os.setpgid(0, 0)  # Ctrl-C at the tests is for the tests
        run(order)
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int, seconds: float | None) -> int | None:
    """The exit code of a child, -signal where one ended it; None where it still runs."""
    watched = os.pidfd_open(pid)
    try:
        if not select.select([watched], [], [], seconds)[0]:
            return None
    finally:
        os.close(watched)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stopped(pid: int) -> None:
    """Return when the child has stopped or ended; `wait` can still be asked for it."""
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def answer(asked: dict[str, Any]) -> int | None:
    """Do what one line asks."""
    if "wait" in asked:
        return wait(asked["wait"], asked["seconds"])
    if "stopped" in asked:
        return stopped(asked["stopped"])
    return start(asked)


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
