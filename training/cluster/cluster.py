"""Places jobs and measurements on Ray, as many side by side as its CPUs and GPUs allow.

    with Cluster() as cluster:                                   # a Ray of this machine's own
        folders = cluster.run_jobs(jobs, Path("runs"), progress=show)
        scores = cluster.run_tasks(measure, folders)

What depends on some jobs alone need not wait for the others: `follow`. A worker that is killed is
started again and its job goes on from the last checkpoint. A job that has several workers is
watched by a task of its own, which places them (see sharded_job). Torch is imported by the workers
only: this process stays small and answers to Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from tvmerge.errors import TVMergeError
from tvmerge.fleet.ray_session import connect, stop
from tvmerge.training.cluster.board import News, board_on_this_node
from tvmerge.training.cluster.calls import Call
from tvmerge.training.cluster.room import check_room, side_by_side
from tvmerge.training.finetuning.jobs import FinetuneJob, StepReport, finished_record
from tvmerge.training.settings.sections import Resources

Argument = TypeVar("Argument")
Result = TypeVar("Result")
_Task = tuple[str, Callable[[], Any]]  # its name, and what starts it

POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How one job is doing; `step` 0 of a running job means that its model is loaded."""

    name: str
    state: Literal["waiting", "running", "finished"]
    step: int
    steps: int
    loss: float | None = None
    tokens: int = 0
    pid: int | None = None


ProgressCallback = Callable[[JobProgress], Any]


class Cluster:
    """A Ray started here on first use and stopped on exit, or the one at `address`."""

    def __init__(
        self, *, address: str | None = None, cpus: int | None = None, gpus: int | None = None
    ) -> None:
        """`cpus` and `gpus`: what a Ray started here may use (None: what the machine has)."""
        self._address = address
        self._cpus = cpus
        self._gpus = gpus
        self._started = False

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._started:
            self._stop()

    def run_jobs(
        self,
        jobs: Sequence[FinetuneJob],
        out_root: Path,
        *,
        resources: Resources | None = None,
        progress: ProgressCallback | None = None,
        follow: Callable[[Sequence[FinetuneJob]], Iterable[Call]] | None = None,
        max_retries: int = 3,
    ) -> list[Path]:
        """The finished folders of the jobs, in their order; those there already are not run.

        `progress` is called whenever a job has moved. `follow` is told which jobs have ended, first
        those there already, and says what may begin now: it runs beside the others, with the same
        resources. Whatever fails first stops all else; jobs later go on from their checkpoints.
        """
        resources = resources or Resources()
        out_root = out_root.resolve()
        show = progress or _unshown
        folders = [out_root / job.folder_name for job in jobs]
        waiting = [job for job in jobs if finished_record(out_root / job.folder_name) is None]
        for job in jobs:
            state: Literal["waiting", "finished"] = "waiting" if job in waiting else "finished"
            steps = job.train.steps
            show(JobProgress(job.label, state, 0 if job in waiting else steps, steps))
        if not waiting:
            return folders
        most_workers = max(job.train.workers for job in waiting)
        options = self._options(resources, max_retries, workers=most_workers)
        import ray

        board = board_on_this_node()
        news = News(board)

        def start(job: FinetuneJob) -> Any:
            if job.train.workers == 1:
                remote = ray.remote(_run_job).options(**options)
                return remote.remote(job, out_root, board, resources.cpus_per_job, resources.device)
            # Ray Train asks for the workers' CPUs and GPUs itself; this task only waits for them.
            watcher = ray.remote(_run_sharded_job).options(num_cpus=0, max_retries=max_retries)
            return watcher.remote(job, out_root, board, resources, max_retries)

        tasks: list[_Task] = [(job.label, partial(start, job)) for job in waiting]
        calls: list[Call] = []

        def begin(ended: Sequence[FinetuneJob]) -> None:
            for call in follow(ended) if follow else ():
                calls.append(call)
                tasks.append(_task(call, options))

        def relay(done: Sequence[int]) -> None:
            for report in news.take():
                if report.step < report.steps:
                    show(_running(report))
            ended = [waiting[place] for place in done if place < len(waiting)]
            for job in ended:
                show(JobProgress(job.label, "finished", job.train.steps, job.train.steps))
            for place in done:
                if place >= len(waiting):
                    calls[place - len(waiting)].ended()
            if ended:
                begin(ended)

        undisturbed = False
        try:
            begin([job for job in jobs if job not in waiting])
            self._collect(
                tasks,
                relay,
                at_once=side_by_side(resources, most_workers) if most_workers > 1 else None,
            )
            undisturbed = True
        finally:
            if self._started and most_workers > 1 and not undisturbed:
                # Ray Train may be about to replace the workers whose watcher was just stopped, in a
                # place that nobody would ever free: the next run starts a Ray of its own.
                self._stop()
            else:
                news.close()
        return folders

    def run_tasks(
        self,
        function: Callable[[Argument], Result],
        arguments: Sequence[Argument],
        *,
        resources: Resources | None = None,
        max_retries: int = 3,
    ) -> list[Result]:
        """`[function(argument) for argument in arguments]`, each in a worker of its own."""
        calls = [Call(function, argument) for argument in arguments]
        return self.run_calls(calls, resources=resources, max_retries=max_retries)

    def run_calls(
        self, calls: Sequence[Call], *, resources: Resources | None = None, max_retries: int = 3
    ) -> list[Any]:
        """What the calls return; the first that fails stops the others."""
        if not calls:
            return []
        options = self._options(resources or Resources(), max_retries)

        def relay(done: Sequence[int]) -> None:
            for place in done:
                calls[place].ended()

        return self._collect([_task(call, options) for call in calls], relay)

    def _collect(
        self,
        tasks: Sequence[_Task],
        relay: Callable[[Sequence[int]], None],
        *,
        at_once: int | None = None,
    ) -> list[Any]:
        """Results of the tasks in order; on the first error all are stopped.

        `relay` is called with the places of those that have ended, and may add tasks. Ray decides
        which run, of `at_once` (None: all).
        """
        import ray

        refs: dict[Any, int] = {}
        results: dict[int, Any] = {}
        try:
            while len(results) < len(tasks):
                room = len(tasks) if at_once is None else len(results) + at_once
                while len(refs) < min(len(tasks), room):
                    refs[tasks[len(refs)][1]()] = len(refs)
                left = [ref for ref, place in refs.items() if place not in results]
                ended, _ = ray.wait(left, num_returns=1, timeout=POLL_SECONDS)
                for ref in ended:
                    results[refs[ref]] = _result_of(ref, tasks[refs[ref]][0])
                relay([refs[ref] for ref in ended])
        except BaseException:
            stop([ref for ref, place in refs.items() if place not in results])
            raise
        return [results[place] for place in range(len(tasks))]

    def _stop(self) -> None:
        import ray

        ray.shutdown()
        self._started = False

    def _options(
        self, resources: Resources, max_retries: int, *, workers: int = 1
    ) -> dict[str, Any]:
        self._started = connect(self._address, cpus=self._cpus, gpus=self._gpus) or self._started
        check_room(resources, workers)
        return {
            "num_cpus": resources.cpus_per_job,
            "num_gpus": resources.gpus_per_job,
            "max_retries": max_retries,
        }


