"""What the methods that merge whole matrices have in common: which tensors, and their algebra."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from tvmerge.engine.decisions import Decision, Delta, Matrix
from tvmerge.methods.declaring import Method, Parameter
from tvmerge.methods.deltas import LAMBDA

if TYPE_CHECKING:
    import torch

    from tvmerge.plans.assembly import AssembledTensor

_M = TypeVar("_M", bound=Matrix)
# Deltas have been rounded to float32 by whoever has saved them: below this share of the largest
# singular value, times the longer side, lies noise (numpy's matrix_rank).
_EPSILON = 2.0**-23


def of_matrices(
    name: str,
    decision: Callable[[AssembledTensor], Decision | None],
    of_merge: tuple[Parameter, ...] = (),
) -> Method:
    """A method for whole tensors; those it decides nothing of get the mean, times `lambda`."""
    return Method(
        name=name,
        of_models=(Parameter(name="weight", kind=float, default=1.0),),
        of_merge=(LAMBDA, *of_merge),
        needs_base=True,
        decision=decision,
        coefficients=mean_of_deltas,
    )


def deltas_of(tensor: AssembledTensor) -> tuple[Delta, ...]:
    """Of all models that take part."""
    return tuple(
        Delta(number, float(one.parameters["weight"]))
        for number, one in enumerate(tensor.inputs)
        if number != tensor.base and one.parameters["weight"]
    )


def mean_of_deltas(tensor: AssembledTensor) -> Sequence[Fraction]:
    """`base + lambda * sum_i w_i (x_i - base) / n`, n of the weights being other than 0."""
    weights = {delta.source: Fraction(delta.weight) for delta in deltas_of(tensor)}
    share = Fraction(tensor.parameters["lambda"]) / max(1, len(weights))
    held = {number: share * weight for number, weight in weights.items()}
    assert tensor.base is not None
    held[tensor.base] = 1 - sum(held.values(), Fraction(0))
    return [held.get(number, Fraction(0)) for number in range(len(tensor.inputs))]


def as_matrix(tensor: AssembledTensor, kind: type[_M], **more: float) -> _M | None:
    """What is decided for a matrix: of a layer, with as many rows and columns as there are models.

    None for what the papers average as well (vectors), and for embeddings and heads.
    """
    assert tensor.base is not None
    deltas, shape = deltas_of(tensor), tensor.like.slot.entry.shape
    if tensor.place is None or len(shape) != 2 or min(shape) < max(1, len(deltas)):
        return None
    turned = tensor.inputs[tensor.base].turned
    rows, columns = reversed(shape) if turned else shape
    return _decided(tensor, kind, (rows, columns), turned=turned, **more)


def as_rows(tensor: AssembledTensor, kind: type[_M], **more: float) -> _M | None:
    """What is decided where elements alone matter: a tensor of any shape, in rows as it lies.

    None for an empty one.
    """
    *outer, columns = tensor.like.slot.entry.shape or (1,)
    rows = math.prod(outer)
    return _decided(tensor, kind, (rows, columns), turned=False, **more) if rows * columns else None


def _decided(
    tensor: AssembledTensor,
    kind: type[_M],
    shape: tuple[int, int],
    *,
    turned: bool,
    **more: float,
) -> _M:
    assert tensor.base is not None
    deltas, scale = deltas_of(tensor), float(tensor.parameters["lambda"])
    return kind(tensor.base, deltas, scale, shape=shape, models=len(deltas), turned=turned, **more)


class Factors(NamedTuple):
    """U (rows, rank), s (rank) and V^T (rank, columns) of a matrix U diag(s) V^T."""

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor


def svd(
    matrix: torch.Tensor,
    most: int | None = None,
    *,
    largest: torch.Tensor | None = None,
    epsilon: float = _EPSILON,
) -> Factors:
    """The singular values that are not 0, the `most` largest of them, with their vectors.

    What counts as 0 is measured by the `largest` singular value: the matrix's own unless given.
    """
    import torch

    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    least = max(matrix.shape) * epsilon * (values[:1].sum() if largest is None else largest)
    rank = int((values > least).sum())
    rank = rank if most is None else min(rank, most)
    # Copies: a part of a tensor keeps all of it in memory.
    return Factors(left[:, :rank].clone(), values[:rank].clone(), right[:rank].clone())


def largest_value(matrix: torch.Tensor) -> torch.Tensor:
    """The largest singular value, by itself."""
    import torch

    found: torch.Tensor = torch.linalg.svdvals(matrix)[0]
    return found


def total(deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum, which is a new tensor."""
    found = deltas[0].clone()
    for delta in deltas[1:]:
        found += delta
    return found


def joined(parts: Sequence[Factors]) -> Factors:
    """Several matrices' factors side by side."""
    import torch

    left, values, right = zip(*parts, strict=True)
    return Factors(torch.cat(left, dim=1), torch.cat(values), torch.cat(right))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with orthonormal columns (or rows) that is nearest to it: P Q^T of P diag(s) Q^T.

    Where its columns depend on each other, P and Q are those of the singular values that are not 0.
    """
    left, _, right = svd(matrix)
    return left @ right


def divided(matrix: torch.Tensor, by: torch.Tensor) -> torch.Tensor | None:
    """`matrix by^-1`, `by` being symmetric and positive definite but for rows of 0; else None.

    Columns of such a row come out as 0. `by` is overwritten: scaled to a diagonal of 1, after which
    it no longer matters how much larger some inputs are than others.
    """
    import torch

    diagonal = by.diagonal().clone()
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    by.mul_(scale).mul_(scale[:, None]).diagonal().fill_(1.0)
    factor, wrong = torch.linalg.cholesky_ex(by)
    if int(wrong):
        return None
    found: torch.Tensor = torch.cholesky_solve((matrix * scale).T, factor).T * scale
    return found.mul_(diagonal > 0)


def svd_operations(rows: int, columns: int) -> float:
    """Of a thin SVD (Golub and Van Loan, Matrix Computations, section 8.6: R-SVD)."""
    short = min(rows, columns)
    return 6.0 * rows * columns * short + 20.0 * short**3
