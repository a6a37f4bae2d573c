"""Finds a model's layers in the names of its tensors: numbers between dots, `model.layers.3.mlp`.

No table of architectures: what lies before the first number names a stack, what follows it a part
of a layer. A model may have several stacks (a vision tower, an encoder and a decoder).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvmerge.checkpoints.heads import is_embedding, is_head
from tvmerge.files.safetensors import Entry

_NUMBER = re.compile(r"(?:^|\.)(\d{1,9})\.")
_DEPTH_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
_MOST_NESTED = 3
# Of a tensor outside the layers: what comes after them. All else comes before.
_AFTER = re.compile(r"(^|\.)(lm_head|embed_out|output|score|classifier|\w*head|ln_f|\w*norm\w*)\.")


@dataclass(frozen=True, slots=True)
class LayerTensor:
    """A tensor's place in a stack: `prefix` + the number of its layer + `suffix` is its name."""

    prefix: str
    number: int
    suffix: str


def split(name: str) -> LayerTensor | None:
    """The layer that a tensor is in; None where its name has no number."""
    match = _NUMBER.search(name)
    if match is None:
        return None
    return LayerTensor(name[: match.start(1)], int(match[1]), name[match.end(1) :])


def is_after_layers(name: str) -> bool:
    """Whether a tensor outside the layers is used after them (a norm, a head)."""
    return _AFTER.search(name) is not None and "emb" not in name.replace("embed_out", "")


def is_by_token(name: str) -> bool:
    """Whether the tensor has a row for every token: embeddings, heads and heads' biases."""
    if split(name) is not None:
        return False
    return is_embedding(name) or is_head(re.sub(r"\.bias$", ".weight", name))


@dataclass(frozen=True)
class Layers:
    """The stacks of one model, and which of them its config and `layer_range` speak of."""

    entries: Mapping[str, Entry]
    config: Mapping[str, Any]

    @cached_property
    def depths(self) -> Mapping[str, int]:
        """The number of layers of every stack that is numbered without gaps, by its prefix."""
        numbers: dict[str, set[int]] = defaultdict(set)
        for name in self.entries:
            place = split(name)
            if place is not None:
                numbers[place.prefix].add(place.number)
        return {
            prefix: len(found) for prefix, found in numbers.items() if max(found) + 1 == len(found)
        }

    @cached_property
    def main(self) -> str | None:
        """The prefix of the stack that the config counts, or of the one with most elements."""
        sizes = dict.fromkeys(self.depths, 0)
        for name, entry in self.entries.items():
            place = split(name)
            if place is not None and place.prefix in sizes:
                sizes[place.prefix] += entry.elements
        counted = [prefix for prefix in sizes if self.depths[prefix] in self.config_depths.values()]
        return max(counted or sizes, key=lambda prefix: sizes[prefix], default=None)

    @cached_property
    def config_depths(self) -> Mapping[tuple[str, ...], int]:
        """The keys of the config that count layers, by their paths."""
        return dict(_depths(self.config, ()))

    def place(self, name: str) -> LayerTensor | None:
        """A tensor's place in a stack, None outside the stacks."""
        found = split(name)
        return found if found is not None and found.prefix in self.depths else None

    def suffixes(self, prefix: str, number: int) -> list[str]:
        """The parts of one layer, in the order of their files."""
        return self._parts.get((prefix, number), [])

    @cached_property
    def _parts(self) -> Mapping[tuple[str, int], list[str]]:
        parts: dict[tuple[str, int], list[str]] = defaultdict(list)
        for name in self.entries:
            place = split(name)
            if place is not None:
                parts[place.prefix, place.number].append(place.suffix)
        return parts


def _depths(config: Mapping[str, Any], path: tuple[str, ...]) -> list[tuple[tuple[str, ...], int]]:
    found = [((*path, key), config[key]) for key in _DEPTH_KEYS if type(config.get(key)) is int]
    if len(path) < _MOST_NESTED:
        for key, value in config.items():
            if isinstance(value, dict):
                found += _depths(value, (*path, key))
    return found
