"""What a merge is to write: the variants, the donor of their layout, the dtype."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tvmerge.plan import Coefficients, Plan, plan_checkpoint, plan_vector
from tvmerge.receipt import RecipeText
from tvmerge.stored import Stored

MODEL = "model"
VECTOR = "vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One result of an order: its folder below the destination ("": the destination itself)."""

    coefficients: Coefficients
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be written: models or task vectors, all of one donor's layout."""

    kind: str  # MODEL or VECTOR, which also begins the names of the files
    donor: Stored
    variants: tuple[Variant, ...]
    dtype: str | None = None
    recipe: RecipeText | None = None  # that it was read from

    @property
    def inputs(self) -> tuple[Stored, ...]:
        """The donor and all inputs of all variants."""
        terms = (stored for variant in self.variants for stored in variant.coefficients)
        return tuple(dict.fromkeys((self.donor, *terms)))

    def plan(self) -> Plan:
        """The jobs; raises what `plan_checkpoint` and `plan_vector` raise."""
        planned = plan_checkpoint if self.kind == MODEL else plan_vector
        variants = [variant.coefficients for variant in self.variants]
        return planned(variants, self.donor, dtype=self.dtype)

    def files(self, plan: Plan) -> list[str]:
        """The output files in the order of their numbers, relative to the destination."""
        return [
            os.path.join(variant.name, shard.name)  # noqa: PTH118 (no "./" for an empty name)
            for variant in self.variants
            for shard in plan.shards
        ]
