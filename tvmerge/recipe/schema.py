"""The JSON schema of recipes, for editors.

    python -m tvmerge.recipe.schema > docs/recipe.schema.json

Made from the methods' own declarations; what it cannot say (which parameter goes with which method)
is left to the recipe's checks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from tvmerge.files.dtype import TORCH_NAMES
from tvmerge.methods import METHODS, NO_EFFECT, Parameter
from tvmerge.recipe.chat_templates import AUTO, NAMED
from tvmerge.recipe.document import BASE, UNION

_TEXT = {"type": "string", "minLength": 1}
_MODEL = {"$ref": "#/$defs/model"}
# The kinds of parameters: type, least and most.
_KINDS: dict[tuple[type, float | None, float | None], str] = {
    (bool, None, None): "switch",
    (float, None, None): "number",
    (float, 0.0, None): "number_from_0",
    (float, 0.0, 1.0): "share",
}


def schema() -> dict[str, Any]:
    """The schema of one document (draft 2020-12)."""
    methods = METHODS.values()
    of_models = [NO_EFFECT, *(one for method in methods for one in method.of_models)]
    of_merge = [*of_models, *(one for method in methods for one in method.of_merge)]
    layers = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0},
        "minItems": 2,
        "maxItems": 2,
        "description": "The first layer, and the one after the last.",
    }
    shared, own = {"$ref": "#/$defs/parameters"}, {"$ref": "#/$defs/of_a_model"}
    model: dict[str, Any] = {"model": _MODEL, "parameters": own}
    model |= {"statistics": _TEXT | {"description": "Of the model: for fisher and regmean."}}
    models = _list(_object(model, required=["model"]))
    source = _object(model | {"layer_range": layers}, required=["model"])
    part = {"sources": _list(source), "base_model": _MODEL, "parameters": shared}
    slices = _list(_object(part, required=["sources"]))
    forms = {"models": models, "slices": slices}
    module = _object({**forms, "parameters": shared}) | _one_of(forms)
    forms |= {"modules": {"type": "object", "additionalProperties": module, "minProperties": 1}}
    keys = {
        "name": _TEXT,
        "merge_method": {"enum": list(METHODS)},
        "base_model": _MODEL,
        **forms,
        "parameters": shared,
        "dtype": {"enum": list(TORCH_NAMES.values())},
        "out_dtype": {"enum": list(TORCH_NAMES.values())},
        "tokenizer_source": _MODEL | {"examples": [UNION, BASE]},
        "tokenizer": _tokenizer(),
        "chat_template": _TEXT | {"examples": [AUTO, *NAMED]},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of tvmerge",
        **_object(keys, required=["merge_method"]),
        **_one_of(forms),
        "$defs": {
            "model": _reference(),
            "parameters": _parameters(of_merge),
            "of_a_model": _parameters(of_models),
            **_kinds(),
        },
    }


def _reference() -> dict[str, Any]:
    null = {"type": "null"}
    place = _object({"path": _TEXT, "revision": {"anyOf": [_TEXT, null]}}, required=["path"])
    parts = {"model": {"anyOf": [_TEXT, place]}, "lora": {"anyOf": [_TEXT, place, null]}}
    return {"anyOf": [_TEXT, _object(parts, required=["model"])]}


def _tokenizer() -> dict[str, Any]:
    zero = _object({"kind": {"const": "zero"}}, required=["kind"])
    row = {"token": _TEXT, "token_id": {"type": "integer", "minimum": 0}}
    other = {"kind": {"const": "model_token"}, "model": _MODEL, **row}
    model_token = _object(other, required=["kind", "model"]) | _one_of(row)
    source = {"anyOf": [_MODEL, zero, model_token]}
    token = _object({"source": source, "force": {"type": "boolean"}}, required=["source"])
    keys = {
        "source": _MODEL | {"default": UNION, "examples": [UNION, BASE]},
        "tokens": {"type": "object", "additionalProperties": token},
        "pad_to_multiple_of": {"type": "integer", "minimum": 1},
    }
    return _object(keys)


def _object(properties: dict[str, Any], *, required: list[str] | None = None) -> dict[str, Any]:
    said = {"required": required} if required else {}
    return {"type": "object", "properties": properties, "additionalProperties": False, **said}


def _one_of(keys: Iterable[str]) -> dict[str, Any]:
    return {"oneOf": [{"required": [key]} for key in keys]}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def _parameters(parameters: Iterable[Parameter]) -> dict[str, Any]:
    by_name: dict[str, list[Parameter]] = {}
    for one in parameters:
        by_name.setdefault(one.name, []).append(one)
    return _object({name: _setting(same) for name, same in by_name.items()})


def _setting(same: Sequence[Parameter]) -> dict[str, Any]:
    """A parameter of several methods: what any of them takes, with a default that is all theirs."""
    kinds = {_KINDS[one.kind, one.least, one.most] for one in same}
    defaults = {one.default for one in same}
    default = {} if len(defaults) > 1 or defaults == {None} else {"default": same[0].default}
    refs: list[dict[str, Any]] = [{"$ref": f"#/$defs/{kind}"} for kind in sorted(kinds)]
    return (refs[0] if len(refs) == 1 else {"anyOf": refs}) | default


def _kinds() -> dict[str, Any]:
    """What a parameter may be: a value, a gradient over layers, or values with filters."""
    found = {}
    for (kind, least, most), name in _KINDS.items():
        # mergekit writes true and false as 1.0 and 0.0.
        switch = {"enum": [True, False, 1, 0]}
        scalar: dict[str, Any] = switch if kind is bool else {"type": "number"}
        scalar |= {} if least is None else {"minimum": least}
        scalar |= {} if most is None else {"maximum": most}
        value = {"anyOf": [scalar, {"type": "array", "items": scalar, "minItems": 2}]}
        pair = {"filter": {"type": ["string", "null"]}, "value": value}
        filtered = _object(pair, required=["value"])
        found[name] = {"anyOf": [*value["anyOf"], filtered, _list(filtered)]}
    return found


def to_text() -> str:
    """The schema as it is kept in docs/."""
    return json.dumps(schema(), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(to_text())
