"""Model breadcrumbs: each delta without its smallest and its very largest elements."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tvmerge.decisions import Consensus, Keep
from tvmerge.methods.declaring import Method, Parameter
from tvmerge.methods.deltas import (
    DENSITY,
    INT8_MASK,
    LAMBDA,
    WEIGHT,
    consensus_of,
    elements_of,
    switch,
)

if TYPE_CHECKING:
    from tvmerge.assembly import AssembledInput, AssembledTensor


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


def _method(name: str, *, elect: bool) -> Method:
    return Method(
        name=name,
        of_models=(WEIGHT, DENSITY, Parameter(name="gamma", kind=float, default=0.01, least=0.0)),
        of_merge=(
            LAMBDA,
            switch("normalize", default=False),
            switch("rescale", default=False),
            INT8_MASK,
        ),
        needs_base=True,
        decision=partial(breadcrumbs, elect=elect),
    )


BREADCRUMBS = _method("breadcrumbs", elect=False)
BREADCRUMBS_TIES = _method("breadcrumbs_ties", elect=True)
