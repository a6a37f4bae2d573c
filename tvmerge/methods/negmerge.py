"""NegMerge: of several fine-tunes on one thing, what all of them agree on in sign, averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus
from tvmerge.methods.declaring import Method
from tvmerge.methods.deltas import LAMBDA, WEIGHT, deltas_of

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor


def negmerge(tensor: AssembledTensor) -> Consensus:
    """`base + lambda * u * sum_k w_k d_k / sum_k |w_k|`, d_k = x_k - base.

    Kim et al., "NegMerge", arXiv 2410.05583: u is 1 where all w_k d_k have the same sign, and 0
    where two differ in it or one is 0. The paper's weights are all 1, its tau_merged is
    `u * sum_k d_k / n`, and its model `base - lambda * tau_merged`: a `lambda` below 0 here.
    """
    assert tensor.base is not None
    scale = float(tensor.parameters["lambda"])
    deltas = deltas_of(tensor)
    voters = sum(delta.weight != 0 for delta in deltas)
    return Consensus(tensor.base, deltas, scale, elect=True, least=voters, normalize=True)


NEGMERGE = Method(
    name="negmerge",
    of_models=(WEIGHT,),
    of_merge=(LAMBDA,),
    needs_base=True,
    decision=negmerge,
)
