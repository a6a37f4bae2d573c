"""Whether anything came of a merge: one that changes nothing is an error, not a success."""

from __future__ import annotations

import os
from pathlib import Path

from tvmerge.engine.edit import is_swallowed
from tvmerge.errors import NothingChangedError
from tvmerge.merging.order import VECTOR, Order, Variant
from tvmerge.plans.outcome import Outcome
from tvmerge.plans.sums import TensorSums, Weighting


def judge(out: Path, order: Order, variant: Variant, outcome: Outcome) -> None:
    """Raise NothingChangedError where an edit was asked for and next to nothing came of it."""
    if variant.weighting == {order.donor: 1.0} or not outcome.combined_elements:
        return
    sums = variant.weighting
    if isinstance(sums, TensorSums) and not sums.keeps_layout_of(order.donor):
        return  # other layers are a change, whatever became of the edit
    edit = outcome.edit
    if order.kind == VECTOR:
        if edit.changed == 0:
            raise NothingChangedError(
                f"{out}: the task vector is zero everywhere: the checkpoints are the same. "
                "Was the fine-tune saved under another name?"
            )
        return
    advice = (
        "raise the scale, or keep the result in float32 (--dtype float32; in a recipe "
        "dtype: float32)"
    )
    if edit.changed == 0:
        raise NothingChangedError(
            f"{out}: the result is {_base(order, sums)} again, bit for bit: the edit is zero, or "
            f"too small for the dtype. Compare the inputs with `tvmerge diff`, {advice}"
        )
    if is_swallowed(edit):
        raise NothingChangedError(
            f"{out}: rounding swallows the edit: of {edit.intended:,} elements that it should "
            f"change, {edit.lost:,} ({edit.lost_share:.2%}) stay as they are in "
            f"{_base(order, sums)}. The edit is too small for the dtype: {advice}"
        )


def _base(order: Order, sums: Weighting) -> str:
    """What the result is compared with: the donor, or a stage."""
    like = sums.tensors[0].like.stored if isinstance(sums, TensorSums) else order.donor
    return os.fspath(order.donor.source) if like.leaves == (like,) else f"the stage {like.given}"
