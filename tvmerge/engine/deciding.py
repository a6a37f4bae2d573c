"""Measures what a batch's decisions depend on, and decides: measure -> decide -> combine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tvmerge import _core
from tvmerge.engine.blending import blended
from tvmerge.engine.cuts import Cuts, Wanted, cuts_of
from tvmerge.engine.decisions import Blend, Consensus, Decision, Delta, Keep
from tvmerge.engine.jobs import Combine, Job, Result
from tvmerge.engine.matrices import Scratch, with_matrices
from tvmerge.engine.measuring import Engine
from tvmerge.engine.run_options import MIB, Workspace

_ALWAYS = 2**32
_LEAST_NORM = 1e-7
# Of a batch's masks: those of three models of bfloat16 take less.
_MASK_BYTES = 64 * MIB
_Factors = tuple[float, float, float]  # of a delta's values, of its weight, of values alone
_Sums = tuple[float, float, float, int, int]  # csrc/core/consensus.hpp
_UNCHANGED: _Factors = (1.0, 1.0, 1.0)


def decided(
    jobs: Sequence[Job],
    inputs: Mapping[int, str],
    workspace: Workspace,
    scratch: Scratch,
    progress: Callable[[int], None] | None = None,
) -> tuple[tuple[Job, ...], int]:
    """A batch's jobs with every decision made: coefficients, or the engine's own consensus.

    Reads what has to be measured from `inputs` (paths by the plan's numbers), and says how many
    bytes that were. What is merged as matrices is in `scratch` then.
    """
    engine = Engine(inputs, workspace, progress)
    jobs = with_matrices(jobs, engine, scratch)
    held = [
        _Held(n, r, job, result.decision)
        for n, job in enumerate(jobs)
        if isinstance(job, Combine)
        for r, result in enumerate(job.results)
        if isinstance(result.decision, Blend | Consensus)
    ]
    ready = list(jobs)
    made: dict[tuple[int, int], Result] = {}
    blends = [(one, one.decision) for one in held if isinstance(one.decision, Blend)]
    wanted = [(one.job, one.undecided, blend) for one, blend in blends]
    for (one, _), result in zip(blends, blended(wanted, engine), strict=True):
        made[one.number, one.result] = result
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
        job._replace(
            results=tuple(result._replace(decision=None) for result in job.results), beside=()
        )
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


def _agreed(held: Sequence[_Held], engine: Engine) -> Iterator[tuple[_Held, _core.Consensus]]:
    asked = [(one, one.decision) for one in held if isinstance(one.decision, Consensus)]
    measured = {(one.number, consensus.unscaled): one for one, consensus in asked}
    wanted = [(one.job, consensus) for (_, consensus), one in measured.items()]
    cuts = _with_masks(wanted, cuts_of(wanted, engine), engine)
    gains = _gains(wanted, cuts, engine)
    parts = {
        key: list(map(_part, key[1].deltas, limits, factors, _votes(key[1])))
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
                least=consensus.least,
                largest=consensus.largest,
            ),
        )


def _with_masks(wanted: Wanted, cuts: Sequence[Sequence[Cuts]], engine: Engine) -> list[list[Cuts]]:
    """What sums draw is noted for the merge, as far as there is room."""
    masked = [list(held) for held in cuts]
    noted = [
        (n, k, job.elements)
        for n, (job, consensus) in enumerate(wanted)
        if consensus.summed
        for k, delta in enumerate(consensus.deltas)
        if _is_noted(delta.keep, engine)
    ]
    if not noted:
        return masked
    left = engine.take_spare(min(_MASK_BYTES, sum(_mask_bytes(count) for *_, count in noted)))
    for n, k, count in noted:
        if _mask_bytes(count) <= left:
            left -= _mask_bytes(count)
            masked[n][k] = masked[n][k]._replace(mask=_core.DrawnMask(elements=count))
    return masked


def _mask_bytes(elements: int) -> int:
    return elements // 8 + 4  # a bit for each, in whole words


def _is_noted(keep: Keep, engine: Engine) -> bool:
    """Whether drawing costs more than reading what was drawn; cards draw in no time at all."""
    if keep.row:
        return not keep.important  # which draw nothing
    return keep.probability < 1 and not engine.workspace.cards


def _gains(wanted: Wanted, cuts: Sequence[Sequence[Cuts]], engine: Engine) -> list[list[_Factors]]:
    """Per consensus and delta, what multiplies its values and its weight."""
    gains = [[_UNCHANGED] * len(consensus.deltas) for _, consensus in wanted]
    summed = [n for n, (_, consensus) in enumerate(wanted) if consensus.summed]
    jobs = [
        _core.DeltaSumsJob(
            sources=engine.sources(wanted[n][0]),
            elements=wanted[n][0].elements,
            parts=[
                _part(delta, limits, _UNCHANGED)
                for delta, limits in zip(wanted[n][1].deltas, cuts[n], strict=True)
            ],
            counted=wanted[n][1].reward != 0,
            elected=_elected(wanted[n][1]),
        )
        for n in summed
    ]
    for n, norms in zip(summed, engine.run(_core.delta_sums, jobs), strict=True):
        gains[n] = _factors(wanted[n][1], norms)
    return gains


def _votes(consensus: Consensus) -> list[int]:
    return [int(delta.marked or not consensus.matched) for delta in consensus.deltas]


def _elected(consensus: Consensus) -> int:
    """Which delta's norm the consensus is to have; below 0: none's."""
    return _votes(consensus).index(1) if consensus.matched else -1


def _factors(consensus: Consensus, norms: Sequence[_Sums]) -> list[_Factors]:
    if consensus.matched:
        # Of all alike: so neither the election nor what is largest changes.
        whole, found, *_ = norms[_elected(consensus)]
        same = whole / found if 0 < found < math.inf and whole < math.inf else 1.0
        return [(same, 1.0, 1.0)] * len(norms)
    energy = sum(square for _, _, square, _, _ in norms)
    return [
        (
            _gain(norm) if delta.keep.rescale else 1.0,
            _share(norm, energy, len(norms)) if consensus.by_energy else 1.0,
            _rewarded(norm, consensus),
        )
        for delta, norm in zip(consensus.deltas, norms, strict=True)
    ]


def _part(delta: Delta, cuts: Cuts, factors: _Factors, votes: int = 1) -> _core.Part:
    keep = delta.keep
    gain, weight, alone = factors
    least = min(_ALWAYS, round((keep.probability - keep.spread) * _ALWAYS))
    span = 0
    if keep.row and not keep.important:  # 0 and 1 are not among these probabilities
        least = max(1, least)
        span = min(round(2 * keep.spread * _ALWAYS), _ALWAYS - 1 - least)
    return _core.Part(
        source=delta.source,
        weight=delta.weight * weight,
        gain=gain,
        outer=cuts.outer,
        inner=cuts.inner,
        of_variance=keep.of_variance,
        random_below=least,
        random_span=span,
        row=keep.row,
        key=keep.key,
        limit=delta.limit,
        alone=alone,
        factors=cuts.factors,
        threshold=delta.threshold,
        votes=votes,
        mask=cuts.mask,
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
