"""Measures what a batch's decisions depend on, and decides: measure -> decide -> combine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from struct import pack, unpack
from typing import Any, TypeVar

from tvmerge import _core
from tvmerge.decisions import Blend, Consensus, Decision, Delta, Keep
from tvmerge.jobs import Combine, Job, Result
from tvmerge.run_options import Workspace

T = TypeVar("T")
_ALWAYS = 2**32
_VARIANCE = -1
_ALL, _NONE = (0, 2**64 - 1), (2**32 - 1, 0)
_LEAST_NORM = 1e-7
_Cuts = tuple[tuple[int, int], tuple[int, int]]  # what is in, and what of it is not
_Factors = tuple[float, float, float]  # of a delta's values, of its weight, of values alone
_Sums = tuple[float, float, float, int, int]  # csrc/consensus.hpp
_UNCHANGED: _Factors = (1.0, 1.0, 1.0)


def decided(
    jobs: Sequence[Job],
    inputs: Mapping[int, str],
    workspace: Workspace,
    progress: Callable[[int], None] | None = None,
) -> tuple[tuple[Job, ...], int]:
    """A batch's jobs with every decision made: coefficients, or the engine's own consensus.

    Reads what has to be measured from `inputs` (paths by the plan's numbers), and says how many
    bytes that were.
    """
    held = [
        _Held(n, r, job, result.decision)
        for n, job in enumerate(jobs)
        if isinstance(job, Combine)
        for r, result in enumerate(job.results)
        if isinstance(result.decision, Blend | Consensus)
    ]
    ready = list(jobs)
    engine = _Engine(inputs, workspace, progress)
    made: dict[tuple[int, int], Result] = {}
    for one, coefficients in _blended(held, engine):
        made[one.number, one.result] = one.undecided._replace(
            coefficients=coefficients, decision=None
        )
    for one, consensus in _agreed(held, engine):
        made[one.number, one.result] = one.undecided._replace(decision=consensus)
    for n in {number for number, _ in made}:
        job = ready[n]
        assert isinstance(job, Combine)
        results = tuple(made.get((n, r), result) for r, result in enumerate(job.results))
        ready[n] = job._replace(results=results)
    return tuple(ready), engine.moved


def undecided(jobs: Iterable[Job]) -> tuple[Job, ...]:
    """The jobs without their decisions: for what reads and writes the same, computing nothing."""
    return tuple(
        job._replace(results=tuple(result._replace(decision=None) for result in job.results))
        if isinstance(job, Combine)
        else job
        for job in jobs
    )


@dataclass(frozen=True, slots=True)
class _Held:
    """A decision that is to be made: of which result of which job."""

    number: int
    result: int
    job: Combine
    decision: Decision

    @property
    def undecided(self) -> Result:
        return self.job.results[self.result]


class _Engine:
    """The native measurements of one batch's files."""

    def __init__(
        self,
        inputs: Mapping[int, str],
        workspace: Workspace,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._progress = progress
        self.moved = 0  # bytes, by all measurements so far
        self._paths = list(inputs.values())
        self._files = {number: here for here, number in enumerate(inputs)}
        self._workspace = workspace

    def sources(self, job: Combine) -> list[_core.Source]:
        return [
            _core.Source(self._files[place.file], place.offset_bytes, place.dtype)
            for place in job.sources
        ]

    def run(self, measure: Callable[..., list[T]], jobs: Sequence[Any]) -> list[T]:
        """One native measurement of all jobs."""
        if not jobs:
            return []
        held, before = self._workspace, self.moved

        def tell(moved: int) -> None:
            self.moved = before + moved
            if self._progress is not None:
                self._progress(self.moved)

        return measure(
            self._paths,
            jobs,
            threads=held.threads,
            buffer_bytes=held.buffer_bytes,
            isa=held.isa,
            drop_behind=held.drop_behind,
            progress=tell,
            cards=held.cards,
        )


def _blended(held: Sequence[_Held], engine: _Engine) -> Iterator[tuple[_Held, tuple[float, ...]]]:
    blends = [(one, one.decision) for one in held if isinstance(one.decision, Blend)]
    measured = {(one.number, blend.unscaled): one for one, blend in blends}
    rows = [blend.rows(len(one.job.sources)) for (_, blend), one in measured.items()]
    jobs = [
        _core.MeasureJob(
            sources=engine.sources(one.job),
            elements=one.job.elements,
            rows=[coefficient for row in wanted for coefficient in row],
        )
        for one, wanted in zip(measured.values(), rows, strict=True)
    ]
    found = engine.run(_core.measure, jobs)
    grams = {
        key: [flat[start : start + len(wanted)] for start in range(0, len(flat), len(wanted))]
        for key, wanted, (flat, _) in zip(measured, rows, found, strict=True)
    }
    for one, blend in blends:
        gram = grams[one.number, blend.unscaled]
        yield one, blend.coefficients(gram, len(one.job.sources))


def _agreed(held: Sequence[_Held], engine: _Engine) -> Iterator[tuple[_Held, _core.Consensus]]:
    asked = [(one, one.decision) for one in held if isinstance(one.decision, Consensus)]
    measured = {(one.number, consensus.unscaled): one for one, consensus in asked}
    wanted = [(one, consensus) for (_, consensus), one in measured.items()]
    cuts = _cuts(wanted, engine)
    gains = _gains(wanted, cuts, engine)
    parts = {
        key: list(map(_part, key[1].deltas, limits, factors))
        for key, limits, factors in zip(measured, cuts, gains, strict=True)
    }
    for one, consensus in asked:
        yield (
            one,
            _core.Consensus(
                parts=parts[one.number, consensus.unscaled],
                scale=consensus.scale,
                elect=consensus.elect,
                elect_first=consensus.elect_first,
                normalize=consensus.normalize,
            ),
        )


_Wanted = Sequence[tuple[_Held, Consensus]]


def _cuts(wanted: _Wanted, engine: _Engine) -> list[list[_Cuts]]:
    """Per consensus and delta, what the ranks of its `keep` come to."""
    cuts = [[_unranked(delta.keep) for delta in consensus.deltas] for _, consensus in wanted]
    ranked = [
        n
        for n, (_, consensus) in enumerate(wanted)
        if any(delta.keep.ranked for delta in consensus.deltas)
    ]
    queries = [_queries(wanted[n][1], wanted[n][0].job.elements) for n in ranked]
    unique = [sorted(set(held)) for held in queries]
    jobs = [
        _core.SelectJob(
            sources=engine.sources(wanted[n][0].job),
            elements=wanted[n][0].job.elements,
            queries=held,
        )
        for n, held in zip(ranked, unique, strict=True)
    ]
    found = engine.run(_core.select, jobs)
    for n, asked, held, answers in zip(ranked, queries, unique, found, strict=True):
        cut_of = dict(zip(held, answers, strict=True))
        flat = [cut_of[query] for query in asked]
        pairs = zip(flat[::2], flat[1::2], strict=True)
        cuts[n] = [
            pair if delta.keep.ranked else unranked
            for delta, pair, unranked in zip(wanted[n][1].deltas, pairs, cuts[n], strict=True)
        ]
    return cuts


def _gains(
    wanted: _Wanted, cuts: Sequence[Sequence[_Cuts]], engine: _Engine
) -> list[list[_Factors]]:
    """Per consensus and delta, what multiplies its values and its weight."""
    gains = [[_UNCHANGED] * len(consensus.deltas) for _, consensus in wanted]
    summed = [n for n, (_, consensus) in enumerate(wanted) if consensus.summed]
    jobs = [
        _core.DeltaSumsJob(
            sources=engine.sources(wanted[n][0].job),
            elements=wanted[n][0].job.elements,
            parts=[
                _part(delta, limits, _UNCHANGED)
                for delta, limits in zip(wanted[n][1].deltas, cuts[n], strict=True)
            ],
            counted=wanted[n][1].reward != 0,
        )
        for n in summed
    ]
    for n, norms in zip(summed, engine.run(_core.delta_sums, jobs), strict=True):
        consensus = wanted[n][1]
        energy = sum(square for _, _, square, _, _ in norms)
        gains[n] = [
            (
                _gain(norm) if delta.keep.rescale else 1.0,
                _share(norm, energy, len(norms)) if consensus.by_energy else 1.0,
                _rewarded(norm, consensus),
            )
            for delta, norm in zip(consensus.deltas, norms, strict=True)
        ]
    return gains


def _queries(consensus: Consensus, elements: int) -> list[tuple[int, int | float]]:
    """Two cuts a delta: what is in, and what of it is not."""
    queries: list[tuple[int, int | float]] = []
    for delta in consensus.deltas:
        source = _VARIANCE if delta.keep.of_variance else delta.source
        largest = elements if delta.keep.largest is None else delta.keep.largest
        outer = largest if delta.keep.share is None else float(delta.keep.share)
        queries += [(source, outer), (source, delta.keep.but_largest)]
    return queries


def _unranked(keep: Keep) -> _Cuts:
    """All of it, or what lies above a given magnitude."""
    if keep.above is None:
        return _ALL, _NONE
    (key,) = unpack("<I", pack("<f", keep.above))
    return (key, 0), _NONE


def _part(delta: Delta, cuts: _Cuts, factors: _Factors) -> _core.Part:
    keep = delta.keep
    gain, weight, alone = factors
    least = min(_ALWAYS, round((keep.probability - keep.spread) * _ALWAYS))
    span = 0
    if keep.row:  # 0 and 1 are not among these probabilities
        least = max(1, least)
        span = min(round(2 * keep.spread * _ALWAYS), _ALWAYS - 1 - least)
    return _core.Part(
        source=delta.source,
        weight=delta.weight * weight,
        gain=gain,
        outer=cuts[0],
        inner=cuts[1],
        of_variance=keep.of_variance,
        random_below=least,
        random_span=span,
        row=keep.row,
        key=keep.key,
        limit=delta.limit,
        alone=alone,
    )


def _gain(norms: _Sums) -> float:
    """What makes up for the dropped elements, in the L1 norm; 1 where next to nothing is left."""
    whole, kept, *_ = norms
    return whole / kept if kept > _LEAST_NORM else 1.0


def _share(norms: _Sums, energy: float, count: int) -> float:
    return norms[2] / energy if energy > 0 else 1 / count


def _rewarded(norms: _Sums, consensus: Consensus) -> float:
    """What multiplies the elements that this delta has alone; it matters only if there are any."""
    *_, count, alone = norms
    if consensus.reward == 0 or alone == 0:
        return 1.0
    return 1 + consensus.reward * min((count - alone) / alone, consensus.most_shared)
