"""A model that is assembled tensor by tensor: what a recipe with filters or slices makes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from tvmerge.algebra.expression import Model
from tvmerge.checkpoints.stored import Stored
from tvmerge.checkpoints.tokenizer_files import TokenizerFiles
from tvmerge.merging.merge import save_checkpoint
from tvmerge.merging.report import MergeReport
from tvmerge.plans.plan import plan_checkpoint
from tvmerge.plans.sums import TensorSums


class Assembled(Model):
    """A sum for every tensor; `config` is what config.json has to say other than the donor's.

    `tokenizer` are files in place of the donor's.
    """

    __slots__ = ("_config", "_sums", "_tokenizer")
    _plan = staticmethod(plan_checkpoint)

    def __init__(
        self,
        sums: TensorSums,
        donor: Stored,
        config: Mapping[tuple[str, ...], Any],
        tokenizer: TokenizerFiles | None = None,
    ) -> None:
        self._sums, self._donor, self._config, self._tokenizer = sums, donor, config, tokenizer

    @property
    def weighting(self) -> TensorSums:
        """The sums, in the order in which their tensors are written."""
        return self._sums

    @property
    def config(self) -> Mapping[tuple[str, ...], Any]:
        """The changed keys of config.json, by their paths."""
        return self._config

    @property
    def tokenizer(self) -> TokenizerFiles | None:
        """The files in place of the donor's."""
        return self._tokenizer

    def at_scale(self, scale: Fraction) -> TensorSums:
        """Every tensor counted from the one that it is like: `like + scale * (self - like)`."""
        return TensorSums(tuple(tensor.scaled(scale) for tensor in self._sums.tensors))

    def _run(
        self, sums: TensorSums, donor: Stored, out: str | os.PathLike[str], **more: Any
    ) -> MergeReport:
        return save_checkpoint(
            sums, donor, out, config=self._config, tokenizer=self._tokenizer, **more
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._sums.tensors)} tensors>"
