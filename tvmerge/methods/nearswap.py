"""NearSwap: another model where it is near the base, a step of a fixed size elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus, Delta
from tvmerge.methods.declaring import Method, Parameter

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor

_LEAST_APART = 1e-6


def nearswap(tensor: AssembledTensor) -> Consensus:
    """`base + w d`, `w = min(1, t / max(|d|, 1e-6))`: the delta d cut down to the magnitude t.

    alchemonaut, "QuartetAnemoi-70B-t0.0001" (Hugging Face), as mergekit 0.1.5 has it. A t below
    1e-6 makes the deltas below 1e-6 smaller too; a negative one gives the base.
    """
    assert tensor.base is not None
    (other,) = (number for number in range(len(tensor.inputs)) if number != tensor.base)
    t = max(0.0, float(tensor.parameters["t"]))
    weight = min(1.0, t / _LEAST_APART)
    return Consensus(tensor.base, (Delta(other, weight, limit=t),))


NEARSWAP = Method(
    name="nearswap",
    of_merge=(Parameter(name="t", kind=float, required=True),),
    needs_base=True,
    most_models=1,
    decision=nearswap,
)
