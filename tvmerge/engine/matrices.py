"""Matrices that are merged as a whole: what becomes of them in a plan's jobs, and where it lies.

The engine forms a matrix's deltas in float64, its method merges them (matrix_merging.py), and what
comes out lies in a file without a name. That is one more source of the tensor's sum: the engine
adds it to the base and rounds once, and outputs, digests, edits, receipts are as for every method.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from tvmerge.engine.decisions import Matrix
from tvmerge.engine.devices import ALL, CPU
from tvmerge.engine.jobs import Combine, Job, Range, Result
from tvmerge.engine.matrix_devices import CARDS, VARIABLE, asked_device
from tvmerge.engine.measuring import Engine
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError, storage_errors
from tvmerge.files.kept import place

SCRATCH = 2**30  # the number of the file with merged deltas, beyond those of a plan
DTYPE = "F64"  # of the deltas, merged or not


class Scratch:
    """A file without a name below `$TVMERGE_CACHE`, made when something is written to it."""

    def __init__(self) -> None:
        self._file: int | None = None

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._file is not None:
            os.close(self._file)

    @property
    def inputs(self) -> Mapping[int, str]:
        """The file by its number, if there is one."""
        return {} if self._file is None else {SCRATCH: f"/proc/self/fd/{self._file}"}

    def add(self, data: memoryview) -> int:
        """Write at the end; returns the offset. Raises StorageError where the disk is full."""
        import tempfile  # by those alone who merge matrices

        folder = place().parent
        with storage_errors(folder):
            if self._file is None:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file, path = tempfile.mkstemp(dir=folder)
                os.unlink(path)  # noqa: PTH108 (nothing is left of it when this process ends)
            begin = os.lseek(self._file, 0, os.SEEK_END)
            while data:
                data = data[os.write(self._file, data) :]
        return begin


def parts_of(jobs: Iterable[Job]) -> list[Job]:
    """The jobs of a plan as they are run: what is merged element by element is cut."""
    return [part for job in jobs for part in job.parts()]


def matrices_of(jobs: Iterable[Job]) -> list[tuple[Combine, Matrix]]:
    """Every matrix that is to be merged, at whatever scales it is then added."""
    found = {
        (number, result.decision.unscaled): job
        for number, job in enumerate(jobs)
        if isinstance(job, Combine)
        for result in job.results
        if isinstance(result.decision, Matrix)
    }
    return [(job, matrix) for (_, matrix), job in found.items()]


def without_matrices(jobs: Iterable[Job]) -> tuple[Job, ...]:
    """The same reading and writing without any matrix merged: sums that mean nothing."""
    return tuple(
        job._replace(results=tuple(_plain(result) for result in job.results), beside=())
        if isinstance(job, Combine)
        else job
        for job in jobs
    )


def _plain(result: Result) -> Result:
    return result._replace(decision=None) if isinstance(result.decision, Matrix) else result


def torch_version(jobs: Iterable[Job]) -> str | None:
    """The torch that merges the matrices, and where if not here; None where there are none.

    Raises ConfigError without torch.
    """
    wanted = matrices_of(jobs)
    return torch_here(wanted[0][1].method) if wanted else None


def torch_here(method: str) -> str:
    """The torch that is installed, and where it merges matrices if not on the processor.

    Raises ConfigError where there is none, since `method` needs it.
    """
    from importlib import metadata  # by those alone who merge matrices

    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"{method} needs torch, which is not installed: pip install 'tvmerge[torch]'"
        ) from error
    # Which of its cards a machine has used decides no bit.
    return version if asked_device() == CPU else f"{version} on {CARDS}"


def check_matrices(jobs: Iterable[Job], options: RunOptions) -> None:
    """Raise what `with_matrices` would: ConfigError for no torch, MemoryLimitError for no room,
    DeviceError for no card.
    """
    wanted = matrices_of(parts_of(jobs))
    if torch_version(job for job, _ in wanted) is None:
        return
    if options.ray_address is None:  # else the nodes look at their own memory and cards
        from tvmerge.engine.matrix_merging import at_once

        at_once(wanted, options.workspace())
        return
    asked = asked_device()
    if asked not in (CPU, CARDS, f"{CARDS}:{ALL}"):
        raise ConfigError(
            f"{VARIABLE}={asked}: Ray says which GPUs of a node a batch gets. Expected cpu, cuda "
            "or cuda:all"
        )
    if asked != CPU and options.device == CPU:
        raise ConfigError(
            f"{VARIABLE}={asked}: Ray hides a node's GPUs from who asks for none. Add --device "
            "cuda, or set it to cpu"
        )


def estimate_matrices(jobs: Iterable[Job], options: RunOptions) -> float:
    """About how many seconds merging the matrices takes here; raises as `check_matrices`."""
    wanted = matrices_of(parts_of(jobs))
    if torch_version(job for job, _ in wanted) is None:
        return 0.0
    from tvmerge.engine.matrix_merging import estimate_seconds

    return estimate_seconds(wanted, options.workspace())


def with_matrices(jobs: Sequence[Job], engine: Engine, scratch: Scratch) -> tuple[Job, ...]:
    """The jobs with every matrix merged and its delta one of their sources, in `scratch`.

    Raises FormatError where a delta is not finite, and as `check_matrices`.
    """
    if torch_version(jobs) is None:
        return tuple(jobs)
    from tvmerge.engine.matrix_merging import merged_bytes

    merged: dict[Combine, dict[Matrix, Range]] = {}
    for (job, matrix), data in merged_bytes(matrices_of(jobs), engine):
        place = Range(SCRATCH, scratch.add(data), DTYPE, digested=False)
        merged.setdefault(job, {})[matrix] = place
    return tuple(
        _summed(job, merged[job]) if isinstance(job, Combine) and job in merged else job
        for job in jobs
    )


def _summed(job: Combine, merged: Mapping[Matrix, Range]) -> Combine:
    """The job as a sum of its sources and of the merged deltas."""
    numbers = {matrix: len(job.sources) + n for n, matrix in enumerate(merged)}
    results = []
    for result in job.results:
        held = dict(enumerate(result.coefficients))
        if isinstance(result.decision, Matrix):
            matrix = result.decision
            held = {matrix.base: 1.0, numbers[matrix.unscaled]: matrix.scale}
        sources = range(len(job.sources) + len(merged))
        coefficients = tuple(held.get(number, 0.0) for number in sources)
        results.append(result._replace(coefficients=coefficients, decision=None))
    sources_now = (*job.sources, *merged.values())
    return job._replace(sources=sources_now, results=tuple(results), beside=())
