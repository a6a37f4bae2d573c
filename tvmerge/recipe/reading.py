"""Takes YAML values apart; every fault is noted with its place, not the first one alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tvmerge.errors import ConfigError, did_you_mean
from tvmerge.files.dtype import parse_dtype
from tvmerge.files.untrusted import shown
from tvmerge.files.yaml_file import Location

LENIENT = "mergekit passes over it, as --lenient does"
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


class Reader:
    """Reads values of one document; what is wrong with them is in `faults`.

    A `lenient` one takes what mergekit takes and has no use for: that is in `passed_over` then.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        self.faults: list[tuple[Location, str]] = []
        self.passed_over: list[tuple[Location, str]] = []
        self.lenient = lenient

    def fault(self, at: Location, text: str) -> None:
        """Note a fault."""
        self.faults.append((at, text))

    def idle(self, at: Location, text: str, hint: str = LENIENT) -> None:
        """Note what mergekit passes over."""
        if self.lenient:
            self.passed_over.append((at, text))
        else:
            self.fault(at, f"{text}. {hint}")

    def mapping(
        self, value: Any, at: Location, *, known: Iterable[str], required: Iterable[str] = ()
    ) -> Mapping[str, Any]:
        """Keys and values; the keys that are not `known` are left out, and idle."""
        if not isinstance(value, dict):
            self.fault(at, f"expected keys and values, found {shown(value)}")
            return {}
        names = sorted(known)
        for key in value:
            if key not in names:
                hint = did_you_mean(str(key), names)
                self.idle((*at, key), f"unknown key.{hint} Known keys: {', '.join(names)}")
        for key in required:
            if key not in value:
                self.fault((*at, key), f"missing. Add `{key}: ...`")
        return {key: found for key, found in value.items() if key in names}

    def items(self, value: Any, at: Location, what: str) -> list[Any]:
        """A list that holds something; `what` it lacks where it is empty."""
        if not isinstance(value, list):
            self.fault(at, f"expected a list, found {shown(value)}")
            return []
        if not value:
            self.fault(at, f"the list is empty. Add {what}")
        return value

    def text(self, value: Any, at: Location) -> str | None:
        """A text that holds something."""
        if isinstance(value, str) and value:
            return value
        found = "an empty one" if value == "" else shown(value)
        self.fault(at, f"expected text, found {found}")
        return None

    def dtype(self, value: Any, at: Location) -> str | None:
        """The safetensors code of a dtype's name; None where none is named."""
        name = None if value is None else self.text(value, at)
        try:
            return None if name is None else parse_dtype(name)
        except ConfigError as error:
            self.fault(at, str(error))
            return None

    def scalar(self, value: Any, at: Location, kind: type) -> float | bool | None:
        """A finite number, or true or false, which mergekit writes as 1.0 and 0.0."""
        if kind is bool:
            if isinstance(value, bool | int | float) and value in (0, 1):
                return bool(value)
            self.fault(at, f"expected true or false, found {shown(value)}")
            return None
        if isinstance(value, bool):
            self.fault(at, f"expected a number, found {value}")
            return None
        try:  # YAML reads 1e-3 as text
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            percent = _PERCENT.fullmatch(value) if isinstance(value, str) else None
            hint = f". Write {float(percent[1]) / 100:g}" if percent else ""
            self.fault(
                at,
                "expected a number, a list of numbers (a gradient over layers), or a list of "
                f"filter and value; found {shown(value)}{hint}",
            )
            return None
        if not math.isfinite(number):
            self.fault(at, f"expected a finite number, found {number}")
            return None
        return number
