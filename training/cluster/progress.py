"""Progress of a study in a terminal: the whole with what is left, and every running fine-tune."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from tvmerge.training.cluster.cluster import JobProgress

# A measurement takes about as long as this many training steps; only the estimate depends on it.
STEPS_PER_MEASUREMENT = 12


class StudyBars:
    """Bars that follow a study; a context manager."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeft(),
            TextColumn("{task.fields[note]}"),
            console=console,
            # Fine-tunes and measurements alternate in speed: an average over minutes is steadier.
            speed_estimate_period=300,
        )
        self._whole = self._bars.add_task("study", total=None, note="")
        self._jobs: dict[str, TaskID] = {}
        self._job_steps: dict[str, int] = {}
        self._finished: set[str] = set()
        self._measured = 0

    def __enter__(self) -> StudyBars:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def on_plan(self, steps: int, measurements: int) -> None:
        """The size of the whole study is known."""
        total = steps + measurements * STEPS_PER_MEASUREMENT
        self._bars.update(self._whole, total=total)

    def on_job(self, progress: JobProgress) -> None:
        """A fine-tune has moved."""
        self._job_steps[progress.name] = progress.step
        if progress.state == "finished":
            self._finished.add(progress.name)
        self._update_whole(f"fine-tunes: {len(self._finished)} of {len(self._job_steps)}")
        if progress.state == "running":
            if progress.name not in self._jobs:
                self._jobs[progress.name] = self._bars.add_task(
                    f"  {progress.name}", total=progress.steps, note=""
                )
            loss = f"loss {progress.loss:.2f}" if progress.loss is not None else ""
            self._bars.update(self._jobs[progress.name], completed=progress.step, note=loss)
        elif progress.name in self._jobs:
            self._bars.remove_task(self._jobs.pop(progress.name))

    def on_measured(self, done: int, total: int) -> None:
        """A model was measured."""
        self._measured = done
        self._update_whole(f"measured models: {done} of {total}")

    def on_relearned(self, done: int, total: int) -> None:
        """A model was trained to have a trait again."""
        self._bars.update(self._whole, note=f"re-learned: {done} of {total}")

    def on_relaxed(self, done: int, total: int) -> None:
        """A model of a lowered scale was trained further."""
        self._bars.update(self._whole, note=f"lowered: {done} of {total}")

    def _update_whole(self, note: str) -> None:
        done = sum(self._job_steps.values()) + self._measured * STEPS_PER_MEASUREMENT
        self._bars.update(self._whole, completed=done, note=note)


class StudyLines:
    """The same news as lines, for logs: one for every finished fine-tune and measurement."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._job_steps: dict[str, int] = {}
        self._measured = 0
        self._total = 0
        self._done_before: int | None = None
        self._started = time.monotonic()

    def __enter__(self) -> StudyLines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is held."""

    def on_plan(self, steps: int, measurements: int) -> None:
        """The size of the whole study is known."""
        self._total = steps + measurements * STEPS_PER_MEASUREMENT

    def on_job(self, progress: JobProgress) -> None:
        """A fine-tune has moved."""
        self._job_steps[progress.name] = progress.step
        if progress.state == "running" and self._done_before is None:
            self._done_before = self._done()  # what an earlier run did says nothing of the speed
        # Those that an earlier run finished come before any that runs.
        if progress.state == "finished" and self._done_before is not None:
            self._say(f"fine-tuned {progress.name}")

    def on_measured(self, done: int, total: int) -> None:
        """A model was measured."""
        self._measured = done
        self._say(f"measured {done} of {total} models")

    def on_relearned(self, done: int, total: int) -> None:
        """A model was trained to have a trait again."""
        self._say(f"re-learned {done} of {total}")

    def on_relaxed(self, done: int, total: int) -> None:
        """A model of a lowered scale was trained further."""
        self._say(f"lowered and trained further {done} of {total}")

    def _done(self) -> int:
        return sum(self._job_steps.values()) + self._measured * STEPS_PER_MEASUREMENT

    def _say(self, what: str) -> None:
        elapsed = time.monotonic() - self._started
        done = self._done() - (self._done_before or 0)
        left = elapsed / done * (self._total - self._done()) if done and self._total else 0.0
        about = f", about {left / 60:.0f} min left" if left >= 30 else ""
        self._console.print(f"{elapsed:5.0f} s  {what}{about}", highlight=False)
