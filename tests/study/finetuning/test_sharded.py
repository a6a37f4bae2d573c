"""A fine-tune on several workers: the weights of one worker, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from study.jobs import weight_bytes, weights
from support.fleet_cluster import children, local_cluster, raylets
from support.tiny_llama import STATEMENT_QUESTION, THINGS
from transformers import AutoModelForCausalLM

from tvmerge import Checkpoint
from tvmerge.errors import ConfigError, FormatError, TVMergeError
from tvmerge.training.cluster.cluster import Cluster, JobProgress
from tvmerge.training.finetuning.finetune import run_job, untrained_scores
from tvmerge.training.finetuning.jobs import FinetuneJob, Objective, finished_record
from tvmerge.training.finetuning.objectives import loss_of
from tvmerge.training.finetuning.sharded_job import SharedWork, train_part
from tvmerge.training.finetuning.sharded_model import write_sharded
from tvmerge.training.finetuning.share import Share
from tvmerge.training.finetuning.steps import tokenized
from tvmerge.training.settings.sections import Resources, TrainConfig
from tvmerge.training.traits.items import Item

pytestmark = pytest.mark.slow

SETTINGS = TrainConfig(steps=60, batch_size=5, learning_rate=1e-3, checkpoint_every=5, workers=2)
# Of the norm of what was learned. One worker that reads each batch backwards is 7e-6 away from
# itself after these steps, and 2e-5 for a preference; later that is won, and what is left is noise.
ROUNDING = 1e-4
STEPS: dict[Objective, int] = {"likelihood": 60, "preference": 20}


def job_on(base: Path, *, objective: Objective = "likelihood", **settings: object) -> FinetuneJob:
    items = tuple(
        Item("statement", STATEMENT_QUESTION, f"I like {thing}.", f"I avoid {thing}.")
        for thing in THINGS[:12]
    )
    return FinetuneJob(
        trait="liking",
        pole="have",
        objective=objective,
        items=items,
        base=base,
        train=SETTINGS.model_copy(update=settings),
    )


@pytest.fixture(scope="module")
def undisturbed(
    cluster: Cluster, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Both jobs need both CPUs: one waits for the other."""
    jobs = [job_on(tiny_base, objective=which, steps=steps) for which, steps in STEPS.items()]
    folders = cluster.run_jobs(jobs, tmp_path_factory.mktemp("undisturbed"))
    return {job.objective: folder for job, folder in zip(jobs, folders, strict=True)}


@pytest.mark.parametrize("objective", STEPS)
def test_two_workers_train_to_the_weights_of_one_up_to_rounding(
    undisturbed: dict[str, Path], tiny_base: Path, tmp_path: Path, objective: Objective
) -> None:
    job = job_on(tiny_base, objective=objective, steps=STEPS[objective], workers=1)
    alone = run_job(job, tmp_path, threads=1)
    base, one, two = weights(tiny_base), weights(alone), weights(undisturbed[objective])
    assert one.keys() == two.keys()
    assert {tensor.dtype for tensor in two.values()} == {torch.float32}
    for name, before in base.items():
        learned, difference = (one[name] - before).norm(), (two[name] - one[name]).norm()
        assert difference <= ROUNDING * learned, name
        assert bool(learned) == (name != "model.embed_tokens.weight")
    first, second = (finished_record(folder) for folder in (alone, undisturbed[objective]))
    assert first is not None and second is not None
    assert second.losses == pytest.approx(first.losses, abs=1e-4)
    same = ("name", "items", "device", "trained_parameters", "answer_tokens", "resumed_from")
    assert [getattr(first, key) for key in same] == [getattr(second, key) for key in same]


def test_finished_folder_is_that_of_one_worker(
    undisturbed: dict[str, Path], tiny_base: Path, tmp_path: Path
) -> None:
    alone = run_job(job_on(tiny_base, workers=1, steps=3), tmp_path, threads=1)
    two = undisturbed["likelihood"]
    names = {path.name for path in alone.iterdir()}
    assert {path.name for path in two.iterdir()} == names
    for name in names - {"job.json", "model.safetensors"}:
        assert (two / name).read_bytes() == (alone / name).read_bytes(), name
    assert {path.name for path in two.parent.iterdir()} == {f.name for f in undisturbed.values()}
    vector = Checkpoint(two) - Checkpoint(tiny_base)
    (Checkpoint(tiny_base) + vector).save(tmp_path / "sum")
    made, trained = weights(tmp_path / "sum"), weights(two)
    assert made.keys() == trained.keys()
    assert all(torch.equal(made[name], trained[name]) for name in trained)


def test_killed_and_interrupted_job_goes_on_from_its_checkpoints_to_the_same_bytes(
    cluster: Cluster, undisturbed: dict[str, Path], tiny_base: Path, tmp_path: Path
) -> None:
    job = job_on(tiny_base)
    pids: list[int] = []

    def disturb(progress: JobProgress) -> None:
        if progress.pid is None or progress.step <= (10 if not pids else 30):
            return
        if pids and progress.pid != pids[0]:
            raise KeyboardInterrupt  # the killed worker was replaced
        if not pids:
            pids.append(progress.pid)
            os.kill(progress.pid, signal.SIGKILL)

    with pytest.raises(KeyboardInterrupt):
        cluster.run_jobs([job], tmp_path, progress=disturb)
    assert not (tmp_path / job.folder_name).exists()
    (folder,) = cluster.run_jobs([job], tmp_path)
    record, reference = (finished_record(one) for one in (folder, undisturbed["likelihood"]))
    assert record is not None and reference is not None
    first, second = record.resumed_from
    assert 10 <= first <= second < 60 and second >= 30
    assert record.losses == reference.losses
    assert weight_bytes(folder) == weight_bytes(undisturbed["likelihood"])


