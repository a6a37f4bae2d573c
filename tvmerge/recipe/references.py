"""A model as a recipe names it: a text, or the mapping that mergekit has for the same.

`{model: {path: org/name, revision: main}, lora: {path: org/lora}}` is `org/name@main+org/lora`.
"""

from __future__ import annotations

from typing import Any

from tvmerge.files.untrusted import shown
from tvmerge.files.yaml_file import Location
from tvmerge.recipe.reading import Reader

_ARCHITECTURE = "override_architecture"


def read_reference(reader: Reader, value: Any, at: Location) -> str | None:
    """The reference as text, the same for both ways to write it. Notes what is wrong with it."""
    if not isinstance(value, dict):
        return reader.text(value, at)
    named = {key: part for key, part in value.items() if key != _ARCHITECTURE}
    known = reader.mapping(named, at, known=("model", "lora"), required=("model",))
    if value.get(_ARCHITECTURE) is not None:
        what = "unused: tensors are taken by their names, whatever the architecture. Remove it"
        reader.fault((*at, _ARCHITECTURE), what)
    model = _path(reader, known["model"], (*at, "model")) if "model" in known else None
    if known.get("lora") is None:
        return model
    lora = _path(reader, known["lora"], (*at, "lora"))
    return None if model is None or lora is None else f"{model}+{lora}"


def _path(reader: Reader, value: Any, at: Location) -> str | None:
    """A place, with `@` before its revision where it has one."""
    revision = None
    if isinstance(value, dict):
        known = reader.mapping(value, at, known=("path", "revision"), required=("path",))
        if "path" not in known:
            return None
        value, at = known["path"], (*at, "path")
        if known.get("revision") is not None:
            revision = reader.text(known["revision"], (*at[:-1], "revision"))
    path = reader.text(value, at)
    if path is None:
        return None
    if revision is not None and "@" in path:
        reader.fault(at, f"{shown(path)} names a revision already. Keep one of them")
    place = path if revision is None else f"{path}@{revision}"
    if "+" in place:
        reader.fault(
            at,
            f"expected one model without a +, found {shown(place)}. "
            "Name an adapter under `lora`, or write the whole reference as text",
        )
    return place
