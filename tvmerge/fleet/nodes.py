"""The nodes of a Ray cluster, and whether they are fit for a merge: same tvmerge, same files."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tvmerge.engine.devices import ALL, CPU, parse_device
from tvmerge.engine.matrix_devices import VARIABLE, asked_device
from tvmerge.errors import ConfigError, DeviceError, StorageError, TVMergeError
from tvmerge.fleet.ray_session import connect
from tvmerge.plans.batches import Batch
from tvmerge.version import __version__

Answer = TypeVar("Answer")
# (size in bytes, time of the last change in ns) of a file, or why it cannot be opened.
View = tuple[int, int] | str

# A mount that hangs answers nothing; the first worker of a node takes seconds to start.
ANSWER_SECONDS = 120.0
_REACH_SECONDS = 10.0
_ASK_AGAIN_SECONDS = 0.2
_SILENT = TVMergeError(f"no answer within {ANSWER_SECONDS:.0f} seconds")


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster."""

    id: str
    host: str
    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"node {self.host} ({self.id[:8]})"


def join(address: str) -> bool:
    """Join the cluster at `address`; False if this process is in one already, which then counts.

    Raises ConfigError where there is none, or no Ray.
    """
    try:
        _reach(address)
        return connect(address, cpus=None, gpus=None)
    except ImportError as error:
        raise ConfigError(
            "a merge on several machines needs the package ray, which is not installed. Install "
            "it, on every machine, with: pip install 'tvmerge[fleet]'"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"Ray address {address!r}: cannot join a cluster there: {error}. Start Ray on this "
            "machine with `ray start --address=HEAD:6379`, and give HEAD:6379 or auto"
        ) from error


def living_nodes() -> dict[str, Node]:
    """The living nodes with CPUs of their own, by id; ConfigError where there are none."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    living = [
        Node(
            node["NodeID"],
            node["NodeManagerHostname"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in found
        if node["Alive"]
    ]
    nodes = {node.id: node for node in living if node.cpus}
    if not nodes:
        raise ConfigError(
            f"the Ray cluster has {len(living)} nodes, none of them with CPUs. Add one: `ray start`"
        )
    return nodes


def is_alive(node_id: str) -> bool:
    """Whether Ray still reaches the node."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return any(node["Alive"] and node["NodeID"] == node_id for node in found)


def placed(node: Node, *, cpus: int, gpus: int = 0) -> dict[str, Any]:
    """Options of a task that runs on this node or not at all."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A retry would go to the very node that is gone: the schedule retries elsewhere.
    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "scheduling_strategy": place}


def gpus_of(node: Node, device: str) -> int:
    """How many GPUs a worker with this device asks of the node."""
    wanted = parse_device(device)
    return node.gpus if wanted == ALL else len(wanted)


def refuse_missing_gpus(nodes: Iterable[Node], device: str) -> None:
    """Raise DeviceError for the first node that has not the GPUs of this device.

    Ray tells only how many a node has; its own worker opens them.
    """
    wanted = parse_device(device)
    least = 1 if wanted == ALL else len(wanted)
    for node in nodes:
        if node.gpus < least:
            raise DeviceError(
                f"{node}: the device {device!r} needs GPUs: expected {least}, found {node.gpus} "
                "that Ray may use. Start Ray there with --num-gpus, leave the node out, or use the "
                "device cpu"
            )


def refuse_versions(nodes: Iterable[Node]) -> None:
    """Raise ConfigError for the first node that would make other bytes than this machine."""
    here = asked_device()
    for node, found in _answers(nodes, _maker):
        version, device = (found, here) if isinstance(found, Exception) else found
        if version != __version__:
            raise ConfigError(
                f"{node}: expected tvmerge {__version__}, found {version}. Install the same "
                "tvmerge for the same Python on every machine"
            )
        if device != here:
            raise ConfigError(
                f"{node}: expected {VARIABLE}={here}, found {device}. Set it alike on every machine"
            )


def refuse_views(nodes: Iterable[Node], batches: Sequence[Batch]) -> None:
    """Raise StorageError for the first node that has not the very files that are here.

    Inputs are told by size and time. An output gets a time that no other file has: a file of the
    same name on a disk of the node's own is found out. (A file made for this could be left behind.)
    """
    inputs = sorted({path for batch in batches for path in batch.inputs.values()})
    outputs = sorted({path for batch in batches for path in batch.outputs.values()})
    for path in outputs:
        # Whole seconds, which every file system keeps.
        mark = random.randrange(int(time.time()))
        os.utime(path, (mark, mark))
    expected = views(inputs, outputs)
    for node, found in _answers(nodes, views, inputs, outputs):
        if isinstance(found, Exception):
            raise StorageError(f"{node}: cannot look at the files: {found}")
        for path, here in expected.items():
            if found[path] != here:
                raise StorageError(
                    f"{node}: expected {path} as it is here ({_shown(here)}), found "
                    f"{_shown(found[path])}. Every node must have the same shared folders at the "
                    "same paths, and may write to the output's"
                )


def views(inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, View]:
    """The files as this machine sees them; outputs are opened for writing, and left as they are."""
    wanted = [(path, os.O_RDONLY) for path in inputs] + [(path, os.O_WRONLY) for path in outputs]
    return {path: _view(path, flags) for path, flags in wanted}


def _view(path: str, flags: int) -> View:
    # Opened, since that is when a network file system asks its server for what is new.
    try:
        file = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        return error.strerror or str(error)
    try:
        stat = os.fstat(file)
        return stat.st_size, stat.st_mtime_ns
    finally:
        os.close(file)


def _shown(view: View) -> str:
    if isinstance(view, str):
        return f"an error: {view}"
    size_bytes, changed_ns = view
    changed = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(changed_ns // 10**9))
    return f"{size_bytes:,} bytes, changed {changed}.{changed_ns % 10**9:09d} UTC"


def _maker() -> tuple[str, str]:
    """What decides the bytes of a batch beside the batch; 0.1 has no function of this name."""
    return __version__, os.environ.get(VARIABLE) or CPU


def _reach(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself takes more than a minute to find out."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()


def _answers(
    nodes: Iterable[Node], function: Callable[..., Answer], *arguments: object
) -> Iterator[tuple[Node, Answer | Exception]]:
    """What `function` gives on each node, however busy it is, or why it gives nothing.

    Nodes that have died give no answer: they are not needed.
    """
    import ray

    remote = ray.remote(function)
    deadline = time.monotonic() + ANSWER_SECONDS
    asked = list(nodes)
    while asked:
        refs = {remote.options(**placed(node, cpus=0)).remote(*arguments): node for node in asked}
        seconds = max(0.0, deadline - time.monotonic())
        _, silent = ray.wait(list(refs), num_returns=len(refs), timeout=seconds)
        asked = []
        for ref, node in refs.items():
            answer, reached = (_SILENT, True) if ref in silent else _answer(ref)
            if reached or time.monotonic() > deadline:
                yield node, answer
            elif is_alive(node.id):
                asked.append(node)  # it has joined this moment: not all of Ray knows it yet
        if asked:
            time.sleep(_ASK_AGAIN_SECONDS)


def _answer(ref: Any) -> tuple[Any, bool]:
    """What the task gave or raised, and whether its node was reached at all."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(ref), True
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error, True
    except RayError as error:
        return error, False
