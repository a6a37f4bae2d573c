"""Merges spread over a cluster of several nodes: the bytes of one machine, whatever dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.fleet_cluster import (
    NODE,
    OPTIONS,
    TENSORS,
    WatchedFleet,
    batches_of,
    children,
    files,
    kill,
    local_cluster,
    merged_here,
    node_in_a_world_of_its_own,
    occupied,
    order,
    other_nodes,
    wait_for_answer,
    write_models,
)

from tvmerge._core import cards
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError, DeviceError, StorageError
from tvmerge.fleet.fleet import Fleet
from tvmerge.fleet.nodes import living_nodes
from tvmerge.merging.merge import save
from tvmerge.plans.batches import Batch
from tvmerge.plans.record import Record

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = pytest.mark.slow

# A test run in the background starts with interrupts ignored.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tvmerge.cli import main
main()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with local_cluster() as cluster:
        yield cluster


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The folder that all nodes see."""
    return write_models(tmp_path / "shared")


def test_several_nodes_write_the_bytes_of_one_machine(cluster: Cluster, shared: Path) -> None:
    told: list[tuple[int, int]] = []
    fleet = WatchedFleet(cluster.address)
    with fleet:
        options = RunOptions(batch_bytes=1, progress=lambda done, whole: told.append((done, whole)))
        (report,) = save(order(shared), shared / "out", options, run=fleet.run)
    assert files(shared / "out") == merged_here(shared)
    assert len(fleet.sent) == 3
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (report.bytes_moved, report.bytes_moved)


def test_work_of_a_node_that_is_busy_with_other_things_is_done_by_the_rest(
    cluster: Cluster, shared: Path
) -> None:
    busy = other_nodes(cluster)[0]
    fleet = WatchedFleet(cluster.address)
    with occupied(busy), fleet:
        save(order(shared), shared / "out", OPTIONS, run=fleet.run)
    assert files(shared / "out") == merged_here(shared)
    elsewhere = {n for node, sent in fleet.sent.items() if node != busy.id for n in sent}
    assert set(fleet.sent[busy.id]) <= elsewhere == set(range(TENSORS))


def test_interrupted_merge_goes_on_with_or_without_the_cluster(
    cluster: Cluster, shared: Path
) -> None:
    def interrupt(done: int, whole: int) -> None:
        if done > whole // 3:
            raise KeyboardInterrupt

    options = RunOptions(batch_bytes=1, ray_address=cluster.address, progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(order(shared), shared / "out", options)
    (shared / "again").mkdir()
    shutil.copytree(shared / ".out.unfinished", shared / "again" / ".out.unfinished")
    here = save(order(shared), shared / "out", OPTIONS)[0]
    there = save(
        order(shared), shared / "again" / "out", RunOptions(batch_bytes=1, ray_address="auto")
    )[0]
    assert 0 < here.resumed_bytes < here.bytes_moved
    assert here.resumed_bytes == there.resumed_bytes
    assert files(shared / "out") == files(shared / "again" / "out") == merged_here(shared)


def test_command_spreads_a_merge_over_a_cluster(cluster: Cluster, shared: Path) -> None:
    command = [sys.executable, "-m", "tvmerge", "apply", "base", "out", "--subtract", "tuned=0.5"]
    done = subprocess.run(
        [*command, "--ray-address", cluster.address, "--json"],
        cwd=shared,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["combined_tensors"] == TENSORS
    receipt = json.loads((shared / "out" / "tvmerge_receipt.json").read_bytes())
    assert receipt["run"]["threads"] is receipt["run"]["io_floor_share"] is None
    weights = (shared / "out" / "model.safetensors").read_bytes()
    assert weights == merged_here(shared)["model.safetensors"]


def test_control_c_ends_the_command_and_its_tasks_without_a_trace(
    cluster: Cluster, shared: Path
) -> None:
    arguments = ["apply", "base", "out", "--subtract", "tuned", "--ray-address", cluster.address]
    with ExitStack() as busy:
        for node in living_nodes().values():
            busy.enter_context(occupied(node))
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, *arguments],
            cwd=shared,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        while not (shared / ".out.unfinished" / "model.safetensors.part").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=300)
    assert (process.returncode, output) == (130, "Interrupted\n")
    assert sorted(path.name for path in shared.iterdir()) == ["base", "tuned"]


def test_error_on_a_node_arrives_with_its_name(cluster: Cluster, shared: Path) -> None:
    batches = batches_of(shared)
    weights = shared / "tuned" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    with (
        Fleet(cluster.address) as fleet,
        pytest.raises(StorageError, match=r"^node .*tuned/model.safetensors: no data at byte"),
    ):
        list(fleet.run(batches))


