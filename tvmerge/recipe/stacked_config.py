"""What config.json has to say of a model whose layers were stacked anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvmerge.errors import MismatchError
from tvmerge.plans.assembly import Model
from tvmerge.recipe.layers import Layers

_LISTS = ("layer", "block")  # a list whose key says so has a value for every layer


def stacked_config(
    donor: Model, layers: Layers, origins: Sequence[tuple[Model, int]]
) -> Mapping[tuple[str, ...], Any]:
    """The keys that change; `origins` are the layers of the output, each a model's with its number.

    Raises MismatchError where no key counts the layers, although their number changes.
    """
    depth = layers.depths[layers.main] if layers.main is not None else 0
    own = [(donor.reference, n) for n in range(depth)]
    if [(model.reference, n) for model, n in origins] == own:
        return {}
    changes: dict[tuple[str, ...], Any] = {}
    paths = [path for path, count in layers.config_depths.items() if count == depth]
    if not paths and donor.config and len(origins) != depth:
        raise MismatchError(
            f"{donor.donor.folder / 'config.json'}: no key says that the model has {depth} layers, "
            f"so that none can say that the result has {len(origins)}. Add num_hidden_layers"
        )
    for path in paths:
        if len(origins) != depth:
            changes[path] = len(origins)
        for key, value in _below(donor.config, path[:-1]).items():
            if _is_by_layer(key, value, depth):
                place = (*path[:-1], key)
                changes[place] = [_value(model, place, n, value) for model, n in origins]
    return changes


def _is_by_layer(key: str, value: Any, depth: int) -> bool:
    return isinstance(value, list) and len(value) == depth and any(word in key for word in _LISTS)


def _value(model: Model, place: tuple[str, ...], number: int, donors: Sequence[Any]) -> Any:
    found = _below(model.config, place[:-1]).get(place[-1])
    values = found if isinstance(found, list) else donors
    return values[number] if number < len(values) else donors[number % len(donors)]


def _below(config: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    for key in path:
        value = config.get(key)
        config = value if isinstance(value, dict) else {}
    return config
