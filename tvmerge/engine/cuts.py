"""Which elements of deltas take part: what a `Keep` asks for, measured, as the engine takes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from struct import pack, unpack
from typing import NamedTuple

from tvmerge import _core
from tvmerge.engine.decisions import Consensus, Keep
from tvmerge.engine.jobs import Combine
from tvmerge.engine.measuring import Engine

Wanted = Sequence[tuple[Combine, Consensus]]
_VARIANCE = -1
_ALL, _NONE = (0, 2**64 - 1), (2**32 - 1, 0)
_NAN = 0x7F80_0001  # csrc/core/ops_consensus.hpp: key_of
_QUARTILES = (0.25, 0.5, 0.75)
_FAR = 1.5  # so many times the middle half's width above the median, a delta is important
_GREATEST = float.fromhex("0x1.fffffep+127")  # of float32


class Cuts(NamedTuple):
    """What is in, what of it is not, what its rows multiply magnitudes with, what is drawn."""

    outer: tuple[int, int] = _ALL
    inner: tuple[int, int] = _NONE
    factors: _core.RowFactors | None = None
    mask: _core.DrawnMask | None = None  # where there is room to note it


def cuts_of(wanted: Wanted, engine: Engine) -> list[list[Cuts]]:
    """Per consensus and delta."""
    cuts = [[_unranked(delta.keep) for delta in consensus.deltas] for _, consensus in wanted]
    ranked = [
        n
        for n, (_, consensus) in enumerate(wanted)
        if any(delta.keep.ranked for delta in consensus.deltas)
    ]
    queries = [_queries(wanted[n][1], wanted[n][0].elements) for n in ranked]
    unique = [sorted(set(held)) for held in queries]
    jobs = [
        _core.SelectJob(
            sources=engine.sources(wanted[n][0]), elements=wanted[n][0].elements, queries=held
        )
        for n, held in zip(ranked, unique, strict=True)
    ]
    found = engine.run(_core.select, jobs)
    for n, asked, held, answers in zip(ranked, queries, unique, found, strict=True):
        cut_of = dict(zip(held, answers, strict=True))
        flat = [cut_of[query] for query in asked]
        pairs = zip(flat[::2], flat[1::2], strict=True)
        cuts[n] = [
            Cuts(*pair) if delta.keep.ranked else unranked
            for delta, pair, unranked in zip(wanted[n][1].deltas, pairs, cuts[n], strict=True)
        ]
    for (n, k), important in _important(wanted, engine).items():
        cuts[n][k] = important
    return cuts


def _queries(consensus: Consensus, elements: int) -> list[tuple[int, int | float]]:
    """Two cuts a delta: what is in, and what of it is not."""
    queries: list[tuple[int, int | float]] = []
    for delta in consensus.deltas:
        source = _VARIANCE if delta.keep.of_variance else delta.source
        largest = elements + 1 if delta.keep.largest is None else delta.keep.largest
        outer = largest if delta.keep.share is None else float(delta.keep.share)
        queries += [(source, outer), (source, delta.keep.but_largest)]
    return queries


def _unranked(keep: Keep) -> Cuts:
    """All of it, or what lies above a given magnitude."""
    return Cuts() if keep.above is None else Cuts((_key(keep.above), 0))


def _important(wanted: Wanted, engine: Engine) -> dict[tuple[int, int], Cuts]:
    """By consensus and delta: by processors alone, as what comes next is too."""
    held = [
        (n, k)
        for n, (_, consensus) in enumerate(wanted)
        for k, delta in enumerate(consensus.deltas)
        if delta.keep.important
    ]
    jobs, sources, rows = [], [], []
    for n, k in held:
        job, consensus = wanted[n]
        delta, of_job = consensus.deltas[k], engine.sources(job)
        jobs.append(job)
        sources.append([of_job[consensus.base], of_job[delta.source]])
        rows.append(delta.keep.row)
    factors = engine.run(
        _core.divergences,
        [
            _core.DivergenceJob(sources=both, elements=job.elements, row=row)
            for job, both, row in zip(jobs, sources, rows, strict=True)
        ],
        on_cards=False,
    )
    quartiles = engine.run(
        _core.select,
        [
            _core.SelectJob(
                sources=both,
                elements=job.elements,
                queries=[(1, job.elements - int(q * (job.elements - 1))) for q in _QUARTILES],
                factors=weights,
            )
            for job, both, weights in zip(jobs, sources, factors, strict=True)
        ],
        on_cards=False,
    )
    return {
        place: Cuts((_threshold([key for key, _ in found]), 2**64 - 1), _NONE, weights)
        for place, found, weights in zip(held, quartiles, factors, strict=True)
    }


def _threshold(quartiles: Sequence[int]) -> int:
    """The least key that is important; where there is none, what is not finite must show."""
    first, median, third = (unpack("<f", pack("<I", key))[0] for key in quartiles)
    least = median + _FAR * (third - first)
    return _NAN if math.isnan(least) else _key(least)


def _key(magnitude: float) -> int:
    """The bits of the nearest float32."""
    (key,) = unpack("<I", pack("<f", magnitude if magnitude <= _GREATEST else math.inf))
    return int(key)
