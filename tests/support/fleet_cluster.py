"""A Ray cluster of several nodes on this machine, and what merges over it are compared with."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.small_checkpoints import write

from tvmerge import Checkpoint
from tvmerge.engine.run_options import RunOptions
from tvmerge.fleet.fleet import Fleet
from tvmerge.fleet.nodes import Node, living_nodes, placed
from tvmerge.fleet.ray_session import ENVIRONMENT
from tvmerge.merging.merge import save
from tvmerge.merging.order import MODEL, Order, Variant
from tvmerge.plans.batches import Batch, cut

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


@contextmanager
def local_cluster() -> Iterator[Cluster]:
    """Three nodes on this machine; this process has joined the first."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        # The one of all tests of studies (study/conftest.py), which starts again when asked for.
        ray.shutdown()
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


def write_models(folder: Path) -> Path:
    """A base and a fine-tune in `folder`."""
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
    return Order(kind=MODEL, donor=base.donor, variants=(Variant(weighting=model.coefficients),))


def files(folder: Path) -> dict[str, bytes]:
    """All bytes but those of the receipt's section "run"."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    receipt = json.loads(found["tvmerge_receipt.json"])
    del receipt["run"]
    return found | {"tvmerge_receipt.json": json.dumps(receipt).encode()}


def merged_here(shared: Path) -> dict[str, bytes]:
    # Under the same name as the others, since the card has it.
    save(order(shared), shared / "here" / "out", OPTIONS)
    return files(shared / "here" / "out")


def batches_of(shared: Path) -> tuple[Batch, ...]:
    """Batches as a merge has them, with the output file in its place."""
    plan = order(shared).plan()
    (out,) = plan.shards
    path = shared / "model.part"
    path.write_bytes(out.head.ljust(out.size_bytes, b"\0"))
    return cut(plan, [path], batch_bytes=1)


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
    deadline = time.monotonic() + 600
    before = set(living_nodes())  # of which an earlier test's may go meanwhile
    try:
        while set(living_nodes()) <= before:
            if process.poll() is not None:
                pytest.skip(f"no mount namespaces here: {process.communicate()[0][-300:]}")
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.communicate()
        while not set(living_nodes()) <= before:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def children(process: int) -> list[int]:
    return [
        int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def raylets(node: object) -> list[int]:
    """Process ids of a node's raylet."""
    processes = getattr(node, "all_processes", {})
    return [one.process.pid for one in processes.get("raylet", [])]


def wait_for_answer(node: Node) -> None:
    """Until the node has run a task, behind whatever waited there."""
    with occupied(node):
        pass
