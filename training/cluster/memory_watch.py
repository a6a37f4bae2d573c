"""The memory that this process and all its descendants take together, at its peak."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType

_INTERVAL_S = 2.0
_PROC = Path("/proc")


class MemoryWatch:
    """Samples proportional set size (shared pages counted once) while the block runs."""

    def __init__(self) -> None:
        self.peak_mib: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            now = sum(map(_pss_kib, _descendants(os.getpid()))) / 1024
            self.peak_mib = max(self.peak_mib or 0.0, round(now, 1))
            if self._stop.wait(_INTERVAL_S):
                return


def _descendants(root: int) -> list[int]:
    parents = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                # The name in parentheses may hold anything; the parent is the second field after.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended while we looked
            parents[int(entry.name)] = int(fields[1])
    found = [root]
    for pid in found:  # grows as it is walked
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _pss_kib(pid: int) -> int:
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass  # it ended, or is not ours to look at
    return 0
