"""A LoRA adapter as peft saves it: what it adds to which tensor of its base.

    delta = scale * B @ A        A: (rank, inputs), B: (outputs, rank)

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1.
Only headers are read here; expanding.py computes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from tvmerge.checkpoints.heads import ties_embedding
from tvmerge.checkpoints.stored import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Stored,
    is_adapter,
    read_config,
)
from tvmerge.errors import FormatError, MismatchError, did_you_mean
from tvmerge.files.safetensors import FLOAT_DTYPES, Entry, Header
from tvmerge.files.untrusted import shown
from tvmerge.files.weights import read_header
from tvmerge.inputs.adapter_config import AdapterConfig, read_adapter_config

PREFIX = "base_model.model."
_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.(?P<kind>weight|bias))?"
)
# What peft wraps around a module whose own tensors it saves.
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save)(?=\.)")
_OTHER = re.compile(r"\.(lora_|token_adapter\.|original_module\.)")
_HEAD = re.compile(r"(^|\.)lm_head\.weight$")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$")
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Product:
    """scale * B @ A, or its transpose: `a` is (rank, inputs...), `b` is (outputs, rank, 1...)."""

    a: Entry
    b: Entry
    scale: float
    transposed: bool

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the delta; a convolution's kernel is part of A."""
        shape = (self.b.shape[0], *self.a.shape[1:])
        return shape[::-1] if self.transposed else shape


@dataclass(frozen=True, slots=True)
class Target:
    """What is added to one tensor of the base.

    `saved` are whole tensors that stand in its place (saved - base is added), `vectors` are added
    as they are, times a number (biases of B).
    """

    name: str
    shape: tuple[int, ...]
    products: tuple[Product, ...] = ()
    saved: tuple[Entry, ...] = ()
    vectors: tuple[tuple[Entry, float], ...] = ()

    def __add__(self, other: Target) -> Target:
        return replace(
            self,
            products=self.products + other.products,
            saved=self.saved + other.saved,
            vectors=self.vectors + other.vectors,
        )


@dataclass(frozen=True)
class Adapter:
    """An adapter's config, its file of weights and that one's header; what it adds to the base.

    `targets` are by tensor of the base.
    """

    folder: Path
    file: Path
    config: AdapterConfig
    header: Header
    targets: Mapping[str, Target]


