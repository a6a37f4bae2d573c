"""Resolves a recipe against its models: for every output tensor the inputs and the parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tvmerge.checkpoints.heads import is_head
from tvmerge.checkpoints.hub import resolve as find_model
from tvmerge.checkpoints.tokenizer_files import TokenizerFiles
from tvmerge.errors import ConfigError, FormatError, MismatchError, StorageError, did_you_mean
from tvmerge.methods import Method
from tvmerge.plans.assembly import AssembledInput, AssembledTensor, Assembly, Model
from tvmerge.plans.sums import Operand
from tvmerge.recipe.aligning import Open, align
from tvmerge.recipe.checking import Checks
from tvmerge.recipe.document import Document, Module, Recipe, Settings, Slice, Source
from tvmerge.recipe.layers import Layers, is_after_layers
from tvmerge.recipe.opening import Find, carrier, open_model, open_vector
from tvmerge.recipe.settings import resolve
from tvmerge.recipe.stacked_config import stacked_config
from tvmerge.recipe.stages import Stages
from tvmerge.recipe.statistics import StatisticsFiles
from tvmerge.recipe.tied import named_in, tie_path, ties_head


def assemble(
    recipe: Recipe,
    *,
    find: Find = find_model,
    listed: int | None = 5,
    threads: int | None = None,
) -> Assembly:
    """What the recipe's last stage is made of; earlier stages are folded into it, or planned.

    Of weights only headers are read, where the tokenizer asks for it the rows of tokens, and
    adapters, which `threads` expand (None: all). Raises ConfigError for what the recipe says of
    tensors and tokens that are not there, MismatchError, which names the first `listed` tensors at
    fault, where the models do not fit together, FormatError where one, or its tokenizer, cannot be
    opened.
    """
    stages = Stages()
    models: dict[str, Model] = {}
    passed_over: list[str] = []
    for document in recipe.documents:
        resolve = partial(_resolved, document, find, listed)
        assembly = stages.into(resolve, _Opener(document, find, threads, stages, models))
        passed_over += assembly.passed_over
        if document.name is not None:
            stages.add(document.name, assembly)
    return replace(assembly, passed_over=tuple(passed_over))


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens what a document names, each of the `models` once for all documents."""

    document: Document
    find: Find
    threads: int | None
    stages: Stages
    models: dict[str, Model]

    def model(self, reference: str) -> Model:
        if reference not in self.models:
            with self._pointed(reference):
                self.models[reference] = open_model(reference, self.find, self.threads)
        return self.models[reference]

    def carrier(self, reference: str) -> str | None:
        with self._pointed(reference):
            return carrier(reference, self.find)

    def added(self, reference: str, onto: Model) -> Model:
        with self._pointed(reference):
            return open_vector(reference, onto, self.find, self.threads)

    @contextlib.contextmanager
    def _pointed(self, reference: str) -> Iterator[None]:
        """An error of opening a model says where the document names it, and a stage it may be."""
        try:
            yield
        except (ConfigError, FormatError, MismatchError, StorageError) as error:
            said = str(error)
            if isinstance(error, FormatError | StorageError):  # it may be what is not there
                hint = did_you_mean(reference, self.stages.names)
                said = f"{said}.{hint}" if hint else said
            # What a vector is put on stands before it.
            begin, named = f"{reference}+", self.document.references
            held = (one for one in named if f"{one}+".startswith(begin))
            place = self.document.place(next(held, reference))
            said = said if place is None else self.document.file.pointed(place, said)
            raise type(error)(said) from error


def _resolved(document: Document, find: Find, listed: int | None, opened: Open) -> Assembly:
    aligned, tokenizer = align(document, opened, find)
    return _Resolver(document, aligned, find, listed).assembly(tokenizer)


@dataclass(frozen=True, slots=True)
class _Part:
    """A slice, its module, and its sources' models."""

    slice: Slice
    module: Module
    models: tuple[Model, ...]
    base: Model | None


