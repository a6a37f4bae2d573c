"""Places jobs and measurements on Ray, as many side by side as its CPUs and GPUs allow.

    with Cluster() as cluster:                                   # a Ray of this machine's own
        folders = cluster.run_jobs(jobs, Path("runs"), progress=show)
        scores = cluster.run_tasks(measure, folders)

A worker that is killed is started again and its job goes on from the last checkpoint. Torch is
imported by the workers only: this process stays small and answers to Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from tvmerge.errors import ConfigError, TVMergeError
from tvmerge.ray_session import connect, stop
from tvmerge.training.config import Resources
from tvmerge.training.jobs import FinetuneJob, StepReport, finished_record

Argument = TypeVar("Argument")
Result = TypeVar("Result")

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
            import ray

            ray.shutdown()
            self._started = False

    def run_jobs(
        self,
        jobs: Sequence[FinetuneJob],
        out_root: Path,
        *,
        resources: Resources | None = None,
        progress: ProgressCallback | None = None,
        max_retries: int = 3,
    ) -> list[Path]:
        """The finished folders of the jobs, in their order; those there already are not run.

        `progress` is called whenever a job has moved. The first job that fails stops the others,
        which later go on from their checkpoints.
        """
        resources = resources or Resources()
        out_root = out_root.resolve()
        show = progress or _unshown
        folders = [out_root / job.folder_name for job in jobs]
        waiting = [job for job in jobs if finished_record(out_root / job.folder_name) is None]
        for job in jobs:
            state: Literal["waiting", "finished"] = "waiting" if job in waiting else "finished"
            steps = job.train.steps
            show(JobProgress(job.name, state, 0 if job in waiting else steps, steps))
        if not waiting:
            return folders
        options = self._options(resources, max_retries)
        import ray

        board: Any = ray.remote(_Board).options(num_cpus=0).remote()
        remote = ray.remote(_run_job).options(**options)
        refs = {
            remote.remote(job, out_root, board, resources.cpus_per_job, _device(resources)): job
            for job in waiting
        }

        def relay(done: Sequence[Any]) -> None:
            for report in ray.get(board.take.remote()):
                if report.step < report.steps:
                    show(_running(report))
            for ref in done:
                steps = refs[ref].train.steps
                show(JobProgress(refs[ref].name, "finished", steps, steps))

        try:
            self._collect({ref: job.name for ref, job in refs.items()}, relay)
        finally:
            ray.kill(board)
        return folders

    def run_tasks(
        self,
        function: Callable[[Argument], Result],
        arguments: Sequence[Argument],
        *,
        resources: Resources | None = None,
        progress: Callable[[int, int], Any] | None = None,
        max_retries: int = 3,
    ) -> list[Result]:
        """`[function(argument) for argument in arguments]`, each in a worker of its own.

        `progress` is called with (done, all).
        """
        if not arguments:
            return []
        options = self._options(resources or Resources(), max_retries)
        import ray

        remote = ray.remote(_call).options(**options)
        refs = [remote.remote(function, argument) for argument in arguments]
        finished = 0

        def relay(done: Sequence[Any]) -> None:
            nonlocal finished
            finished += len(done)
            if progress and done:
                progress(finished, len(refs))

        name = getattr(function, "__name__", "task")
        results = self._collect(
            {ref: f"{name} {n}/{len(refs)}" for n, ref in enumerate(refs, start=1)}, relay
        )
        return [results[ref] for ref in refs]

    def _collect(
        self, names: Mapping[Any, str], relay: Callable[[Sequence[Any]], None]
    ) -> dict[Any, Any]:
        """Results by reference; on the first error or an interrupt, the others are stopped."""
        import ray

        results: dict[Any, Any] = {}
        try:
            while left := [ref for ref in names if ref not in results]:
                done, _ = ray.wait(left, num_returns=1, timeout=POLL_SECONDS)
                for ref in done:
                    results[ref] = _result_of(ref, names[ref])
                relay(done)
        except BaseException:
            stop([ref for ref in names if ref not in results])
            raise
        return results

    def _options(self, resources: Resources, max_retries: int) -> dict[str, Any]:
        self._started = connect(self._address, cpus=self._cpus, gpus=self._gpus) or self._started
        import ray

        asked = {"CPU": resources.cpus_per_job, "GPU": resources.gpus_per_job}
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        for kind, count in asked.items():
            if count > there.get(kind, 0):
                raise ConfigError(
                    f"resources.{kind.lower()}s_per_job: expected at most the "
                    f"{there.get(kind, 0):g} {kind}s that Ray reports, found {count:g}. "
                    "Ask for fewer, or connect to a larger cluster."
                )
        return {"num_cpus": asked["CPU"], "num_gpus": asked["GPU"], "max_retries": max_retries}


class _Board:
    """The actor to which workers report and which the driver asks for news."""

    def __init__(self) -> None:
        self._news: dict[str, StepReport] = {}

    def post(self, report: StepReport) -> None:
        self._news[report.job] = report

    def take(self) -> list[StepReport]:
        news = list(self._news.values())
        self._news.clear()
        return news


def _run_job(job: FinetuneJob, out_root: Path, board: Any, threads: int, device: str) -> None:
    from tvmerge.training.finetune import run_job

    run_job(job, out_root, report=board.post.remote, threads=threads, device=device)


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


def _device(resources: Resources) -> str:
    return "cuda" if resources.gpus_per_job > 0 else "cpu"


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
