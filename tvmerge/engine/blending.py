"""Measures inner products and decides coefficients: of whole tensors, or of each of their lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from tvmerge import _core
from tvmerge.engine.decisions import Blend, Gram, Lines
from tvmerge.engine.jobs import Combine, Result
from tvmerge.engine.measuring import Engine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LINES_AT_ONCE = 2**16  # decided together
Wanted = Sequence[tuple[Combine, Result, Blend]]


def blended(wanted: Wanted, engine: Engine) -> Iterator[Result]:
    """The results with their decisions made, in their order; the same is measured once."""
    keys = [(job, blend.unscaled) for job, _, blend in wanted]
    of_tensors = [key for key in dict.fromkeys(keys) if key[1].lines is None]
    of_lines = [key for key in dict.fromkeys(keys) if key[1].lines is not None]
    grams = dict(zip(of_tensors, _grams(of_tensors, engine), strict=True))
    engine.check_room(_table_bytes(of_lines, wanted))
    products = dict(zip(of_lines, _products(of_lines, engine), strict=True))
    for key, (job, result, blend) in zip(keys, wanted, strict=True):
        if blend.lines is None:
            coefficients = blend.coefficients(grams[key], len(job.sources))
            yield result._replace(coefficients=coefficients, decision=None)
        else:
            yield result._replace(decision=_by_line(blend, blend.lines, products[key], job))


def _measured(job: Combine, blend: Blend) -> list[float]:
    """The rows of what is measured, one behind the other."""
    return [c for row in blend.rows(len(job.sources)) for c in row]


def _grams(keys: Sequence[tuple[Combine, Blend]], engine: Engine) -> Iterator[Gram]:
    jobs = [
        _core.MeasureJob(
            sources=engine.sources(job), elements=job.elements, rows=_measured(job, blend)
        )
        for job, blend in keys
    ]
    for (_, blend), (flat, _) in zip(keys, engine.run(_core.measure, jobs), strict=True):
        size = len(blend.inputs)
        yield [flat[start : start + size] for start in range(0, len(flat), size)]


def _products(keys: Sequence[tuple[Combine, Blend]], engine: Engine) -> list[bytes]:
    """Of each pair of what is blended a product for each line, by processors."""
    lines = [blend.lines for _, blend in keys if blend.lines is not None]
    jobs = [
        _core.LineGramsJob(
            sources=engine.sources(job),
            elements=job.elements,
            rows=_measured(job, blend),
            run=one.run,
            count=one.count,
        )
        for (job, blend), one in zip(keys, lines, strict=True)
    ]
    return engine.run(_core.line_grams, jobs, on_cards=False)


def _table_bytes(measured: Sequence[tuple[Combine, Blend]], wanted: Wanted) -> int:
    """What products and coefficients of lines take, of all results together."""
    products = [blend.lines.count * _pairs(blend) for _, blend in measured if blend.lines]
    coefficients = [blend.lines.count * len(job.sources) for job, _, blend in wanted if blend.lines]
    return 8 * (sum(products) + sum(coefficients))


def _pairs(blend: Blend) -> int:
    return len(blend.inputs) * (len(blend.inputs) + 1) // 2


def _by_line(blend: Blend, lines: Lines, products: bytes, job: Combine) -> _core.LineCoefficients:
    np = import_module("numpy")  # by name: all else here runs without it
    pairs = np.frombuffer(products).reshape(_pairs(blend), lines.count)
    found = np.empty((len(job.sources), lines.count))
    for start in range(0, lines.count, _LINES_AT_ONCE):
        some = slice(start, start + _LINES_AT_ONCE)
        with np.errstate(all="ignore"):  # what is not finite shows in the result
            coefficients = blend.coefficients(
                _square(pairs[:, some], len(blend.inputs)), len(found)
            )
        for of_source, coefficient in zip(found, coefficients, strict=True):
            of_source[some] = coefficient
    used = found.any(axis=1).nonzero()[0]
    return _core.LineCoefficients(
        run=lines.run, count=lines.count, sources=used.tolist(), values=found[used].tobytes()
    )


def _square(pairs: NDArray[np.float64], size: int) -> Gram:
    """The matrix of its lower triangle, row by row."""
    places = [(max(i, j), min(i, j)) for i in range(size) for j in range(size)]
    flat = [pairs[r * (r + 1) // 2 + s] for r, s in places]
    return [flat[start : start + size] for start in range(0, len(flat), size)]
