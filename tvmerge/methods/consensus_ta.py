"""Consensus Task Arithmetic: of the sum of deltas, the elements that matter to several models."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus
from tvmerge.errors import ConfigError
from tvmerge.methods.declaring import Method, Parameter
from tvmerge.methods.deltas import LAMBDA, WEIGHT, deltas_of

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor

# The authors choose each task's of 0.2, 0.3, 0.4, 0.5 and 0.6 by its validation set.
MASK_LAMBDA = Parameter(name="mask_lambda", kind=float, default=0.4, least=0.0)


def consensus_ta(tensor: AssembledTensor) -> Consensus:
    """`base + lambda * s m`, s = sum_k t_k, t_k = w_k (x_k - base), m where `sum_k m_k >= k`.

    m_k is 1 where `|t_k| >= mask_lambda_k |s - t_k|` and t_k is not 0 (TALL masks). Wang et al.,
    "Localizing Task Information for Improved Model Merging and Compression", arXiv 2405.07813,
    whose weights are all 1 and whose k is 2: an element of one model alone is "selfish", one of
    none "catastrophic". The authors' code has > for >=.
    """
    assert tensor.base is not None
    deltas = tuple(
        replace(delta, threshold=float(tensor.inputs[delta.source].parameters["mask_lambda"]))
        for delta in deltas_of(tensor)
    )
    k = float(tensor.parameters["k"])
    if k > len(deltas):
        raise ConfigError(
            f"{tensor.name}: k is how many models have to need an element: expected at most "
            f"{len(deltas)}, the number of models, found {k:g}. Lower k"
        )
    scale = float(tensor.parameters["lambda"])
    return Consensus(tensor.base, deltas, scale, least=math.ceil(k))


CONSENSUS_TA = Method(
    name="consensus_ta",
    of_models=(WEIGHT, MASK_LAMBDA),
    of_merge=(LAMBDA, Parameter(name="k", kind=float, default=2.0, least=0.0)),
    needs_base=True,
    decision=consensus_ta,
)
