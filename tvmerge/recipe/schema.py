"""The JSON schema of recipes, for editors.

    python -m tvmerge.recipe.schema > docs/recipe.schema.json

Made from the methods' own declarations; what it cannot say (which parameter goes with which method)
is left to the recipe's checks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from tvmerge.dtype import TORCH_NAMES
from tvmerge.methods import METHODS, Parameter

_TEXT = {"type": "string", "minLength": 1}


def schema() -> dict[str, Any]:
    """The schema of one document (draft 2020-12)."""
    methods = METHODS.values()
    of_models = {one.name: one for method in methods for one in method.of_models}
    of_merge = of_models | {one.name: one for method in methods for one in method.of_merge}
    layers = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0},
        "minItems": 2,
        "maxItems": 2,
        "description": "The first layer, and the one after the last.",
    }
    shared, own = {"$ref": "#/$defs/parameters"}, {"$ref": "#/$defs/of_a_model"}
    model = {"model": _TEXT, "parameters": own}
    models = _list(_object(model, required=["model"]))
    source = _object(model | {"layer_range": layers}, required=["model"])
    part = {"sources": _list(source), "base_model": _TEXT, "parameters": shared}
    slices = _list(_object(part, required=["sources"]))
    forms = {"models": models, "slices": slices}
    module = _object({**forms, "parameters": shared}) | _one_of(forms)
    forms |= {"modules": {"type": "object", "additionalProperties": module, "minProperties": 1}}
    keys = {
        "name": _TEXT,
        "merge_method": {"enum": list(METHODS)},
        "base_model": _TEXT,
        **forms,
        "parameters": shared,
        "dtype": {"enum": list(TORCH_NAMES.values())},
        "out_dtype": {"enum": list(TORCH_NAMES.values())},
        "tokenizer_source": _TEXT,
        "tokenizer": _object({"source": _TEXT}),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of tvmerge",
        **_object(keys, required=["merge_method"]),
        **_one_of(forms),
        "$defs": {
            "parameters": _parameters(of_merge.values()),
            "of_a_model": _parameters(of_models.values()),
        },
    }


def _object(properties: dict[str, Any], *, required: list[str] | None = None) -> dict[str, Any]:
    said = {"required": required} if required else {}
    return {"type": "object", "properties": properties, "additionalProperties": False, **said}


def _one_of(keys: Iterable[str]) -> dict[str, Any]:
    return {"oneOf": [{"required": [key]} for key in keys]}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def _parameters(parameters: Iterable[Parameter]) -> dict[str, Any]:
    return _object({one.name: _values(one) for one in parameters})


def _values(parameter: Parameter) -> dict[str, Any]:
    least = {} if parameter.least is None else {"minimum": parameter.least}
    scalar = {"type": "boolean" if parameter.kind is bool else "number", **least}
    value = {"anyOf": [scalar, {"type": "array", "items": scalar, "minItems": 2}]}
    filtered = _object({"filter": {"type": ["string", "null"]}, "value": value}, required=["value"])
    default = {} if parameter.default is None else {"default": parameter.default}
    return {"anyOf": [*value["anyOf"], _list(filtered)], **default}


def to_text() -> str:
    """The schema as it is kept in docs/."""
    return json.dumps(schema(), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(to_text())
