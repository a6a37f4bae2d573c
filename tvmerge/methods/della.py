"""DELLA: a random share of each delta's elements, more of the larger ones of each row."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus, Keep, random_key
from tvmerge.errors import ConfigError
from tvmerge.methods.declaring import Method, Parameter
from tvmerge.methods.deltas import SEED, consensus_of, masking

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledInput, AssembledTensor


def della(tensor: AssembledTensor, *, elect: bool) -> Consensus:
    """`base + lambda * sum_k w_k g_k d_k m_k`, m_k true with probability p_k.

    Deep et al., "DELLA-Merging", arXiv 2406.11617. Within each row (along the last dimension)
    p_k = density - epsilon + 2 epsilon rank / (n - 1), the rank of |d_k| being 0 for the smallest;
    of equal ones the first is the largest, as everywhere here, and a row of one has the density.
    Random numbers and g_k (`rescale`) are as in DARE. With `elect` as in TIES, only elements that
    agree in sign take part.
    """
    shape = tensor.like.slot.entry.shape

    def keep(one: AssembledInput, number: int) -> Keep:
        density, epsilon = (float(one.parameters[name]) for name in ("density", "epsilon"))
        if density >= 1:
            return Keep()
        if density == 0:
            return Keep(probability=0.0)
        if density - epsilon <= 0 or density + epsilon >= 1:
            raise ConfigError(
                f"{tensor.name}: density - epsilon and density + epsilon are {density - epsilon:g} "
                f"and {density + epsilon:g} for {one.model.reference}, and must lie between 0 and "
                "1. Lower epsilon"
            )
        return Keep(
            probability=density,
            row=shape[-1] if shape else 1,
            spread=epsilon,
            key=random_key(int(tensor.parameters["seed"]), tensor.name, number),
            rescale=bool(tensor.parameters["rescale"]),
        )

    return consensus_of(tensor, keep, elect=elect)


_EPSILON = Parameter(name="epsilon", kind=float, default=0.15, least=0.0)


def _method(name: str, *, elect: bool) -> Method:
    return masking(
        name,
        partial(della, elect=elect),
        normalize=elect,
        rescale=True,
        of_models=(_EPSILON,),
        of_merge=(SEED,),
    )


DELLA = _method("della", elect=True)
DELLA_LINEAR = _method("della_linear", elect=False)
