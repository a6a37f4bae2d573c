"""Merges spread over a cluster of several nodes: the bytes of one machine, whatever dies."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from small_checkpoints import write

from tvmerge import Checkpoint
from tvmerge.batches import Batch, cut
from tvmerge.errors import ConfigError, StorageError
from tvmerge.fleet import Fleet
from tvmerge.merge import save
from tvmerge.nodes import Node, living_nodes, placed
from tvmerge.order import MODEL, Order, Variant
from tvmerge.ray_session import ENVIRONMENT
from tvmerge.record import Record
from tvmerge.run_options import RunOptions

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
# A batch for every tensor.
OPTIONS = RunOptions(batch_bytes=1)
TENSORS = 60


class WatchedFleet(Fleet):
    """Knows what it has sent where."""

    def __init__(self, address: str) -> None:
        super().__init__(address, OPTIONS)
        self.sent: dict[str, list[int]] = defaultdict(list)

    def _send(self, node: Node, batch: Batch, share: int) -> Any:
        self.sent[node.id].append(batch.number)
        return super()._send(node, batch, share)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes on this machine; this process has joined the first."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        head = NODE | {"include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            cluster.add_node(**NODE)
        ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
        try:
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The folder that all nodes see, with a base and a fine-tune."""
    folder = tmp_path / "shared"
    for name, seed in (("base", 1), ("tuned", 2)):
        generator = np.random.default_rng(seed)
        write(
            folder / name,
            {
                f"model.layers.{n}.mlp.weight": generator.standard_normal(
                    (64, 64 + n), dtype=np.float32
                )
                for n in range(TENSORS)
            },
        )
    return folder


def order(shared: Path) -> Order:
    base, tuned = Checkpoint(shared / "base"), Checkpoint(shared / "tuned")
    model = base - 0.5 * (tuned - base)
    return Order(kind=MODEL, donor=base.donor, variants=(Variant(coefficients=model.coefficients),))


def files(folder: Path) -> dict[str, bytes]:
    """All bytes but those of the receipt that tell of the run."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    receipt = json.loads(found["tvmerge_receipt.json"])
    del receipt["run"], receipt["digest"]
    return found | {"tvmerge_receipt.json": json.dumps(receipt).encode()}


def merged_here(shared: Path) -> dict[str, bytes]:
    # Under the same name as the others, since the card has it.
    save(order(shared), shared / "here" / "out", OPTIONS)
    return files(shared / "here" / "out")


@contextmanager
def occupied(node: Node) -> Iterator[None]:
    """The node's CPUs are busy with somebody else's task."""
    import ray

    options = placed(node, cpus=node.cpus)
    del options["max_retries"]  # actors have none

    @ray.remote
    class Holder:
        def ready(self) -> None:
            pass

    holder = Holder.options(**options).remote()
    ray.get(holder.ready.remote())
    try:
        yield
    finally:
        ray.kill(holder)


def other_nodes(cluster: Cluster) -> list[Node]:
    """The nodes that this process has not joined."""
    head = cluster.head_node.node_id
    return [node for node in living_nodes().values() if node.id != head]


def kill(cluster: Cluster, node: Node) -> None:
    (victim,) = (found for found in cluster.worker_nodes if found.node_id == node.id)
    cluster.remove_node(victim, allow_graceful=False)


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
    weights = (shared / "out" / "model.safetensors").read_bytes()
    assert weights == merged_here(shared)["model.safetensors"]


def batches_of(shared: Path) -> tuple[Batch, ...]:
    """Batches as a merge has them, with the output file in its place."""
    plan = order(shared).plan()
    (out,) = plan.shards
    path = shared / "model.part"
    path.write_bytes(out.head.ljust(out.size_bytes, b"\0"))
    return cut(plan, [path], batch_bytes=1)


def test_error_on_a_node_arrives_with_its_name(cluster: Cluster, shared: Path) -> None:
    batches = batches_of(shared)
    weights = shared / "tuned" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    with (
        Fleet(cluster.address) as fleet,
        pytest.raises(StorageError, match=r"^node .*tuned/model.safetensors: no data at byte"),
    ):
        list(fleet.run(batches))


@contextmanager
def node_in_a_world_of_its_own(cluster: Cluster, world: str) -> Iterator[None]:
    """One more node, started when the shell commands `world` have changed its view of the files."""
    start = f"{sys.executable} -m ray.scripts.scripts start --block --address={cluster.address}"
    start += f" --num-cpus=1 --object-store-memory={NODE['object_store_memory']}"
    process = subprocess.Popen(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", f"{world} && exec {start}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    before = len(living_nodes())
    try:
        while len(living_nodes()) == before:
            if process.poll() is not None:
                pytest.skip(f"no mount namespaces here: {process.communicate()[0][-300:]}")
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.communicate()
        while len(living_nodes()) > before:
            assert time.monotonic() < deadline
            time.sleep(0.1)


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


def test_missing_ray_is_an_error_that_says_what_to_install(shared: Path) -> None:
    without = "import sys; sys.modules['ray'] = None; from tvmerge.cli import main; main()"
    command = [sys.executable, "-c", without, "apply", "base", "out", "--subtract", "tuned"]
    done = subprocess.run(
        [*command, "--ray-address", "auto"], cwd=shared, capture_output=True, text=True
    )
    assert done.returncode == ConfigError.exit_code
    assert "pip install 'tvmerge[fleet]'" in done.stderr
