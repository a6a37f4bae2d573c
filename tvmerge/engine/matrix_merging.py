"""Merges deltas as whole matrices by torch, matrix by matrix. Loaded when there is one: by torch.

One thread of torch computes a matrix, and as many are computed at once as there are threads and
room: so the number of threads changes no bit. A card (matrix_cards.py) merges one
at a time, while another thread reads what comes next.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from time import monotonic

import torch

from tvmerge.engine.decisions import Matrix
from tvmerge.engine.jobs import ZERO, Combine, Result
from tvmerge.engine.matrix_cards import Place, find_places
from tvmerge.engine.measuring import Engine
from tvmerge.engine.run_options import Workspace
from tvmerge.errors import FormatError, MemoryLimitError

_DTYPE = "F64"  # of deltas
_MIB = 1024 * 1024
_M_MMAP_THRESHOLD = -3  # malloc.h
_SAMPLED_OPERATIONS, _SAMPLED_ON_CARD = 4e9, 1e11  # some tenths of a second, or less
# One is read from the files while another is merged.
_EACH_CARD = 2
Wanted = tuple[Combine, Matrix]


def at_once(wanted: Sequence[Wanted], workspace: Workspace) -> int:
    """How many matrices are computed at once; raises MemoryLimitError where one has no room.

    Raises DeviceError where a card is to compute that is not there.
    """
    job, most = max(wanted, key=lambda one: one[1].held_bytes)
    places = find_places()
    for place in places:  # first: the process holds more then
        place.refuse_full(most.held_bytes, most.method)
    _give_back_freed()
    room = workspace.room_bytes
    if most.held_bytes > room and workspace.memory_mib is not None:
        rows, columns = most.shape
        lacking = -(-(most.held_bytes - room) // _MIB)
        raise MemoryLimitError(
            f"memory limit of {workspace.memory_mib} MiB: {most.method} takes "
            f"{most.held_bytes // _MIB} MiB for {job.tensor} ({rows} x {columns}, {most.models} "
            f"models) and {max(0, room) // _MIB} MiB are left for it. Give at least "
            f"{workspace.memory_mib + lacking} MiB"
        )
    wished = _EACH_CARD * len(places) if places[0].is_card else workspace.threads
    return max(1, min(wished, workspace.threads, room // most.held_bytes, len(wanted)))


def _give_back_freed() -> None:
    """What malloc keeps of what was freed would count as held, and come on top of what is next."""
    with suppress(AttributeError, OSError):  # another libc than GNU's
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MIB)  # from this size on it keeps nothing
        libc.malloc_trim(0)


def estimate_seconds(wanted: Sequence[Wanted], workspace: Workspace) -> float:
    """By the time that small random matrices take, as many at once as in the merge."""
    count = at_once(wanted, workspace)
    places = find_places()
    largest = max((matrix for _, matrix in wanted), key=lambda matrix: matrix.operations)
    sampled = _SAMPLED_ON_CARD if places[0].is_card else _SAMPLED_OPERATIONS
    share = min(1.0, (sampled / largest.operations) ** (1 / 3))
    rows, columns = (min(side, max(largest.models, int(share * side))) for side in largest.shape)
    small = replace(largest, shape=(rows, columns))
    parts = _sample(small)
    with _threads(count) as pool:
        for _ in range(2):  # the first time libraries are loaded
            started = monotonic()
            sent = [
                pool.submit(places[number % len(places)].merged, small, parts, "sample")
                for number in range(count)
            ]
            for one in sent:
                one.result()
            seconds = monotonic() - started
    whole = sum(matrix.operations for _, matrix in wanted)
    return seconds * whole / small.operations / count


def _sample(matrix: Matrix) -> list[torch.Tensor]:
    """What `merged` might be given."""
    generator = torch.Generator().manual_seed(0)
    wanted = len(matrix.deltas) + matrix.sees_base
    parts = [
        torch.randn(matrix.shape, dtype=torch.float64, generator=generator) for _ in range(wanted)
    ]
    # Sound statistics for every method.
    one = torch.eye(*matrix.statistic_shape, dtype=torch.float64)
    return [*parts, *[one] * len(matrix.statistics)]


def merged_bytes(wanted: Sequence[Wanted], engine: Engine) -> Iterator[tuple[Wanted, memoryview]]:
    """Every matrix with the bytes of its merged delta, in the order in which they are done.

    The bytes hold until the next ones are asked for.
    """
    count = at_once(wanted, engine.workspace)
    places = find_places()
    running: dict[Future[torch.Tensor], Wanted] = {}

    def finished(least: int) -> Iterator[tuple[Wanted, memoryview]]:
        while len(running) > least:
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                one = running.pop(done)
                yield one, _bytes_of(done.result())
                engine.tell_more(one[0].bytes_measured)

    with _threads(count) as pool:
        for number, (job, matrix) in enumerate(wanted):
            yield from finished(count - 1)
            place = places[number % len(places)]
            running[pool.submit(_merge, job, matrix, engine, place)] = job, matrix
        yield from finished(0)


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which torch computes alone; what has not begun is dropped on an error."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _merge(job: Combine, matrix: Matrix, engine: Engine, place: Place) -> torch.Tensor:
    lying = _parts(job, matrix, engine)
    parts = [one.T for one in lying] if matrix.turned else lying
    try:
        whole = [*parts, *_statistics(job, matrix, engine)]
        merged = place.merged(matrix, whole, job.tensor)
    except FormatError as error:
        raise FormatError(f"{job.tensor}: {error}") from error
    return (merged.T if matrix.turned else merged).contiguous()


def _parts(job: Combine, matrix: Matrix, engine: Engine) -> list[torch.Tensor]:
    """What `merged` sees of the models, all from one reading. Raises FormatError for NaN."""
    rows, columns = reversed(matrix.shape) if matrix.turned else matrix.shape
    rows_of = [_difference(job, matrix.base, delta.source) for delta in matrix.deltas]
    if matrix.sees_base:
        rows_of.insert(0, tuple(float(n == matrix.base) for n in range(len(job.sources))))
    made = [torch.empty(rows, columns, dtype=torch.float64) for _ in rows_of]
    results = tuple(Result(n, 0, _DTYPE, ZERO, row) for n, row in enumerate(rows_of))
    engine.combine(job._replace(results=results), [(one.data_ptr(), one.nbytes) for one in made])
    for delta, one in zip(matrix.deltas, made[matrix.sees_base :], strict=True):
        if not torch.isfinite(one).all():
            raise FormatError(
                f"{job.tensor}: {engine.path(job.sources[delta.source])} minus "
                f"{engine.path(job.sources[matrix.base])} is not finite everywhere, as "
                f"{matrix.method} needs it. Look for NaN and infinity in both"
            )
        if delta.weight != 1:
            one *= delta.weight
    return made


def _difference(job: Combine, base: int, source: int) -> tuple[float, ...]:
    return tuple(float(n == source) - float(n == base) for n in range(len(job.sources)))


def _statistics(job: Combine, matrix: Matrix, engine: Engine) -> Iterator[torch.Tensor]:
    """Those of every delta. Raises FormatError for NaN and for what the method cannot take."""
    for number in matrix.statistics:
        place, elements = job.beside[number - len(job.sources)]
        one = torch.empty(matrix.statistic_shape, dtype=torch.float64)
        alone = Combine(job.tensor, (place,), elements, (Result(0, 0, _DTYPE, ZERO, (1.0,)),))
        engine.combine(alone, [(one.data_ptr(), one.nbytes)])
        fault = matrix.fault(one) if torch.isfinite(one).all() else "NaN or infinity"
        if fault is not None:
            raise FormatError(
                f"{engine.path(place)} has {fault}, as {matrix.method} cannot take it. "
                "Compute these statistics again"
            )
        yield one


def _bytes_of(matrix: torch.Tensor) -> memoryview:
    size = matrix.nbytes
    return memoryview((ctypes.c_char * size).from_address(matrix.data_ptr())).cast("B")
