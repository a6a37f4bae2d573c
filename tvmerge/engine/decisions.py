"""What is decided of a tensor once its inputs have been measured: plain values until then.

`Consensus` is for deltas of which only some elements take part, `Blend` for linear combinations
whose coefficients depend on norms and angles, `Matrix` for deltas that are merged as whole
matrices. `deciding.py` measures and decides, batch by batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

if TYPE_CHECKING:
    import torch

# A float of a whole tensor, or an array of float64 that has one for each of its lines.
Number: TypeAlias = Any
Gram = Sequence[Sequence[Number]]


@dataclass(frozen=True, slots=True)
class Keep:
    """Which elements of a delta take part; by default all of them.

    Ranks are of |delta|, or of the variance of all deltas; equal ones rank by their place.
    """

    largest: int | None = None  # this many; None: all
    share: float | None = None  # in its place: this share, below 1, of those that are not 0
    but_largest: int = 0  # of which so many of the very largest do not
    of_variance: bool = False
    above: float | None = None  # those of a larger magnitude; in place of ranks
    probability: float = 1.0  # with which each takes part
    # It rises with the rank of a magnitude within its row of so many elements, from `spread` below
    # for the smallest to `spread` above for the largest.
    row: int = 0
    spread: float = 0.0
    key: int = 0  # of the random numbers: see random_key
    rescale: bool = False  # what takes part is scaled up to the L1 norm of the whole delta
    # Those whose |delta|, times how far the softmax of its row of `row` elements went from the
    # base's, is at least the median of these + 1.5 * (their third quartile - their first).
    important: bool = False

    @property
    def ranked(self) -> bool:
        """Whether magnitudes have to be measured."""
        return self.largest is not None or self.share is not None or self.but_largest > 0


@dataclass(frozen=True, slots=True)
class Delta:
    """The difference of input number `source` from the base."""

    source: int
    weight: float
    keep: Keep = Keep()
    limit: float = math.inf  # finite values of a larger magnitude, weighted, are cut down to it
    # Of its magnitude, weighted, in multiples of that of the others' sum: what makes it count.
    threshold: float = 0.0
    marked: bool = False  # for what its method does to some and not to others
    statistic: int | None = None  # the number of what is known of its model beside its weights


_Self = TypeVar("_Self", bound="Displacement")  # typing.Self needs Python 3.11
_Matrix = TypeVar("_Matrix", bound="Matrix")


@dataclass(frozen=True, slots=True)
class Displacement:
    """base + scale * (what becomes of the deltas)."""

    base: int
    deltas: tuple[Delta, ...]
    scale: float = 1.0

    @property
    def is_base(self) -> bool:
        """Whether the result is the base, whatever the deltas are."""
        return self.scale == 0 or all(delta.weight == 0 for delta in self.deltas)

    @property
    def used(self) -> frozenset[int]:
        """The numbers of what is read: an input of weight 0 is not, and may have any shape."""
        return frozenset({self.base, *(delta.source for delta in self.deltas if delta.weight)})

    def renumbered(self: _Self, numbers: Mapping[int, int]) -> _Self:
        """The same of inputs with other numbers; a delta of the base itself is none."""
        base = numbers[self.base]
        deltas = tuple(
            replace(one, source=numbers[one.source])
            for one in self.deltas
            if one.weight and numbers[one.source] != base
        )
        return replace(self, base=base, deltas=deltas)

    @property
    def unscaled(self: _Self) -> _Self:
        """What all scales of it have in common: the same is measured for them."""
        return replace(self, scale=1.0)

    def scaled(self: _Self, by: float) -> _Self:
        """`base + by * (self - base)`."""
        return replace(self, scale=self.scale * by)


@dataclass(frozen=True, slots=True)
class Consensus(Displacement):
    """base + scale * (the deltas' weighted sum), as csrc/core/consensus.hpp has it.

    `elect`: only elements of the sign of the sum take part; with `elect_first` it is the sum before
    weights. `largest`: the largest of what takes part stands for its sum. `least`: the sum is 0
    where fewer deltas take part and reach their `threshold`. `matched`: it is 0 where the one delta
    that is marked does not take part, and over the tensor has the L1 norm of that delta.
    `normalize`: divided by the weights of those that take part. `by_energy`: weights are multiplied
    by each delta's share of the sum of squares of what takes part. `reward`: elements that one
    delta has alone are multiplied by 1 + reward * min(s, most_shared), s being the number of its
    elements that others have too, divided by the number of those that it has alone.
    """

    elect: bool = False
    elect_first: bool = False
    largest: bool = False
    least: int = 0
    matched: bool = False
    normalize: bool = False
    by_energy: bool = False
    reward: float = 0.0
    most_shared: float = math.inf

    @property
    def passes(self) -> int:
        """How often the inputs are read, equal magnitudes at a cut apart."""
        ranked = any(delta.keep.ranked for delta in self.deltas)
        important = any(delta.keep.important for delta in self.deltas)
        return 1 + ranked + self.summed + 2 * important

    @property
    def summed(self) -> bool:
        """Whether what takes part has to be summed or counted."""
        rescaled = any(delta.keep.rescale for delta in self.deltas)
        return self.by_energy or self.reward != 0 or self.matched or rescaled

    def renumbered(self, numbers: Mapping[int, int]) -> Consensus:
        """As every displacement; deltas that are too few to count are none."""
        found = super(Consensus, self).renumbered(numbers)
        voters = sum(delta.marked or not self.matched for delta in found.deltas)
        return replace(found, deltas=()) if voters < self.least else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix(Displacement, ABC):
    """base + scale * (what a method makes of the deltas as matrices): matrices.py, by torch.

    The method sees them as (outputs, inputs) of a linear layer, which is `shape`; `turned`: stored
    the other way round. Where elements alone matter, tensors have any shape: the last dimension is
    columns. `models` counts those too whose delta is none. The statistics that deltas may have are
    numbered on after all that has the tensor's own shape.
    """

    method: ClassVar[str]  # as a recipe names it
    sees_base: ClassVar[bool] = False  # `merged` is then given the base too, before all deltas
    elementwise: ClassVar[bool] = False  # a part of the tensor is merged as within the whole
    shape: tuple[int, int]
    models: int
    turned: bool = False

    @property
    def passes(self) -> int:
        """How often the inputs are read, statistics apart: these are read once."""
        return 2

    @property
    def statistics(self) -> tuple[int, ...]:
        """Their numbers: one for each delta, or none at all."""
        return tuple(one.statistic for one in self.deltas if one.statistic is not None)

    @property
    def statistic_shape(self) -> tuple[int, int]:
        """Of each of the statistics."""
        return self.shape

    def of_part(self: _Matrix, elements: int) -> _Matrix:
        """The same of so many elements, which are one row then."""
        return replace(self, shape=(1, elements))

    def fault(self, statistic: torch.Tensor) -> str | None:
        """What is wrong with finite statistics, if anything is."""
        return None

    @property
    @abstractmethod
    def operations(self) -> float:
        """About how many floating-point operations `merged` takes."""

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """What `merged` holds at most, deltas and result included."""

    @abstractmethod
    def merged(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        """The merged delta; `deltas` are in float64, their weights multiplied in.

        Behind them come the statistics of each, if there are any.
        """


@dataclass(frozen=True, slots=True)
class Lines:
    """Rows or columns of a tensor: element i belongs to line `i // run % count`."""

    run: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend(ABC):
    """sum_k w_k x_k, or base + sum_k w_k (x_k - base), with w from norms and inner products.

    `inputs` are the numbers of what is blended; with `lines` each of these has its own w.
    """

    inputs: tuple[int, ...]
    base: int | None = None
    lines: Lines | None = None
    share: float = 1.0  # of the result; the rest is input number 0

    @property
    def is_base(self) -> bool:
        """Whether the result is the base, whatever the inputs are."""
        return False

    @property
    def passes(self) -> int:
        """How often the inputs are read."""
        return 2

    @property
    def used(self) -> frozenset[int]:
        """The numbers of the inputs that are read."""
        return frozenset({*self.inputs, *(() if self.base is None else (self.base,))})

    @abstractmethod
    def weights(self, gram: Gram) -> Sequence[Number]:
        """One for each of `inputs`; `gram` has their inner products, or those of their deltas.

        What has `lines` is given an array for each product, an element for each line.
        """

    def rows(self, count: int) -> tuple[tuple[float, ...], ...]:
        """What is measured: linear combinations, one coefficient for each of `count` inputs."""
        return tuple(self._expanded([(number, 1.0)], 0.0, count) for number in self.inputs)

    def coefficients(self, gram: Gram, count: int) -> tuple[Number, ...]:
        """One for each of `count` inputs, or an array for each that has one in some line."""
        weights = self.weights(gram)
        whole = self._expanded(list(zip(self.inputs, weights, strict=True)), 1.0, count)
        rest = 1 - self.share
        return tuple(self.share * c + (rest if n == 0 else 0.0) for n, c in enumerate(whole))

    def renumbered(self, numbers: Mapping[int, int]) -> Blend:
        """The same of inputs with other numbers."""
        base = None if self.base is None else numbers[self.base]
        return replace(self, inputs=tuple(numbers[n] for n in self.inputs), base=base)

    @property
    def unscaled(self) -> Blend:
        """What all scales of it have in common: the same is measured for them."""
        return replace(self, share=1.0)

    def scaled(self, by: float) -> Blend:
        """`x_0 + by * (self - x_0)`, x_0 being input number 0."""
        return replace(self, share=self.share * by)

    def _expanded(
        self, weighted: Sequence[tuple[int, Number]], of_base: float, count: int
    ) -> tuple[Number, ...]:
        found: list[Number] = [0.0] * count
        for number, weight in weighted:
            found[number] += weight
        if self.base is not None:
            found[self.base] += of_base - sum(weight for _, weight in weighted)
        return tuple(found)


Decision = Consensus | Blend | Matrix


def random_key(seed: int, tensor: str, source: int) -> int:
    """64 bits that key a tensor's random numbers: other seeds, names or inputs give other ones."""
    text = f"{seed}\0{tensor}\0{source}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
