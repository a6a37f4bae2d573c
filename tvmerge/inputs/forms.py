"""How a compressed task vector is stored: `bf16`, `int8`, `topk=0.1`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvmerge.errors import ConfigError
from tvmerge.files.dtype import TORCH_NAMES, parse_dtype

INT8, TOP_K = "int8", "topk"


@dataclass(frozen=True, slots=True)
class Form:
    """A dtype (its safetensors code), INT8, or the `share` of largest elements of each tensor."""

    name: str
    share: float = 1.0

    @property
    def is_packed(self) -> bool:
        """Whether tensors lie in parts, which have to be expanded when they are read."""
        return self.name in (INT8, TOP_K)

    def largest(self, elements: int) -> int:
        """How many of so many elements are kept: at least one."""
        return max(1, int(self.share * elements))

    def __str__(self) -> str:
        return f"{self.name}={self.share!r}" if self.name == TOP_K else self.name.lower()


def parse_form(text: str) -> Form:
    """The form that `text` names; raises ConfigError where it names none."""
    name, _, number = text.partition("=")
    if text == INT8:
        return Form(INT8)
    if name == TOP_K:
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not 0 < share < 1:
            raise ConfigError(f"{text!r}: expected topk=SHARE with a share between 0 and 1")
        return Form(TOP_K, share)
    try:
        return Form(parse_dtype(text))
    except ConfigError as error:
        known = ", ".join([*map(str.lower, TORCH_NAMES), INT8, f"{TOP_K}=SHARE"])
        raise ConfigError(f"{text!r}: expected one of {known}") from error
