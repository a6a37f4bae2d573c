"""TIES: the largest elements of each delta, of those the ones that agree in sign, averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus, Keep
from tvmerge.methods.deltas import consensus_of, elements_of, masking, share

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledInput, AssembledTensor


def ties(tensor: AssembledTensor) -> Consensus:
    """`base + lambda * sum_k w_k d_k m_k e_k / sum_k |w_k| m_k e_k`, d_k = x_k - base.

    Yadav et al., "TIES-Merging", arXiv 2306.01708. m_k keeps the `density` largest |d_k| of the
    tensor exactly, equal ones by their place; e_k those w_k d_k whose sign is that of
    sum_k w_k d_k m_k (0: positive). Weights count by their magnitude in the divisor, so that
    negative ones subtract.
    """

    def keep(one: AssembledInput, _number: int) -> Keep:
        density = float(one.parameters["density"])
        largest = None if density >= 1 else share(density, elements_of(tensor))
        return Keep(largest=largest, rescale=bool(tensor.parameters["rescale"]) and density < 1)

    return consensus_of(tensor, keep, elect=True)


TIES = masking("ties", ties, normalize=True, rescale=False)