def _run_job(job: FinetuneJob, out_root: Path, board: Any, threads: int, device: str) -> None:
    from tvmerge.training.finetuning.finetune import run_job

    run_job(job, out_root, report=board.post.remote, threads=threads, device=device)


def _run_sharded_job(
    job: FinetuneJob, out_root: Path, board: Any, resources: Resources, max_failures: int
) -> None:
    from tvmerge.training.finetuning.sharded_job import run_sharded_job

    run_sharded_job(job, out_root, board=board, resources=resources, max_failures=max_failures)


def _task(call: Call, options: Mapping[str, Any]) -> _Task:
    import ray

    own = options if call.on_gpu else {**options, "num_gpus": 0}
    remote = ray.remote(_call).options(**own)
    name = getattr(call.function, "__name__", "task")
    return name, partial(remote.remote, call.function, call.argument)


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    return function(argument)


def _running(report: StepReport) -> JobProgress:
    return JobProgress(
        name=report.job,
        state="running",
        step=report.step,
        steps=report.steps,
        loss=report.loss,
        tokens=report.tokens,
        pid=report.pid,
    )


def _unshown(progress: JobProgress) -> None:
    """Nobody watches."""


def _result_of(ref: Any, name: str) -> Any:
    """The task's result; raises the error that ended it, or one that says its worker died."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(ref)
    except RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, Exception) else error) from error
    except RayError as error:
        raise TVMergeError(
            f"{name}: expected its worker to live, found it dead after all retries ({error}). "
            "If memory ran out, raise resources.cpus_per_job so that fewer run side by side; "
            "run again to go on from the last checkpoint."
        ) from error