def test_node_that_does_not_see_the_files_is_refused_by_name(
    cluster: Cluster, shared: Path
) -> None:
    known = set(living_nodes())
    with node_in_a_world_of_its_own(cluster, f"mount -t tmpfs none {shared}"):
        (blind,) = set(living_nodes()) - known
        options = RunOptions(ray_address=cluster.address)
        with pytest.raises(StorageError) as refused:
            save(order(shared), shared / "out", options)
    assert f"({blind[:8]}): expected {shared}/base/model.safetensors as it is here" in str(
        refused.value
    )
    assert "No such file or directory" in str(refused.value)
    assert sorted(path.name for path in shared.iterdir()) == ["base", "tuned"]


def test_node_with_a_copy_of_all_files_on_its_own_disk_is_refused(
    cluster: Cluster, shared: Path
) -> None:
    batches = batches_of(shared)
    copied = f"cp -a {shared} {shared}.copy && mount --bind {shared}.copy {shared}"
    with (
        node_in_a_world_of_its_own(cluster, copied),
        Fleet(cluster.address) as fleet,
        pytest.raises(StorageError, match=r"expected .*/model.part as it is here"),
    ):
        list(fleet.run(batches))


def test_node_that_falls_silent_holds_nothing_up_and_may_write_on_when_it_wakes(
    cluster: Cluster, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing there ends when it is told to; Ray must not find out within the test.
    monkeypatch.setattr("tvmerge.fleet.ray_session.STOP_SECONDS", 1.0)
    silent = other_nodes(cluster)[0]
    (found,) = (node for node in cluster.worker_nodes if node.node_id == silent.id)
    raylet = found.all_processes["raylet"][0].process.pid
    fleet = WatchedFleet(cluster.address)
    stopped: list[int] = []

    def silencing(batches: Sequence[Batch]) -> Iterator[Record]:
        for done, record in enumerate(fleet.run(batches)):
            yield record
            if done == 5:
                stopped.extend([raylet, *children(raylet)])
                for process in stopped:
                    os.kill(process, signal.SIGSTOP)

    try:
        with fleet:
            save(order(shared), shared / "out", OPTIONS, run=silencing)
        published = files(shared / "out")
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)
    wait_for_answer(silent)
    assert len(stopped) > 1
    assert published == files(shared / "out") == merged_here(shared)
    elsewhere = {n for node, sent in fleet.sent.items() if node != silent.id for n in sent}
    assert elsewhere & set(fleet.sent[silent.id])


def test_work_of_a_node_killed_midway_is_done_by_the_rest(cluster: Cluster, shared: Path) -> None:
    victim = other_nodes(cluster)[0]
    fleet = WatchedFleet(cluster.address)

    def killing(batches: Sequence[Batch]) -> Iterator[Record]:
        death = threading.Thread(target=kill, args=(cluster, victim))
        for done, record in enumerate(fleet.run(batches)):
            yield record
            if done == 5:
                death.start()
            if done == TENSORS // 2:  # half of the work is left for after the death
                death.join()

    with fleet:
        save(order(shared), shared / "out", OPTIONS, run=killing)
    assert files(shared / "out") == merged_here(shared)
    again = {n for node, sent in fleet.sent.items() if node != victim.id for n in sent}
    assert again & set(fleet.sent[victim.id])


def test_address_where_no_ray_listens_is_refused_before_anything_is_made(shared: Path) -> None:
    with pytest.raises(ConfigError, match=r"Ray address '127.0.0.1:1': cannot join"):
        save(order(shared), shared / "new" / "out", RunOptions(ray_address="127.0.0.1:1"))
    assert not (shared / "new").exists()


def test_node_without_the_gpus_of_the_device_is_refused_before_anything_is_made(
    cluster: Cluster, shared: Path
) -> None:
    options = RunOptions(ray_address=cluster.address, device="cuda")
    with pytest.raises(DeviceError, match=r"^node .*'cuda' needs GPUs: expected 1, found 0"):
        save(order(shared), shared / "new" / "out", options)
    assert not (shared / "new").exists()


@pytest.mark.skipif(bool(cards()), reason="there is a card here")
def test_worker_opens_the_cards_that_ray_gave_it(
    cluster: Cluster, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = cluster.add_node(**NODE, num_gpus=2)
    try:
        everybody = living_nodes()
        monkeypatch.setattr(
            "tvmerge.fleet.fleet.living_nodes", lambda: {added.node_id: everybody[added.node_id]}
        )
        options = RunOptions(ray_address=cluster.address, device="cuda:4,7")
        with pytest.raises(DeviceError, match=r"^node .*: device 'cuda:all': "):
            save(order(shared), shared / "out", options)
    finally:
        cluster.remove_node(added)
    assert not (shared / "out").exists()


def test_missing_ray_is_an_error_that_says_what_to_install(shared: Path) -> None:
    without = "import sys; sys.modules['ray'] = None; from tvmerge.cli import main; main()"
    command = [sys.executable, "-c", without, "apply", "base", "out", "--subtract", "tuned"]
    done = subprocess.run(
        [*command, "--ray-address", "auto"], cwd=shared, capture_output=True, text=True
    )
    assert done.returncode == ConfigError.exit_code
    assert "pip install 'tvmerge[fleet]'" in done.stderr
