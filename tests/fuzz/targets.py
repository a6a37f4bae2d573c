"""What is fuzzed: how a case is made, what parses it, and what must hold where it is accepted."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from random import Random

from support import torch_files

from fuzz import documents, sealed
from fuzz.mutation import mutated_bytes, mutated_json
from fuzz.own_folder import own_folder
from tvmerge.checkpoints.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tvmerge.files import torch_file
from tvmerge.files.safetensors import layout, parse_header, read_header, size_in_bytes
from tvmerge.files.shard_index import parse_index
from tvmerge.files.weights import read_rest
from tvmerge.inputs.adapter import read_adapter
from tvmerge.recipe import parse_recipe

NAMED = Path("the.file")  # what parsers of bytes are told that they read


@dataclass(frozen=True, slots=True)
class Target:
    """`make` makes a case from randomness; `parse` says whether it accepts it.

    Refusals may also be TVMergeErrors; whatever else it raises is a failure. `share` is the part of
    all cases that a campaign gives to the target.
    """

    make: Callable[[Random], bytes]
    parse: Callable[[bytes], bool]
    share: float


def _damaged(random: Random, text: bytes) -> bytes:
    """JSON damaged as a tree, as a text, or as both."""
    kind = random.random()
    if kind < 0.75:
        text = mutated_json(random, text)
    return mutated_bytes(random, text) if kind > 0.5 else text


def _make_header(random: Random) -> bytes:
    text, size = documents.header(random)
    damaged = _damaged(random, text)
    size += len(damaged) - len(text)
    if random.random() < 0.05:
        size = random.choice((0, 7, 8, size - 1, size + 1, 2**62))
    return max(size, 0).to_bytes(8, "little") + damaged


def _parse_header(case: bytes) -> bool:
    text, size = case[8:], int.from_bytes(case[:8], "little")
    header = parse_header(NAMED, text, size)
    position = 8 + len(text)
    for entry in header.entries:
        assert entry.begin == position <= entry.end <= size
        position = entry.end
    assert position == size
    assert len({entry.name for entry in header.entries}) == len(header.entries)
    # What is read is written and read again as the same, but for the offset.
    listed = [(entry.name, entry.dtype, entry.shape) for entry in header.entries]
    head, entries, whole = layout(listed, header.metadata)
    again = parse_header(NAMED, head[8:], whole)
    assert sorted(map(repr, again.entries)) == sorted(map(repr, entries))
    assert again.metadata == header.metadata
    return True


def _make_file(random: Random) -> bytes:
    text, size = documents.header(random)
    data = bytes(size - 8 - len(text))
    return mutated_bytes(random, len(text).to_bytes(8, "little") + text + data)


def _parse_file(case: bytes) -> bool:
    path = own_folder() / "weights.safetensors"
    path.write_bytes(case)
    assert read_header(path).size_bytes == len(case)
    return True


def _make_torch(random: Random) -> bytes:
    pickle, storages = documents.torch_pickle(random)
    if random.random() < 0.6:
        pickle = mutated_bytes(random, pickle, documents.TORCH_TOKENS)
    content = torch_files.archive(pickle, storages)
    if random.random() < 0.6:
        content = mutated_bytes(random, content, documents.TORCH_TOKENS)
    return content


def _parse_torch(case: bytes) -> bool:
    path = own_folder() / "pytorch_model.bin"
    path.write_bytes(case)
    header = torch_file.read_header(path)
    for entry in header.entries:
        assert 0 <= entry.begin <= entry.end <= header.size_bytes == len(case)
        assert entry.size_bytes == size_in_bytes(entry.dtype, entry.shape)
    covered = sum(end - begin for begin, end in torch_file.covered(header.entries))
    assert len(read_rest(path)) + covered == len(case)
    # What is read can be written: no name, size or dtype that a safetensors file may not have.
    listed = [(entry.name, entry.dtype, entry.shape) for entry in header.entries]
    head, _, whole = layout(listed, header.metadata)
    assert len(parse_header(NAMED, head[8:], whole).entries) == len(header.entries)
    return True


def _parse_index(case: bytes) -> bool:
    weight_map = parse_index(NAMED, case)
    for name in weight_map.values():
        below = posixpath.normpath("folder/" + name)
        assert below == "folder" or below.startswith("folder/")
    return True


def _make_recipe(random: Random) -> bytes:
    if random.random() < 0.4:
        return mutated_json(random, documents.recipe_in_json(random))
    return mutated_bytes(random, documents.recipe(random), documents.RECIPE_TOKENS)


def _parse_recipe(case: bytes) -> bool:
    recipe = parse_recipe(NAMED, case)
    for document in recipe.documents:
        settings = [document.settings]
        for module in document.modules:
            settings.append(module.settings)
            for part in module.slices:
                assert part.sources
                settings += [part.settings, *(source.settings for source in part.sources)]
        for one in chain.from_iterable(chain.from_iterable(s.values()) for s in settings):
            values = one.value if isinstance(one.value, tuple) else (one.value,)
            assert all(map(math.isfinite, values))
    return True


def _make_adapter(random: Random) -> bytes:
    config, weights = documents.adapter(random)
    if random.random() < 0.5:
        config = _damaged(random, config)
    else:
        length = int.from_bytes(weights[:8], "little")
        head, data = _damaged(random, weights[8 : 8 + length]), weights[8 + length :]
        weights = len(head).to_bytes(8, "little") + head + data
    return len(config).to_bytes(8, "little") + config + weights


def _parse_adapter(case: bytes) -> bool:
    folder, end = own_folder(), 8 + int.from_bytes(case[:8], "little")
    (folder / ADAPTER_CONFIG).write_bytes(case[8:end])
    (folder / ADAPTER_WEIGHTS[0]).write_bytes(case[end:])
    adapter = read_adapter(folder)
    for name, target in adapter.targets.items():
        assert name == target.name
        assert all(one.shape == target.shape for one in (*target.products, *target.saved))
        assert all(math.isfinite(one.scale) for one in target.products)
    return True


TARGETS = {
    "header": Target(_make_header, _parse_header, 0.45),
    "index": Target(lambda r: _damaged(r, documents.index(r)), _parse_index, 0.20),
    "file": Target(_make_file, _parse_file, 0.05),
    "torch": Target(_make_torch, _parse_torch, 0.05),
    "adapter": Target(_make_adapter, _parse_adapter, 0.05),
    "receipt": Target(sealed.make_receipt, sealed.parse_sound_receipt, 0.10),
    "journal": Target(sealed.make_journal, sealed.parse_journal, 0.05),
    "recipe": Target(_make_recipe, _parse_recipe, 0.05),
}
