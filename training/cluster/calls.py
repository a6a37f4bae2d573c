"""What is still to be done, one call for each task that has no result yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar


class Task(Protocol):
    """One that keeps its result under a hash of its inputs."""

    def finished(self) -> object | None:
        """The result, where it is there."""


AnyTask = TypeVar("AnyTask", bound=Task)


def _untold() -> None:
    """Nobody asks."""


@dataclass(frozen=True, slots=True)
class Call:
    """`function(argument)`, for a worker of its own; `ended` is called here when it has ended.

    Not `on_gpu`: it computes on the processor, also where jobs have GPUs.
    """

    function: Callable[[Any], Any]
    argument: Any
    ended: Callable[[], Any] = _untold
    on_gpu: bool = True


def calls_for(
    function: Callable[[AnyTask], Any],
    tasks: Iterable[AnyTask],
    progress: Callable[[int, int], Any] | None = None,
    *,
    on_gpu: bool = True,
) -> list[Call]:
    """The calls that are left of these tasks; `progress` is told (done, of all) after each."""
    tasks = list(tasks)
    missing = [task for task in tasks if task.finished() is None]
    done = len(tasks) - len(missing)

    def ended() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(tasks))

    return [Call(function, task, ended, on_gpu) for task in missing]
