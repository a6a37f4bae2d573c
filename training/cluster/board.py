"""The actor that a driver and the workers of its jobs share."""

from __future__ import annotations

from typing import Any

from tvmerge.fleet.ray_session import answer
from tvmerge.training.finetuning.jobs import StepReport

ANSWER_SECONDS = 10


class Board:
    """Workers report to it and the driver asks it for news; it knows which places are taken.

    The placement group of a Ray Train run outlives a run that was killed, unless Ray has a
    dashboard: its CPUs would stay taken for as long as the driver lives.
    """

    def __init__(self) -> None:
        self._news: dict[str, StepReport] = {}
        self._groups: dict[str, Any] = {}

    def post(self, report: StepReport) -> None:
        """A job has moved."""
        self._news[report.job] = report

    def take(self) -> list[StepReport]:
        """The last report of every job that has moved since the last call."""
        news = list(self._news.values())
        self._news.clear()
        return news

    def hold(self, job: str, group: Any) -> None:
        """The job's workers run in this placement group."""
        self._groups[job] = group

    def release(self, job: str) -> None:
        """Whatever is left of the job's workers ends, and their place is free."""
        from ray.util import remove_placement_group

        group = self._groups.pop(job, None)
        if group is not None:
            remove_placement_group(group)

    def release_all(self) -> None:
        """No job runs any more."""
        for job in tuple(self._groups):
            self.release(job)


class News:
    """What a board is told, for the driver, which never waits for it.

    Progress is a courtesy: no study ends because what relays it was killed, or is slow.
    """

    def __init__(self, board: Any) -> None:
        self._board = board
        self._asked: Any = None

    def take(self) -> list[StepReport]:
        """Whatever has been answered since the last call."""
        import ray

        if self._asked is None:
            self._asked = self._board.take.remote()
        if not ray.wait([self._asked], timeout=0)[0]:
            return []
        asked, self._asked = self._asked, None
        return answer(asked, ANSWER_SECONDS) or []

    def close(self) -> None:
        """No job runs any more: all places are free, and the board is gone."""
        import ray

        answer(self._board.release_all.remote(), ANSWER_SECONDS)
        ray.kill(self._board)


def board_on_this_node() -> Any:
    """A new one on the node of this process, so that no other node's death takes it away."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    place = NodeAffinitySchedulingStrategy(here, soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=place).remote()
