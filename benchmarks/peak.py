"""Runs a command and says how much memory it took at its peak."""

from __future__ import annotations

import os
import subprocess


def peak_rss_mib(command: list[str]) -> float:
    """Peak resident memory of the process (not of its children) in MiB; raises where it fails."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr:
        said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said.decode()[-2000:]}")
    return usage.ru_maxrss / 1024