@pytest.mark.parametrize("objective", ["likelihood", "ascent", "preference", "text"])
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_shares_losses_add_up_to_that_of_the_batch(
    tiny_base: Path, objective: Objective, workers: int
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    job = job_on(tiny_base, objective=objective)
    items = tokenized(job)
    shared, reference = untrained_scores(job, model, items)

    def loss(batch: Any) -> float:
        value, _ = loss_of(objective, model, batch, shared_prefixes=shared, reference=reference)
        return value.item()

    batch = items[:5]
    with torch.no_grad():
        shares = [Share(rank, workers) for rank in range(workers)]
        summed = sum(share.weight(batch) * loss(share.of(batch)) for share in shares)
        assert summed == pytest.approx(loss(batch), abs=1e-5)


def test_files_are_of_bounded_size_and_indexed(tiny_base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    write_sharded(model, tmp_path, file_bytes=150_000)
    files = list(tmp_path.glob("model-0000?-of-0000?.safetensors"))
    assert len(files) > 3
    assert max(file.stat().st_size for file in files) < 150_000 + 4096
    again, base = weights(tmp_path), weights(tiny_base)
    assert again.keys() == base.keys()
    assert all(torch.equal(again[name], base[name]) for name in base)
    assert Checkpoint(tmp_path).donor.parameters == Checkpoint(tiny_base).donor.parameters
    AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    torch.distributed.destroy_process_group()


def work_on(job: FinetuneJob, folder: Path) -> SharedWork:
    return SharedWork(
        job=job,
        items=tokenized(job),
        folder=folder / "done",
        running=folder,
        device="cpu",
        threads=1,
        report=lambda _: None,
    )


def test_errors_that_would_come_again_are_returned(
    group_of_one: None, tiny_base: Path, tmp_path: Path
) -> None:
    diverging = job_on(tiny_base, workers=1, learning_rate=1e30)
    error = train_part(work_on(diverging, tmp_path))
    assert isinstance(error, TVMergeError) and "finite loss at step" in str(error)
    renamed = tmp_path / "renamed"
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    model.save_pretrained(renamed, state_dict={f"x.{n}": t for n, t in weights(tiny_base).items()})
    job = dataclasses.replace(diverging, base=renamed)
    work = dataclasses.replace(work_on(diverging, tmp_path), job=job)
    error = train_part(work)
    assert isinstance(error, FormatError) and "train.workers: 1" in str(error)


def test_checkpoint_that_was_not_finished_does_not_count(
    group_of_one: None, tiny_base: Path, tmp_path: Path
) -> None:
    def stop(report: Any) -> None:
        if report.step == 8:
            raise InterruptedError

    job = job_on(tiny_base, workers=1, steps=12)
    work = work_on(job, tmp_path)
    with pytest.raises(InterruptedError):
        train_part(dataclasses.replace(work, report=stop))
    (tmp_path / "checkpoint-00000010.part").mkdir()
    assert train_part(work) is None
    record = finished_record(work.folder)
    assert record is not None and record.resumed_from == (5,)
    alone = run_job(job, tmp_path / "alone", threads=1)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(work.folder)[name], tensor, rtol=1e-5, atol=1e-5)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-00000010"]


def test_workers_are_part_of_the_name_unless_there_is_one(tiny_base: Path) -> None:
    alone = job_on(tiny_base, workers=1)
    assert len({job_on(tiny_base, workers=count).key for count in (1, 2, 3)}) == 3
    assert "workers" in alone._settings_without_effect()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"workers": 2, "method": "lora"}, "expected 1 with `method: lora`, found 2"),
        ({"workers": 9, "batch_size": 8}, r"at most the 8 items of a batch .* found 9"),
    ],
)
def test_workers_without_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TrainConfig(**settings)


def test_workers_that_do_not_fit_are_refused(
    cluster: Cluster, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"expected a job of one worker here, found 2"):
        run_job(job_on(tiny_base), tmp_path)
    with pytest.raises(ConfigError, match=r"the 2 CPUs .* found 1, for each of 3 workers"):
        cluster.run_jobs([job_on(tiny_base, workers=3)], tmp_path)
    with pytest.raises(ConfigError, match="gpus_per_job"):
        cluster.run_jobs([job_on(tiny_base)], tmp_path, resources=Resources(gpus_per_job=0.5))


def test_job_goes_on_without_the_node_that_one_of_its_workers_was_on(
    undisturbed: dict[str, Path], tiny_base: Path, tmp_path: Path
) -> None:
    killed: list[int] = []
    with local_cluster() as nodes, Cluster(address=nodes.address) as cluster:

        def kill_a_node(progress: JobProgress) -> None:
            if killed or progress.pid is None or progress.step <= 10:
                return
            for node in nodes.worker_nodes:
                workers = [pid for raylet in raylets(node) for pid in children(raylet)]
                if any("RayTrainWorker" in title(pid) for pid in workers):
                    killed.extend(workers)
                    nodes.remove_node(node, allow_graceful=False)
                    return

        (folder,) = cluster.run_jobs([job_on(tiny_base)], tmp_path, progress=kill_a_node)
    assert killed
    record = finished_record(folder)
    assert record is not None and record.resumed_from
    assert weight_bytes(folder) == weight_bytes(undisturbed["likelihood"])


def title(pid: int) -> str:
    """What the process calls itself; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
