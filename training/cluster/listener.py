"""Who is told how a study gets on. Nothing of a study itself is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvmerge.training.cluster.cluster import JobProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Told how the study gets on."""

    # (fine-tuning steps, measurements): what the whole study consists of but for re-learning
    on_plan: Callable[[int, int], None] = lambda steps, measurements: None
    on_job: Callable[[JobProgress], None] = lambda progress: None
    # (done, of all) measurements
    on_measured: Callable[[int, int], None] = lambda done, total: None
    # (done, of all) models trained to have a trait again
    on_relearned: Callable[[int, int], None] = lambda done, total: None
    # (done, of all) models of lowered scales trained further
    on_relaxed: Callable[[int, int], None] = lambda done, total: None
