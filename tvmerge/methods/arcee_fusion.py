"""Arcee Fusion: of another model, the elements that matter most in how rows are shared out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus, Delta, Keep
from tvmerge.methods.declaring import Method

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor


def arcee_fusion(tensor: AssembledTensor) -> Consensus:
    """`base + d m`, m where `s_i >= median(s) + 1.5 * (q3(s) - q1(s))`, `s_i = |d_i| * KL(p || q)`.

    p and q are the softmaxes of the element's row (along the last dimension) in the model and in
    the base, 1e-8 added to both; q1, the median and q3 are the elements of ranks `n - 1` times 1/4,
    1/2 and 3/4, rounded down. Arcee, "Arcee Fusion", as mergekit 0.1.5 has it: there above a
    million elements the ranks are those of a random sample.
    """
    assert tensor.base is not None
    (other,) = (number for number in range(len(tensor.inputs)) if number != tensor.base)
    shape = tensor.like.slot.entry.shape
    row = shape[-1] if shape else 1
    # All rows of one are shared out alike, and all of 0 is not less than 0.
    keep = Keep(row=row, important=True) if row > 1 else Keep()
    return Consensus(tensor.base, (Delta(other, 1.0, keep),))


ARCEE_FUSION = Method(
    name="arcee_fusion",
    needs_base=True,
    most_models=1,
    decision=arcee_fusion,
)
