"""Parameters in a recipe: numbers, gradients over layers, filters by tensor name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from tvmerge.errors import did_you_mean
from tvmerge.files.untrusted import shown
from tvmerge.files.yaml_file import Location
from tvmerge.methods import NO_EFFECT, Method, Parameter
from tvmerge.recipe.document import Scalar, Setting, Settings
from tvmerge.recipe.reading import Reader


def read_settings(
    reader: Reader, value: Any, at: Location, method: Method, *, of_a_model: bool
) -> Settings:
    """The `parameters` of a model, or of a slice, module or merge."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        reader.fault(at, f"expected keys and values, found {shown(value)}")
        return {}
    allowed = (NO_EFFECT, *method.of_models, *(() if of_a_model else method.of_merge))
    names = {one.name: one for one in allowed}
    found = {}
    for key, content in value.items():
        place = (*at, key)
        if key in names:
            found[key] = tuple(_settings(reader, content, place, names[key]))
        else:
            reader.idle(place, _unknown(str(key), method, names))
    return found


def _unknown(key: str, method: Method, names: Mapping[str, Parameter]) -> str:
    names = {name: one for name, one in names.items() if one is not NO_EFFECT}
    if key in method.parameters:
        return f"{key} is a parameter of the whole merge. Move it to `parameters` there"
    hint = did_you_mean(key, names)
    known = ", ".join(sorted(names)) or "no parameters"
    return f"unknown parameter.{hint} {method.name} takes {known} here"


def _settings(reader: Reader, value: Any, at: Location, parameter: Parameter) -> Iterable[Setting]:
    filtered: list[tuple[Location, Any]] = []
    if isinstance(value, dict):  # one alone, as mergekit takes it
        filtered = [(at, value)]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        filtered = [((*at, number), item) for number, item in enumerate(value)]
    if filtered:
        for place, item in filtered:
            pair = reader.mapping(item, place, known=("filter", "value"), required=("value",))
            if "value" not in pair:
                continue
            text = pair.get("filter")
            if text is not None:
                text = reader.text(text, (*place, "filter"))
            content = _value(reader, pair["value"], (*place, "value"), parameter)
            if content is not None:
                yield Setting(content, None if text == "*" else text, place)
        return
    content = _value(reader, value, at, parameter)
    if content is not None:
        yield Setting(content, None, at)


def _value(
    reader: Reader, value: Any, at: Location, parameter: Parameter
) -> Scalar | tuple[Scalar, ...] | None:
    if not isinstance(value, list):
        return _scalar(reader, value, at, parameter)
    if len(value) < 2:
        what = (
            f"a gradient over layers needs two values or more, found {len(value)}. "
            "Give one number without brackets for all layers"
        )
        if not value:
            reader.fault(at, what)
            return None
        reader.idle(at, what, "mergekit takes it, as --lenient does")
        return _scalar(reader, value[0], (*at, 0), parameter)
    scalars = [_scalar(reader, one, (*at, n), parameter) for n, one in enumerate(value)]
    found = tuple(one for one in scalars if one is not None)
    return found if len(found) == len(value) else None


def _scalar(reader: Reader, value: Any, at: Location, parameter: Parameter) -> Scalar | None:
    found = reader.scalar(value, at, parameter.kind)
    if found is None:
        return None
    least, most = parameter.least, parameter.most
    if least is not None and most is not None and not least <= found <= most:
        hint = f". For {found:g} % write {found / 100:g}" if most == 1 < found <= 100 else ""
        reader.fault(at, f"expected a share from {least:g} to {most:g}, found {found:g}{hint}")
        return None
    if least is not None and found < least:
        reader.fault(at, f"expected {least:g} or more, found {found:g}")
        return None
    return found


def resolve(
    levels: Sequence[Settings], parameter: Parameter, name: str, place: float | None
) -> Scalar | None:
    """A parameter's value for the tensor `name`, at `place` (0 to 1) of its slice's layers, if any.

    Of the levels, and of the settings within each, the first that matches counts. None: nothing
    does, and there is no default.
    """
    for setting in chain.from_iterable(level.get(parameter.name, ()) for level in levels):
        if setting.matches(name):
            return _at(setting.value, place or 0.0)
    return parameter.default


def _at(value: Scalar | tuple[Scalar, ...], place: float) -> Scalar:
    if not isinstance(value, tuple):
        return value
    position = place * (len(value) - 1)
    number = min(int(position), len(value) - 2)
    if isinstance(value[0], bool):
        return value[int(position)]
    share = position - number
    return (1 - share) * value[number] + share * value[number + 1]
