"""Jobs on Ray: side by side, watched, killed and resumed, interrupted without leaving anything."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from study.jobs import jobs_on, weight_bytes

from tvmerge.errors import ConfigError, TVMergeError
from tvmerge.training.cluster.calls import Call
from tvmerge.training.finetuning.jobs import FinetuneJob, finished_record
from tvmerge.training.settings.sections import Resources

if TYPE_CHECKING:
    from tvmerge.training.cluster.cluster import Cluster, JobProgress

pytestmark = pytest.mark.slow

# What a study's process does, in a terminal of its own.
STUDY = """
import faulthandler, os, signal, sys, time
faulthandler.enable()
# A test run in the background starts with interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from tvmerge.training.cluster.cluster import Cluster

def work(path):
    # Beside the folder of `path`, which has whole files alone.
    Path(path).parent.with_suffix(".part").write_text(str(os.getpid()))
    Path(path).parent.with_suffix(".part").rename(path)
    time.sleep(1800)

assert "torch" not in sys.modules and "ray" not in sys.modules
try:
    with Cluster(cpus=1) as cluster:
        cluster.run_tasks(work, sys.argv[1:])
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_killed_worker_is_replaced_and_its_job_ends_with_the_same_bytes(
    cluster: Cluster, tiny_base: Path, tmp_path: Path
) -> None:
    jobs = jobs_on(tiny_base, steps=150)
    seen: list[JobProgress] = []
    victims: set[int] = set()

    def kill_once(progress: JobProgress) -> None:
        seen.append(progress)
        if not victims and progress.name == "being.have@0" and progress.step > 10:
            assert progress.pid is not None
            victims.add(progress.pid)
            os.kill(progress.pid, signal.SIGKILL)

    folders = cluster.run_jobs(jobs, tmp_path, progress=kill_once)
    assert [folder.name for folder in folders] == [job.folder_name for job in jobs]
    assert [p.state for p in seen[:2]] == ["waiting", "waiting"]
    assert {p.name for p in seen if p.state == "finished"} == {"being.have@0", "being.lack@0"}
    record = finished_record(folders[0])
    assert record is not None
    assert len(record.resumed_from) == 1 and record.resumed_from[0] >= 10
    assert len(record.losses) == 150
    from tvmerge.training.finetuning.finetune import run_job

    undisturbed = run_job(jobs[0], tmp_path / "undisturbed", threads=1)
    assert weight_bytes(folders[0]) == weight_bytes(undisturbed)


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_jobs_go_on_without_what_relays_their_progress(
    cluster: Cluster, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: int
) -> None:
    import ray

    from tvmerge.training.cluster import board

    boards: list[Any] = []

    def made() -> Any:
        boards.append(board.board_on_this_node())
        return boards[0]

    monkeypatch.setattr("tvmerge.training.cluster.cluster.board_on_this_node", made)
    monkeypatch.setattr(board, "ANSWER_SECONDS", 1)
    seen: list[JobProgress] = []
    harmed: list[int] = []

    def harm_the_board(progress: JobProgress) -> None:
        seen.append(progress)
        if progress.step > 10 and not harmed:
            harmed.append(ray.get(boards[0].__ray_call__.remote(lambda _: os.getpid())))
            os.kill(harmed[0], harm)

    try:
        folders = cluster.run_jobs(jobs_on(tiny_base, steps=150), tmp_path, progress=harm_the_board)
        assert harmed and all(finished_record(folder) is not None for folder in folders)
        assert [p.state for p in seen[-2:]] == ["finished", "finished"]
    finally:
        for pid in harmed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_finished_jobs_need_no_worker(cluster: Cluster, tiny_base: Path, tmp_path: Path) -> None:
    jobs = jobs_on(tiny_base, steps=3)
    folders = cluster.run_jobs(jobs, tmp_path)
    written = [(folder / "job.json").stat().st_mtime_ns for folder in folders]
    seen: list[JobProgress] = []
    assert cluster.run_jobs(jobs, tmp_path, progress=seen.append) == folders
    assert [(progress.state, progress.step) for progress in seen] == [("finished", 3)] * 2
    assert [(folder / "job.json").stat().st_mtime_ns for folder in folders] == written


