"""SCE: the elements in which models differ most, weighted by energy, agreeing in sign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus, Delta, Keep
from tvmerge.methods.declaring import Method, fraction

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor


def sce(tensor: AssembledTensor) -> Consensus:
    """`base + sum_k w_k d_k m e_k / sum_k w_k m e_k`, w_k the share of (d_k m)^2 in all of them.

    Wan et al., "FuseChat", arXiv 2408.07990: Select by variance (m: of the elements whose deltas
    vary, the `select_topk` share that varies most), Calculate weights, Erase what is against the
    sign of sum_k d_k m.
    """
    assert tensor.base is not None
    topk = float(tensor.parameters["select_topk"])
    others = [number for number in range(len(tensor.inputs)) if number != tensor.base]
    selects = topk < 1 and len(others) > 1  # one model's delta does not vary
    keep = Keep(share=topk, of_variance=True) if selects else Keep()
    deltas = tuple(Delta(number, 1.0, keep) for number in others)
    return Consensus(
        tensor.base, deltas, elect=True, elect_first=True, normalize=True, by_energy=True
    )


SCE = Method(
    name="sce",
    of_merge=(fraction("select_topk", default=1.0),),
    needs_base=True,
    decision=sce,
)
