"""What a merge is to write: the variants, the donor of their layout, the dtype."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tvmerge.plan import Plan, plan_checkpoint, plan_vector
from tvmerge.receipt import RecipeText
from tvmerge.stored import Stored
from tvmerge.sums import TensorSums, Weighting, inputs_of

MODEL = "model"
VECTOR = "vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One result of an order: its folder below the destination ("": the destination itself).

    `scale` is that of a sweep where coefficients of whole models do not tell it.
    """

    weighting: Weighting
    name: str = ""
    scale: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be written: models or task vectors, all of one donor's layout."""

    kind: str  # MODEL or VECTOR, which also begins the names of the files
    donor: Stored
    variants: tuple[Variant, ...]
    dtype: str | None = None
    recipe: RecipeText | None = None  # that it was read from
    # What the donor's config.json has to say instead, by the path of each key.
    config: Mapping[tuple[str, ...], Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Stored, ...]:
        """The donor and all inputs of all variants."""
        terms = (stored for variant in self.variants for stored in inputs_of(variant.weighting))
        return tuple(dict.fromkeys((self.donor, *terms)))

    def plan(self) -> Plan:
        """The jobs; raises what `plan_checkpoint` and `plan_vector` raise."""
        variants = [variant.weighting for variant in self.variants]
        if self.kind == MODEL:
            return plan_checkpoint(variants, self.donor, dtype=self.dtype)
        whole = [weighting for weighting in variants if not isinstance(weighting, TensorSums)]
        return plan_vector(whole, self.donor, dtype=self.dtype)

    def files(self, plan: Plan) -> list[str]:
        """The output files in the order of their numbers, relative to the destination."""
        return [
            os.path.join(variant.name, shard.name)  # noqa: PTH118 (no "./" for an empty name)
            for variant in self.variants
            for shard in plan.shards
        ]
