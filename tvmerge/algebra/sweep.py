"""Several scales of one edit, written from one reading of the inputs.

    sweep(base + (tuned - base), [0.1, 1], "out")  # writes out/scale-0.1 and out/scale-1

Every model is byte for byte what a merge of its own would have written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from numbers import Real

from tvmerge.algebra.assembled import Assembled
from tvmerge.algebra.operands import Checkpoint
from tvmerge.algebra.scaled import weighting_at
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError
from tvmerge.merging.merge import save
from tvmerge.merging.order import MODEL, Order, Variant
from tvmerge.merging.report import MergeReport
from tvmerge.receipts.receipt import RecipeText


def sweep(
    expression: Checkpoint | Assembled,
    scales: Iterable[Real | float],
    out: str | os.PathLike[str],
    *,
    start: Checkpoint | None = None,
    dtype: str | None = None,
    options: RunOptions | None = None,
    recipe: RecipeText | None = None,
) -> tuple[MergeReport, ...]:
    """Write `start + s * (expression - start)` to `out/scale-s` for every scale s.

    `start` is the expression's donor as it is unless given. The folders appear together, or not at
    all; each has a receipt of its own, which repeats `recipe`. Returns a report for every scale, in
    their order.

    Raises ConfigError for no scales, for scales that are not finite or come twice, and where there
    is nothing to scale; everything that Checkpoint.save raises, NothingChangedError also where one
    scale of several is too small.
    """
    by_tensor = isinstance(expression, Assembled)
    if weighting_at(expression, 0, start) == weighting_at(expression, 1, start):
        raise ConfigError(
            "a sweep scales what is added to the tensors that a model starts from, and nothing is "
            "added here: all scales would give the same. Write it once, with `tvmerge merge`"
        )
    variants = tuple(
        Variant(
            weighting=weighting_at(expression, scale, start),
            name=name,
            scale=float(scale) if by_tensor else None,
        )
        for name, scale in _named(scales).items()
    )
    order = Order(
        kind=MODEL,
        donor=expression.donor,
        variants=variants,
        dtype=dtype,
        recipe=recipe,
        config=expression.config if isinstance(expression, Assembled) else {},
        tokenizer=expression.tokenizer if isinstance(expression, Assembled) else None,
    )
    return save(order, out, options or RunOptions())


def _named(scales: Iterable[Real | float]) -> dict[str, Real | float]:
    found: dict[str, Real | float] = {}
    for scale in scales:
        name = folder_name(scale)
        if name in found:
            raise ConfigError(f"scale {float(scale) + 0.0:g} is given twice. Name every scale once")
        found[name] = scale
    if not found:
        raise ConfigError("no scale is given. Give at least one")
    return found


def folder_name(scale: Real | float) -> str:
    """The folder of a scale: `scale-0.1`, `scale-1`, `scale--0.5`; other scales, other names.

    Raises ConfigError where the scale is not finite.
    """
    value = float(scale) + 0.0  # -0 is 0
    if not math.isfinite(value):
        raise ConfigError(f"scale {value}: expected a finite number")
    return f"scale-{str(value).removesuffix('.0')}"
