"""A study loses nothing but the work since the last checkpoint, whatever is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study.jobs import jobs_on, weight_bytes
from study.runs.written_traits import write_trait
from support.fleet_cluster import local_cluster, raylets

from tvmerge.training.cluster.cluster import Cluster
from tvmerge.training.finetuning.finetune import run_job
from tvmerge.training.finetuning.jobs import finished_record
from tvmerge.training.results.results import Results
from tvmerge.training.results.results_file import load_results

pytestmark = pytest.mark.slow

KILLS = 2


@pytest.fixture(scope="module")
def study(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    for name in ("loves_order", "loves_music"):
        write_trait(folder / name, name)
    path = folder / "study.yaml"
    path.write_text(
        f"""
name: killed
base: {tiny_base}
traits: [loves_order]
unrelated: loves_music
capability: []
seeds: [0]
kinds: [plain]
scales: [0.5, 1.0]
train: {{steps: 12, batch_size: 4, learning_rate: 1.0e-3, checkpoint_every: 2, trainable: all}}
perplexity: {{tokens: 256, window: 64}}
relearn: {{steps: 2, every: 1}}
"""
    )
    return path


def run(study: Path, out: Path, *, kill_after: float | None = None) -> bool:
    """Run the study's command; whether it ended by itself before it was to be killed."""
    said = out.with_name(f"{out.name}.stderr")
    with said.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tvmerge", "study", "run", str(study), str(out), "--quiet"],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        process.wait(timeout=kill_after)
    except subprocess.TimeoutExpired:
        # Of the driver alone: its workers must notice by themselves.
        process.send_signal(signal.SIGKILL)
        process.wait()
        return False
    assert process.returncode == 0, said.read_text()
    return True


def figures(results: Results) -> object:
    return results.rows, results.contrasts, results.perplexity, results.relearning


def test_a_driver_that_is_killed_again_and_again_ends_with_the_same_figures(
    study: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    assert run(study, tmp_path / "undisturbed")
    whole = time.monotonic() - started
    generator = random.Random(3)
    kills = 0
    while kills < KILLS:
        if run(study, tmp_path / "killed", kill_after=generator.uniform(0.4, 0.9) * whole):
            break
        kills += 1
        time.sleep(1)  # the workers of the dead driver end meanwhile
    assert kills >= 1
    assert run(study, tmp_path / "killed")
    first, second = (
        load_results(tmp_path / name / "results.json") for name in ("undisturbed", "killed")
    )
    assert figures(first) == figures(second)


def test_a_job_of_a_killed_node_goes_on_elsewhere_from_its_checkpoint(
    tiny_base: Path, tmp_path: Path
) -> None:
    (job, _) = jobs_on(tiny_base, steps=200, checkpoint_every=5)
    undisturbed = run_job(job, tmp_path / "alone", threads=1)
    killed: list[int] = []
    with local_cluster() as nodes, Cluster(address=nodes.address) as cluster:

        def kill_its_node(progress: object) -> None:
            step, pid = getattr(progress, "step", 0), getattr(progress, "pid", None)
            if killed or pid is None or step < 10:
                return
            # The raylet is the worker's parent; without it the node is dead.
            raylet = int(Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[1])
            for one in nodes.list_all_nodes():
                if one is not nodes.head_node and raylet in raylets(one):
                    killed.append(pid)
                    nodes.remove_node(one, allow_graceful=False)
                    return
            os.kill(pid, signal.SIGKILL)  # the head's node must live: its worker need not
            killed.append(pid)

        (folder,) = cluster.run_jobs([job], tmp_path / "out", progress=kill_its_node)
    assert killed
    record = finished_record(folder)
    assert record is not None and record.resumed_from
    assert weight_bytes(folder) == weight_bytes(undisturbed)