class _Resolver:
    def __init__(self, document: Document, opened: Open, find: Find, listed: int | None) -> None:
        self.document, self.opened = document, opened
        self.method: Method = document.method
        first = document.base_model or document.modules[0].slices[0].sources[0].model
        self.donor = opened(first)
        self.layers = Layers(self.donor.entries, self.donor.config)
        self.known: dict[str, Layers] = {}
        self.checks = Checks(document, self.donor, listed)
        self.statistics = StatisticsFiles(document.method, find)
        self.origins: list[tuple[Model, int]] = []
        self.parts = {
            module.at: [self._part(module, one) for one in module.slices]
            for module in document.modules
        }
        self._check_listed([part for parts in self.parts.values() for part in parts])

    def _check_listed(self, parts: Sequence[_Part]) -> None:
        """Raise ConfigError where only the base is listed, and has nothing put on it."""
        if all(self._is_alone(part) and not part.models[0].sums for part in parts):
            at, base = parts[0].slice.at, parts[0].models[0].reference
            what = f"only the base {base} is listed. Add a model tuned from it"
            raise self.document.file.error(at, what)

    def assembly(self, tokenizer: TokenizerFiles | None) -> Assembly:
        tensors = [tensor for module in self.document.modules for tensor in self._module(module)]
        self.checks.faults |= self.statistics.faults(self.document.modules)
        self.checks.raise_faults(tensors)
        config = dict(self.donor.changes) | dict(self._config(tensors))
        return Assembly(
            self.donor.donor,
            tuple(self._in_order(tensors)),
            self.document.output_dtype,
            config,
            tokenizer or self.donor.tokenizer,
            tuple(self.checks.passed_over()),
        )

    def _config(self, tensors: Sequence[AssembledTensor]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if self.origins:
            yield from stacked_config(self.donor, self.layers, self.origins).items()
        heads = [tensor for tensor in tensors if is_head(tensor.name)]
        if any(ties_head(self.donor, tensor.name) for tensor in heads):
            yield tie_path(self.donor), False

    def _in_order(self, tensors: Sequence[AssembledTensor]) -> list[AssembledTensor]:
        """The donor's order; layers that it has not after its own."""
        place = {name: n for n, name in enumerate(self.donor.entries)}
        parts: dict[str, int] = {}
        for name, number in place.items():
            found = self.layers.place(name)
            if found is not None and found.prefix == self.layers.main:
                parts.setdefault(found.suffix, number)
        first = min(parts.values(), default=0)

        def key(tensor: AssembledTensor) -> tuple[int, int, int]:
            found = self.layers.place(tensor.name)
            if found is not None and found.prefix == self.layers.main:
                return first, found.number, parts.get(found.suffix, len(place))
            return place.get(tensor.name, len(place)), 0, 0

        return sorted(tensors, key=key)

    def _module(self, module: Module) -> Iterator[AssembledTensor]:
        parts = self.parts[module.at]
        names = self._names(module, parts)
        if parts[0].slice.whole:
            for name in names:
                yield from self._same_name(parts[0], name)
            return
        prefix = self._stack(module, parts[0])
        for name in names:
            found = self.layers.place(name)
            if found is None or found.prefix != prefix:
                yield from self._same_name(parts[-1 if is_after_layers(name) else 0], name)
        count = 0
        for part in parts:
            yield from self._layers_of(part, prefix, count)
            count += self._length(part, prefix)

    def _part(self, module: Module, one: Slice) -> _Part:
        base = one.base_model or self.document.base_model
        models = tuple(self.opened(source.model) for source in one.sources)
        return _Part(one, module, models, None if base is None else self.opened(base))

    def _names(self, module: Module, parts: Sequence[_Part]) -> list[str]:
        """The names of the module's tensors outside the stacked layers, and of all if whole."""
        names = list(self.donor.entries)
        for part in parts:
            for model in part.models:
                names += [n for n in model.entries if is_head(n) and n not in names]
        if module.name is None:
            return names
        held = [name for name in names if self.checks.module_of(name) == module.name]
        if not held:
            hint = did_you_mean(module.name, {name.split(".")[0] for name in names})
            what = f"no tensor of {self.donor.reference} begins with {module.name}.{hint}"
            raise self.document.file.error(module.at, what)
        return held

    def _stack(self, module: Module, part: _Part) -> str:
        prefix = self.layers.main
        if module.name is not None:
            below = [p for p in self.layers.depths if p.startswith(module.name + ".")]
            prefix = max(below, key=lambda p: self.layers.depths[p], default=None)
        if prefix is None:
            what = f"{self.donor.reference} has no numbered layers. List whole models in `models`"
            raise self.document.file.error(part.slice.at, what)
        return prefix

    def _of(self, model: Model) -> Layers:
        if model.reference not in self.known:
            self.known[model.reference] = Layers(model.entries, model.config)
        return self.known[model.reference]

    def _range(self, model: Model, source: Source, prefix: str) -> range:
        depth = self._of(model).depths.get(prefix, 0)
        first, end = source.layers or (0, depth)
        if end > depth:
            what = f"{source.model} has {depth} layers ({prefix}0 to {depth - 1})"
            at = (*source.at, "layer_range")
            raise self.document.file.error(at, f"{what}, found the end {end}. Lower it")
        return range(first, end)

    def _length(self, part: _Part, prefix: str) -> int:
        return len(self._range(part.models[0], part.slice.sources[0], prefix))

    def _layers_of(self, part: _Part, prefix: str, begin: int) -> Iterator[AssembledTensor]:
        pairs = list(zip(part.models, part.slice.sources, strict=True))
        ranges = [self._range(model, source, prefix) for model, source in pairs]
        length = len(ranges[0])
        if any(len(one) != length for one in ranges):
            counts = ", ".join(str(len(one)) for one in ranges)
            what = f"the sources have {counts} layers. Give all layer_ranges one length"
            raise self.document.file.error(part.slice.at, what)
        for step in range(length):
            place = step / (length - 1) if length > 1 else 1.0
            if prefix == self.layers.main:
                self.origins.append((part.models[0], ranges[0][step]))
            for suffix in self._of(part.models[0]).suffixes(prefix, ranges[0][step]):
                names = [f"{prefix}{one[step]}{suffix}" for one in ranges]
                yield from self._tensor(part, f"{prefix}{begin + step}{suffix}", names, place)

    def _same_name(self, part: _Part, name: str) -> Iterator[AssembledTensor]:
        found = self.layers.place(name)
        place = None
        if found is not None:
            depth = self.layers.depths[found.prefix]
            place = found.number / (depth - 1) if depth > 1 else 1.0
        yield from self._tensor(part, name, [name] * len(part.models), place)

    def _tensor(
        self, part: _Part, name: str, names: Sequence[str], place: float | None
    ) -> Iterator[AssembledTensor]:
        """The tensor, unless no input has it or a fault stands in its way."""
        outer = (part.slice.settings, part.module.settings, self.document.settings)
        inputs, base = self._inputs(part, name, names, place)
        if not inputs or (self.method.needs_base and base is None):
            return
        if self._is_alone(part):
            yield _alone(name, place, inputs[0])
            return
        shared = {one.name: resolve(outer, one, name, place) for one in self.method.of_merge}
        yield self.checks.checked(
            AssembledTensor(
                name=name,
                method=self.method.name,
                place=place,
                parameters={key: value for key, value in shared.items() if value is not None},
                inputs=inputs,
                base=base,
                like=self._like(part, name, inputs, base),
            )
        )

    def _is_alone(self, part: _Part) -> bool:
        """Whether a slice lists nothing but the base that its other slices are merged onto."""
        return self.method.uses_base and part.models == (part.base,)

    def _inputs(
        self, part: _Part, name: str, names: Sequence[str], place: float | None
    ) -> tuple[tuple[AssembledInput, ...], int | None]:
        """The inputs that have the tensor, with their parameters, and which of them is the base."""
        outer = (part.slice.settings, part.module.settings, self.document.settings)
        wanted_base = part.base if self.method.uses_base else None
        inputs: list[AssembledInput] = []
        sources: list[Source] = []
        base: int | None = None
        for model, source, tensor in zip(part.models, part.slice.sources, names, strict=True):
            held = self.checks.held(model, tensor, name)
            if held is None:
                continue
            is_base = model is wanted_base and base is None
            if is_base:
                base = len(inputs)
            levels = (source.settings, *outer)
            values = self._values(levels, source, tensor, place, optional=is_base)
            inputs.append(AssembledInput(model, held, values))
            sources.append(source)
        inputs = self.statistics.given(inputs, sources)
        if wanted_base is not None and base is None:
            held = self.checks.held(wanted_base, names[0], name)
            if held is not None:
                inputs.insert(0, AssembledInput(wanted_base, held, {}))
                base = 0
        return tuple(inputs), base

    def _like(
        self, part: _Part, name: str, inputs: Sequence[AssembledInput], base: int | None
    ) -> Operand:
        """The base's tensor; of models merged whole without one the donor's, else the first."""
        donated = named_in(self.donor, name) if part.slice.whole and base is None else None
        if donated is not None:
            return self.donor.like(donated)
        like = inputs[base or 0]
        return like.model.like(like.tensor)

    def _values(
        self,
        levels: Sequence[Settings],
        source: Source,
        tensor: str,
        place: float | None,
        *,
        optional: bool,
    ) -> dict[str, float | bool]:
        found = {one.name: resolve(levels, one, tensor, place) for one in self.method.of_models}
        for one in self.method.of_models:
            if one.required and found[one.name] is None and not optional:
                self.checks.missing(source, one.name, tensor)
        return {key: value for key, value in found.items() if value is not None}


def _alone(name: str, place: float | None, base: AssembledInput) -> AssembledTensor:
    """A tensor of a slice in which nothing but the base is listed."""
    base = replace(base, parameters={"scale": 1.0})
    like = base.model.like(base.tensor)
    return AssembledTensor(name, "passthrough", place, {}, (base,), None, like)
