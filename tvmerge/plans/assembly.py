"""What a recipe comes to: for every output tensor its method, inputs and parameters as resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tvmerge.checkpoints.stored import TURNED, Stored
from tvmerge.checkpoints.tokenizer_files import TokenizerFiles
from tvmerge.files.safetensors import Entry
from tvmerge.plans.sums import Operand, TensorSum


@dataclass(frozen=True, eq=False, slots=True)
class Model:
    """A model that a recipe names: a stored checkpoint, or what an earlier stage makes.

    `donor` is the checkpoint whose config, tokenizer and dtypes it has; `sums` are a stage's, and
    `changes` what its config says other than the donor's, as `tokenizer` is what files say.
    """

    reference: str
    donor: Stored
    entries: Mapping[str, Entry]
    config: Mapping[str, Any]
    sums: Mapping[str, TensorSum] | None = None
    changes: Mapping[tuple[str, ...], Any] = field(default_factory=dict)
    tokenizer: TokenizerFiles | None = None

    def terms(self, name: str) -> Mapping[Operand, Fraction]:
        """A tensor as the sum of stored ones."""
        if self.sums is None:
            return {Operand(self.donor, name): Fraction(1)}
        return self.sums[name].terms

    def alone(self, name: str) -> Operand | None:
        """The stored tensor that a tensor is; None where a stage computes it."""
        return Operand(self.donor, name) if self.sums is None else self.sums[name].alone

    def like(self, name: str) -> Operand:
        """The stored tensor whose shape and dtype a tensor has."""
        return Operand(self.donor, name) if self.sums is None else self.sums[name].like


@dataclass(frozen=True, slots=True)
class AssembledInput:
    """One tensor that goes into another, with the parameters of its model there."""

    model: Model
    tensor: str
    parameters: Mapping[str, float | bool]
    statistics: Operand | None = None  # what is known of it, where its method weighs by that

    @property
    def entry(self) -> Entry:
        """Its shape and dtype."""
        return self.model.entries[self.tensor]

    @property
    def turned(self) -> bool:
        """Whether, as a linear layer's matrix, it lies as (inputs, outputs)."""
        return self.model.config.get("model_type") in TURNED


@dataclass(frozen=True, slots=True)
class AssembledTensor:
    """One tensor of the output: `base` is the number of the base among the inputs, if any.

    `like` gives shape and dtype, and what the result is compared with. `place` is 0 in the first
    layer of its slice, 1 in the last, None outside the layers.
    """

    name: str
    method: str
    place: float | None
    parameters: Mapping[str, float | bool]
    inputs: tuple[AssembledInput, ...]
    base: int | None
    like: Operand


@dataclass(frozen=True, slots=True)
class Assembly:
    """All tensors of a recipe's model, in the order in which they are written.

    `donor` gives companions and, where the tensors are the same, the layout; `config` is what its
    config.json has to say instead, by the path of each key, and `tokenizer` what other files do.
    `passed_over` tells which filters of a lenient recipe match no tensor.
    """

    donor: Stored
    tensors: tuple[AssembledTensor, ...]
    dtype: str | None
    config: Mapping[tuple[str, ...], Any] = field(default_factory=dict)
    tokenizer: TokenizerFiles | None = None
    passed_over: tuple[str, ...] = ()
