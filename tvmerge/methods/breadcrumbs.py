"""Model breadcrumbs: each delta without its smallest and its very largest elements."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus, Keep
from tvmerge.methods.declaring import Method, fraction
from tvmerge.methods.deltas import consensus_of, elements_of, masking

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledInput, AssembledTensor


def breadcrumbs(tensor: AssembledTensor, *, elect: bool) -> Consensus:
    """`base + lambda * sum_k w_k d_k m_k`, m_k without the `gamma` largest and the smallest |d_k|.

    Davari and Belilovsky, "Model Breadcrumbs", arXiv 2312.06795: `density` of the elements take
    part, those next in magnitude to the share `gamma` that does not.
    """

    def keep(one: AssembledInput, _number: int) -> Keep:
        density, gamma = float(one.parameters["density"]), float(one.parameters["gamma"])
        if density >= 1:
            return Keep()
        elements = elements_of(tensor)
        kept = int(density * elements)
        outliers = min(int(gamma * elements), elements - kept)
        rescale = bool(tensor.parameters["rescale"])
        return Keep(largest=kept + outliers, but_largest=outliers, rescale=rescale)

    return consensus_of(tensor, keep, elect=elect)


_GAMMA = fraction("gamma", default=0.01)


def _method(name: str, *, elect: bool) -> Method:
    decision = partial(breadcrumbs, elect=elect)
    return masking(name, decision, normalize=False, rescale=False, of_models=(_GAMMA,))


BREADCRUMBS = _method("breadcrumbs", elect=False)
BREADCRUMBS_TIES = _method("breadcrumbs_ties", elect=True)
