"""What a merge is to write: the variants, the donor of their layout, the dtype."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvmerge.checkpoints.stored import Stored
from tvmerge.checkpoints.tokenizer_files import TokenizerFiles
from tvmerge.merging.output import find_companions
from tvmerge.plans.plan import Plan, plan_checkpoint, plan_vector
from tvmerge.plans.sums import TensorSums, Weighting, inputs_of
from tvmerge.receipts.receipt import RecipeText

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
    tokenizer: TokenizerFiles | None = None  # in place of the donor's

    @property
    def inputs(self) -> tuple[Stored, ...]:
        """The donor and all inputs of all variants, and those that the tokenizer was made of.

        For a stage it is those that the stage is made of.
        """
        terms = (stored for variant in self.variants for stored in inputs_of(variant.weighting))
        found = (self.donor, *terms, *self.beside)
        return tuple(dict.fromkeys(leaf for stored in found for leaf in stored.leaves))

    @property
    def beside(self) -> tuple[Stored, ...]:
        """What was read for the tokenizer."""
        return () if self.tokenizer is None else self.tokenizer.read

    @property
    def companions(self) -> list[Path]:
        """The donor's files that are copied; raises as find_companions does."""
        found = find_companions(self.donor)
        if self.tokenizer is None:
            return found
        return [name for name in found if not self.tokenizer.replaces(name)]

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
