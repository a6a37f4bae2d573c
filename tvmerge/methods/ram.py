"""RAM: what one model changed alone is added whole, what several changed is averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus, Delta, Keep
from tvmerge.methods.declaring import Method, Parameter

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor


EPSILON = Parameter(name="epsilon", kind=float, default=1e-5, least=0.0)


def ram(tensor: AssembledTensor) -> Consensus:
    """`base + sum_k d_k m_k / max(1, sum_k m_k)`, m_k where |d_k| > epsilon.

    "Reinforced Agent Merging", as mergekit 0.1.5 has it.
    """
    assert tensor.base is not None
    keep = Keep(above=float(tensor.parameters["epsilon"]))
    deltas = tuple(
        Delta(number, 1.0, keep) for number in range(len(tensor.inputs)) if number != tensor.base
    )
    return Consensus(tensor.base, deltas, normalize=True)


RAM = Method(
    name="ram",
    of_merge=(EPSILON,),
    needs_base=True,
    decision=ram,
)