def adapter_folder(path: Path) -> Path | None:
    """The folder of the adapter that `path` (a folder, or its weights) names; None for others."""
    folder = path.parent if path.name in ADAPTER_WEIGHTS and path.is_file() else path
    return folder.resolve() if is_adapter(folder) else None


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's config and header.

    Raises FormatError for what is no plain LoRA adapter, or damaged; StorageError where reading
    fails.
    """
    config = read_adapter_config(folder)
    file = next((folder / n for n in ADAPTER_WEIGHTS if (folder / n).is_file()), None)
    if file is None:
        raise FormatError(
            f"{folder}: an adapter without {' or '.join(ADAPTER_WEIGHTS)}. Load it with peft and "
            "save it again"
        )
    header = read_header(file)
    targets: dict[str, Target] = {}
    for target in _targets(file, config, header.entries):
        known = targets.get(target.name)
        if known is not None and known.shape != target.shape:
            shapes = f"{list(known.shape)} and {list(target.shape)}"
            _bad(file, f"what is added to {shown(target.name)} has the shapes {shapes}")
        targets[target.name] = target if known is None else known + target
    if not targets:
        _bad(file, "the adapter is empty")
    return Adapter(folder, file, config, header, targets)


def matched(adapter: Adapter, base: Stored) -> Adapter:
    """The adapter with its targets under the names and in the shapes of the base.

    What is added to a head that is the embedding again is added to the embedding, as peft's
    merge_and_unload does. Raises MismatchError that lists what the base does not have, or has in
    another shape.
    """
    problems: list[str] = []
    targets: dict[str, Target] = {}
    for target in adapter.targets.values():
        name = _name_in(base, target)
        slot = None if name is None else base.slots[name]
        if slot is None or name is None:
            near = did_you_mean(target.name, base.slots) if len(problems) < _LISTED else ""
            what = f"{target.name}: in {adapter.folder}, missing in {base.source}.{near}"
            problems.append(what)
        elif slot.entry.shape != target.shape or slot.entry.dtype not in FLOAT_DTYPES:
            problems.append(
                f"{name}: {adapter.folder} adds a matrix of shape {list(target.shape)}, "
                f"{base.source} has {slot.entry.dtype} of shape {list(slot.entry.shape)}"
            )
        else:
            own = replace(target, name=name)
            targets[name] = targets[name] + own if name in targets else own
    if problems:
        _refuse(adapter, problems)
    in_order = {name: targets[name] for name in base.slots if name in targets}
    return replace(adapter, targets=in_order)


def _refuse(adapter: Adapter, problems: list[str]) -> NoReturn:
    left = len(problems) - _LISTED
    more = f"\n  ... and {left} more" if left > 0 else ""
    listed = "\n  ".join(problems[:_LISTED])
    trained = (
        f" ({ADAPTER_CONFIG} names {shown(adapter.config.base)})" if adapter.config.base else ""
    )
    raise MismatchError(
        f"the adapter does not fit the base:\n  {listed}{more}\n"
        f"Use the base that it was trained on{trained}, with the same tokens"
    )


def _name_in(base: Stored, target: Target) -> str | None:
    if target.name in base.slots:
        return target.name
    # A head trained as a module of its own cannot be the embedding as well.
    own = any(".base_layer." not in entry.name for entry in target.saved)
    if own or not _HEAD.search(target.name) or not ties_embedding(read_config(base.folder)):
        return None
    return next(filter(_EMBEDDING.search, base.slots), None)


def _targets(file: Path, config: AdapterConfig, entries: Iterable[Entry]) -> Iterator[Target]:
    factors: dict[tuple[str, bool], dict[str, Entry]] = {}
    for entry in entries:
        if not entry.name.startswith(PREFIX):
            _bad(file, f"tensor {shown(entry.name)}: expected a name that begins with {PREFIX}")
        if entry.dtype not in FLOAT_DTYPES:
            _bad(file, f"tensor {shown(entry.name)} is {entry.dtype}, expected floating-point")
        name = entry.name.removeprefix(PREFIX)
        found = _FACTOR.fullmatch(name)
        if found is not None:
            key = (_WRAPPERS.sub("", found["module"]), found["embedding"] is not None)
            part = found["factor"] + (".bias" if found["kind"] == "bias" else "")
            factors.setdefault(key, {})[part] = entry
        elif _OTHER.search(name):
            _bad(file, f"tensor {shown(entry.name)} is no part of plain LoRA")
        else:
            yield Target(_WRAPPERS.sub("", name), entry.shape, saved=(entry,))
    for (module, embedding), parts in factors.items():
        yield from _of_module(file, config, module, parts, embedding=embedding)


def _of_module(
    file: Path, config: AdapterConfig, module: str, parts: Mapping[str, Entry], *, embedding: bool
) -> Iterator[Target]:
    if not {"A", "B"} <= parts.keys() <= {"A", "B", "B.bias"}:
        _bad(file, f"{shown(module)} has the factors {', '.join(sorted(parts))}, expected A and B")
    a, b, rank = parts["A"], parts["B"], config.rank_of(module)
    kernel = a.shape[2:]
    fits = len(a.shape) >= 2 and a.shape[0] == rank and b.shape[1:2] == (rank,)
    odd = len(b.shape) != len(a.shape) or math.prod(b.shape[2:]) != 1 or (embedding and kernel)
    if not fits or odd:
        _bad(
            file,
            f"{shown(module)}: A has the shape {list(a.shape)} and B {list(b.shape)}, expected "
            f"[{rank}, inputs] and [outputs, {rank}]: {config.path.name} says that the rank is "
            f"{rank}",
        )
    # An embedding's rows are its inputs, whatever the config says of linear modules.
    transposed = embedding or (config.transposed and not kernel)
    product = Product(a, b, config.scale_of(module), transposed)
    yield Target(f"{module}.weight", product.shape, products=(product,))
    if "B.bias" in parts:
        bias = parts["B.bias"]
        yield Target(f"{module}.bias", bias.shape, vectors=((bias, product.scale),))


def _bad(file: Path, what: str) -> NoReturn:
    raise FormatError(f"{file}: {what}. Save the adapter again with peft (save_pretrained)")
