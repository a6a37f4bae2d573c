"""EMR-Merging: the largest delta of the elected sign, and of it what has one task's signs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus
from tvmerge.errors import ConfigError
from tvmerge.methods.declaring import Method
from tvmerge.methods.deltas import LAMBDA, WEIGHT, deltas_of, switch

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor


def emr(tensor: AssembledTensor) -> Consensus:
    """`base + lambda * u`, or for the task t `base + lambda * r m u`, d_k = w_k (x_k - base).

    Huang et al., "EMR-Merging", arXiv 2405.17461, whose weights and lambda are 1: u is the largest
    of those d_k whose sign is that of sum_k d_k (0: positive), m is 1 where d_t has that sign, and
    r = `sum |d_t| / sum |m u|` over the tensor; in the paper over all tensors.
    """
    assert tensor.base is not None
    deltas, scale = deltas_of(tensor), float(tensor.parameters["lambda"])
    task = _task(tensor)
    if task is None:
        return Consensus(tensor.base, deltas, scale, elect=True, largest=True)
    own = tuple(replace(delta, marked=delta.source == task) for delta in deltas)
    if not tensor.inputs[task].parameters["weight"]:
        own = ()  # its mask is 0 everywhere
    return Consensus(tensor.base, own, scale, elect=True, largest=True, least=1, matched=True)


def _task(tensor: AssembledTensor) -> int | None:
    found = {
        number: one.model.reference
        for number, one in enumerate(tensor.inputs)
        if number != tensor.base and one.parameters["task"]
    }
    if len(found) > 1:
        raise ConfigError(
            f"{tensor.name}: task is for the model whose task the result is for: expected one "
            f"model at most, found {', '.join(found.values())}. Leave it out for the model of all "
            "tasks"
        )
    return next(iter(found), None)


EMR = Method(
    name="emr",
    of_models=(WEIGHT, switch("task", default=False)),
    of_merge=(LAMBDA,),
    needs_base=True,
    decision=emr,
)
