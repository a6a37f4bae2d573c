"""Opens what a recipe names: stored checkpoints, and what its earlier stages make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvmerge.algebra import Checkpoint
from tvmerge.assembly import Assembly, Model
from tvmerge.recipe.folding import sums_of
from tvmerge.stored import read_config

Find = Callable[[str], Path]  # the place of a model by what people call it


def open_model(reference: str, find: Find) -> Model:
    """The checkpoint that a recipe names; only headers are read."""
    stored = replace(Checkpoint(find(reference)).donor, given=reference)
    entries = {name: slot.entry for name, slot in stored.slots.items()}
    return Model(reference, stored, entries, read_config(stored.folder))


def stage_model(name: str, assembly: Assembly) -> Model:
    """What an earlier stage makes, as a model that later ones may name."""
    sums = {one.name: one for one in sums_of(assembly).tensors}
    entries = {one.name: one.like.slot.entry._replace(name=one.name) for one in sums.values()}
    config = dict(read_config(assembly.donor.folder))
    for path, value in assembly.config.items():
        if len(path) == 1:
            config[path[0]] = value
        else:
            config[path[0]] = _with(config.get(path[0], {}), path[1:], value)
    return Model(name, assembly.donor, entries, config, sums, assembly.config)


def _with(content: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    below = value if len(path) == 1 else _with(content.get(path[0], {}), path[1:], value)
    return {**content, path[0]: below}
