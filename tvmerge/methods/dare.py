"""DARE: a random share of each delta's elements, scaled up to make up for the others."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus, Keep, random_key
from tvmerge.methods.declaring import Method
from tvmerge.methods.deltas import SEED, consensus_of, masking

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledInput, AssembledTensor


def dare(tensor: AssembledTensor, *, elect: bool) -> Consensus:
    """`base + lambda * sum_k w_k g_k d_k m_k`, m_k true with probability `density`.

    Yu et al., "Language Models are Super Mario", arXiv 2311.03099. Which elements take part depends
    on `seed`, the tensor's name, the model's place and the element, on nothing else. `rescale`: g_k
    keeps the delta's L1 norm (mergekit's way; the paper's 1 / density is its expectation).
    """

    def keep(one: AssembledInput, number: int) -> Keep:
        density = float(one.parameters["density"])
        if density >= 1:
            return Keep()
        key = random_key(int(tensor.parameters["seed"]), tensor.name, number)
        rescale = bool(tensor.parameters["rescale"])
        return Keep(probability=density, key=key, rescale=rescale)

    return consensus_of(tensor, keep, elect=elect)


def _method(name: str, *, elect: bool) -> Method:
    decision = partial(dare, elect=elect)
    return masking(name, decision, normalize=False, rescale=True, of_merge=(SEED,))


DARE_LINEAR = _method("dare_linear", elect=False)
DARE_TIES = _method("dare_ties", elect=True)
