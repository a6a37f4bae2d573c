"""A quiet Ray: started small, joined and stopped without talk. Ray is imported when asked for."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

OBJECT_STORE_MIB = 100  # only paths and small results travel; Ray's own default is GiBs
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # Ray tells of killed workers on stdout, where a command's result belongs; read on its import.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    # Torch asks for huge pages: 13 % faster steps, fewer page faults.
    "THP_MEM_ALLOC_ENABLE": "1",
}
STOP_SECONDS = 10.0


def connect(address: str | None, *, cpus: int | None, gpus: int | None) -> bool:
    """Start a Ray on this machine, or join the one at `address`; False if it is there already.

    Ctrl-C waits until then: Ray, interrupted while it begins, crashes when the process ends.
    """
    # Workers of a Ray that starts here inherit this environment.
    with _environment(ENVIRONMENT), _uninterrupted():
        import ray

        if ray.is_initialized():  # ours already, or the caller's own
            return False
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address is None:
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_MIB << 20,
                **quiet,
            )
        else:
            ray.init(address=address, runtime_env={"env_vars": ENVIRONMENT}, **quiet)
    return True


def stop(refs: Sequence[Any]) -> None:
    """Kill these tasks' workers and read how they ended: Ray logs whatever nobody reads."""
    import ray
    from ray.exceptions import RayError

    for ref in refs:
        ray.cancel(ref, force=True)
    ended, _ = (
        ray.wait(list(refs), num_returns=len(refs), timeout=STOP_SECONDS) if refs else ([], [])
    )
    for ref in ended:
        with suppress(RayError):
            ray.get(ref)


def answer(ref: Any, seconds: float) -> Any:
    """What an actor answers; None where it is gone, or takes longer."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(ref, timeout=seconds)
    except RayTaskError:  # its own error
        raise
    except RayError:  # died, was killed for its memory, cannot be reached, timed out
        return None


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextmanager
def _uninterrupted() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
