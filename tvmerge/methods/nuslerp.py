"""Spherical interpolation of two models or task vectors by their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvmerge.errors import ConfigError
from tvmerge.methods.by_line import columns_of, rows_of
from tvmerge.methods.declaring import Method
from tvmerge.methods.deltas import WEIGHT, switch
from tvmerge.methods.slerp import Slerp

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor

# sin(angle) of less than 1e-8 counts as parallel; cos(angle) is then 1 in float64.
_PARALLEL = 1 - 1e-15


def nuslerp(tensor: AssembledTensor) -> Slerp:
    """`slerp` at `t = w_1 / (w_0 + w_1)`: of the models, or with a base of their deltas from it.

    Of whole tensors; with `nuslerp_flatten: false` of each row, along the last dimension, and with
    `nuslerp_row_wise: true` of each column, along the first one. Goddard et al., mergekit:
    "NuSLERP".
    """
    whole, across = (bool(tensor.parameters[n]) for n in ("nuslerp_flatten", "nuslerp_row_wise"))
    if whole and across:
        raise ConfigError(
            f"{tensor.name}: nuslerp_row_wise has no effect on whole tensors. Set nuslerp_flatten "
            "to false, or leave it out"
        )
    numbers = tuple(n for n in range(len(tensor.inputs)) if n != tensor.base)
    first, second = (float(tensor.inputs[n].parameters["weight"]) for n in numbers)
    if first + second == 0:
        raise ConfigError(f"{tensor.name}: the two weights sum to 0. Change one of them")
    return Slerp(
        inputs=numbers,
        base=tensor.base,
        lines=None if whole else columns_of(tensor) if across else rows_of(tensor),
        t=second / (first + second),
        nearly_parallel=_PARALLEL,
    )


NUSLERP = Method(
    name="nuslerp",
    of_models=(WEIGHT,),
    of_merge=(
        switch("nuslerp_row_wise", default=False),
        switch("nuslerp_flatten", default=True),
    ),
    fewest_models=2,
    most_models=2,
    may_have_base=True,
    decision=nuslerp,
)
