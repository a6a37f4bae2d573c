"""RAM+: as RAM, with more of what one model changed alone, the more it shares of the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus
from tvmerge.methods.declaring import Method, Parameter
from tvmerge.methods.ram import EPSILON, ram

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor


def ramplus_tl(tensor: AssembledTensor) -> Consensus:
    """`ram`, each d_k multiplied by `1 + r min(s_k / u_k, alpha)` where model k is alone.

    u_k is the number of elements that k alone changed by more than epsilon, s_k of those that
    others changed too, in this tensor. "Reinforced Agent Merging Plus (tensor-local)", arXiv
    2601.13572, as mergekit 0.1.5 has it.
    """
    r, alpha = (float(tensor.parameters[name]) for name in ("r", "alpha"))
    return replace(ram(tensor), reward=r, most_shared=alpha)


RAMPLUS_TL = Method(
    name="ramplus_tl",
    of_merge=(
        EPSILON,
        Parameter(name="r", kind=float, default=0.1),
        Parameter(name="alpha", kind=float, default=0.2),
    ),
    needs_base=True,
    decision=ramplus_tl,
)
