"""What a recipe says of the tokenizer: for now, that it is the base's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvmerge.recipe.reading import Reader
from tvmerge.untrusted import shown

_COPIED = "the base's tokenizer is copied. Remove the key or set it to base"


def check_tokenizer(reader: Reader, content: Mapping[str, Any], base_model: str | None) -> None:
    """Note as faults what would not come out as it is asked for."""
    if content.get("tokenizer_source") is not None:
        at = ("tokenizer_source",)
        if "tokenizer" in content:
            reader.fault(at, "tokenizer is given too. Keep one of them")
        _check_source(reader, content["tokenizer_source"], at, base_model)
    if content.get("tokenizer") is not None:
        known = reader.mapping(
            content["tokenizer"], ("tokenizer",), known=("source", "tokens", "pad_to_multiple_of")
        )
        if "source" in known:
            _check_source(reader, known["source"], ("tokenizer", "source"), base_model)
        for key in ("tokens", "pad_to_multiple_of"):
            if known.get(key) is not None:
                reader.fault(("tokenizer", key), f"not supported yet: {_COPIED}")
    if content.get("chat_template") is not None:
        what = "not supported yet: the base's template is copied; remove the key"
        reader.fault(("chat_template",), what)


def _check_source(reader: Reader, value: Any, at: tuple[str, ...], base_model: str | None) -> None:
    if value != "base" and (value is None or value != base_model):
        reader.fault(at, f"{shown(value)} is not supported yet: {_COPIED}")