def test_what_a_job_makes_possible_begins_while_others_run(
    cluster: Cluster, tiny_base: Path, tmp_path: Path
) -> None:
    short, long = jobs_on(tiny_base, steps=3)
    long = dataclasses.replace(long, train=long.train.model_copy(update={"steps": 400}))
    told: list[list[str]] = []
    events: list[str] = []

    def follow(ended: Sequence[FinetuneJob]) -> list[Call]:
        told.append([job.pole for job in ended])
        return [Call(str.upper, job.pole, partial(events.append, job.pole)) for job in ended]

    def show(progress: JobProgress) -> None:
        if progress.state == "finished":
            events.append(progress.name)

    cluster.run_jobs([short, long], tmp_path, progress=show, follow=follow)
    assert told == [[], ["have"], ["lack"]]
    # Asked for one by one; when Ray runs it is Ray's business.
    assert sorted(events) == ["being.have@0", "being.lack@0", "have", "lack"]
    assert all(events.index(pole) > events.index(f"being.{pole}@0") for pole in ("have", "lack"))


def test_error_of_a_job_arrives_as_itself(
    cluster: Cluster, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"train\.max_tokens"):
        cluster.run_jobs(jobs_on(tiny_base, max_tokens=3), tmp_path)


def test_job_that_does_not_fit_is_refused_at_once(
    cluster: Cluster, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"cpus_per_job: expected at most the 2 CPUs.*found 3"):
        cluster.run_jobs(jobs_on(tiny_base), tmp_path, resources=Resources(cpus_per_job=3))
    with pytest.raises(ConfigError, match="gpus_per_job"):
        cluster.run_jobs(jobs_on(tiny_base), tmp_path, resources=Resources(gpus_per_job=1))


def test_tasks_give_their_results_in_order(cluster: Cluster) -> None:
    assert cluster.run_tasks(str.upper, ["a", "b", "c"]) == ["A", "B", "C"]
    assert cluster.run_tasks(str.upper, []) == []
    ended: list[str] = []
    cluster.run_calls([Call(str.upper, one, partial(ended.append, one)) for one in "ab"])
    assert sorted(ended) == ["a", "b"]


def test_only_calls_that_compute_on_a_gpu_take_one(tmp_path: Path) -> None:
    program = """
import ray
from tvmerge.training.cluster.calls import Call
from tvmerge.training.cluster.cluster import Cluster
from tvmerge.training.settings.sections import Resources

def taken(_):
    return ray.get_runtime_context().get_assigned_resources()

with Cluster(cpus=1, gpus=1) as cluster:  # Ray takes our word for the GPU
    calls = [Call(taken, None), Call(taken, None, on_gpu=False)]
    print(cluster.run_calls(calls, resources=Resources(gpus_per_job=0.5)))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == [{"CPU": 1.0, "GPU": 0.5}, {"CPU": 1.0}]


def test_worker_that_dies_every_time_is_an_error(cluster: Cluster) -> None:
    with pytest.raises(TVMergeError, match="found it dead after all retries"):
        cluster.run_tasks(os._exit, [3], max_retries=1)


def test_control_c_ends_the_workers_too_without_a_word(tmp_path: Path) -> None:
    with study(tmp_path / "one", tmp_path / "other") as process:
        # Which of them runs, and which waits for its CPU, is Ray's business.
        wait_until(lambda: list(tmp_path.iterdir()) != [], process)
        (running,) = tmp_path.iterdir()
        worker = Path("/proc") / running.read_text()
        assert worker.exists()
        # A terminal sends the interrupt to every process of the group.
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=300)
        assert (process.returncode, output) == (130, "")
        wait_until(lambda: not worker.exists())
        assert list(tmp_path.iterdir()) == [running]


@contextlib.contextmanager
def study(*arguments: Path) -> Iterator[subprocess.Popen[str]]:
    """STUDY in a process group of its own, of which nothing is left whatever the test finds."""
    with subprocess.Popen(
        [sys.executable, "-c", STUDY, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(
    condition: Callable[[], bool],
    process: subprocess.Popen[str] | None = None,
    *,
    seconds: float = 300,
) -> None:
    """Fails when the time is up, with the stacks of `process` and what it has said."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or (process and process.poll() is not None):
            pytest.fail(_last_words(process) if process else "time is up")
        time.sleep(0.05)


def _last_words(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGABRT)  # at which faulthandler writes the stacks
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.communicate(timeout=10)[0]
    with contextlib.suppress(ProcessLookupError):  # whoever else holds its output open
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate(timeout=10)[0]
