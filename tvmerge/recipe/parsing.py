"""Reads a recipe file and checks all that can be checked before a model is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tvmerge.errors import ConfigError, did_you_mean
from tvmerge.files.untrusted import shown
from tvmerge.files.yaml_file import Location, YamlFile
from tvmerge.methods import METHODS, Method
from tvmerge.recipe.chat_templates import read_template
from tvmerge.recipe.document import Document, Module, Recipe, Slice, Source
from tvmerge.recipe.reading import Reader
from tvmerge.recipe.references import read_reference
from tvmerge.recipe.settings import read_settings
from tvmerge.recipe.stage_names import check_names, refuse_folders
from tvmerge.recipe.tokenizer import read_vocabulary, strange_models

_KEYS = (
    "name", "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype",
    "out_dtype", "tokenizer", "tokenizer_source", "chat_template",
)  # fmt: skip
_FORMS = ("models", "slices", "modules")


def load_recipe(path: Path, *, lenient: bool = False) -> Recipe:
    """Read and check a YAML recipe; raises ConfigError with file and line of every fault.

    Of a `lenient` one what mergekit passes over is no fault: unknown keys, parameters that a method
    does not take, gradients of one value, and filters that match no tensor.
    The recipe's `passed_over` tells what of it there is, and that of `assemble` which filters.
    """
    recipe = _recipe(path, YamlFile.read_all(path), lenient)
    refuse_folders(recipe.documents)
    return recipe


def parse_recipe(path: Path, text: bytes, *, lenient: bool = False) -> Recipe:
    """As load_recipe, of a text that stands in the file `path`."""
    return _recipe(path, YamlFile.parse_all(path, text), lenient)


def _recipe(path: Path, files: Sequence[YamlFile], lenient: bool) -> Recipe:
    readers = [Reader(lenient=lenient) for _ in files]
    documents = tuple(map(_document, files, readers))
    check_names(documents)
    passed_over = [
        line
        for file, reader in zip(files, readers, strict=True)
        for line in file.all_pointed(reader.passed_over)
    ]
    return Recipe(path, files[0].text, documents, tuple(passed_over))


def _document(file: YamlFile, reader: Reader) -> Document:
    content = reader.mapping(file.content, (), known=_KEYS, required=("merge_method",))
    name = reader.text(content["name"], ("name",)) if "name" in content else None
    base = content.get("base_model")
    base = None if base is None else read_reference(reader, base, ("base_model",))
    method = _method(reader, content)
    dtype = reader.dtype(content.get("dtype"), ("dtype",))
    out_dtype = reader.dtype(content.get("out_dtype"), ("out_dtype",))
    if method is None:
        raise _refusal(file, reader)
    settings = read_settings(
        reader, content.get("parameters"), ("parameters",), method, of_a_model=False
    )
    modules = tuple(_modules(reader, content, method))
    vocabulary = read_vocabulary(reader, content)
    template = read_template(reader, content.get("chat_template"))
    document = Document(
        file, name, method, base, modules, settings, dtype, out_dtype, vocabulary, template,
        reader.lenient,
    )  # fmt: skip
    if not reader.faults:
        reader.faults += _faults(document)
    if reader.faults:
        raise _refusal(file, reader)
    return document


def _refusal(file: YamlFile, reader: Reader) -> ConfigError:
    """Tells what was passed over as well: a fault may have come of it."""
    passed_over = ((at, f"passed over: {what}") for at, what in reader.passed_over)
    return file.errors([*reader.faults, *passed_over])


def _method(reader: Reader, content: Any) -> Method | None:
    if "merge_method" not in content:
        return None
    name = reader.text(content["merge_method"], ("merge_method",))
    if name is None or name in METHODS:
        return None if name is None else METHODS[name]
    hint, exist = did_you_mean(name, METHODS), ", ".join(METHODS)
    what = f"unknown method {shown(name)}.{hint} Methods that exist: {exist}"
    reader.fault(("merge_method",), what)
    return None


def _modules(reader: Reader, content: Any, method: Method) -> Iterator[Module]:
    given = [key for key in _FORMS if key in content]
    if len(given) != 1:
        if given:
            reader.fault((given[1],), f"{given[0]} is given already. Keep one of them")
        else:
            reader.fault(("models",), "missing. Add `models: ...` (or slices, or modules)")
        return
    if given != ["modules"]:
        yield Module(None, tuple(_slices(reader, content, (), method)), {}, ())
        return
    modules = content["modules"]
    if not isinstance(modules, dict) or not modules:
        reader.fault(("modules",), f"expected modules by name, found {shown(modules)}")
        return
    for name, value in modules.items():
        at = ("modules", str(name))
        known = reader.mapping(value, at, known=("models", "slices", "parameters"))
        if ("models" in known) == ("slices" in known):
            reader.fault(at, "expected either models or slices. Add one of them")
            continue
        settings = read_settings(
            reader, known.get("parameters"), (*at, "parameters"), method, of_a_model=False
        )
        # mergekit's name of the only module that most architectures have.
        alone = name == "default" and len(modules) == 1
        slices = tuple(_slices(reader, known, at, method))
        yield Module(None if alone else str(name), slices, settings, at)


def _slices(reader: Reader, content: Any, at: Location, method: Method) -> Iterator[Slice]:
    if "models" in content:
        place = (*at, "models")
        items = reader.items(content["models"], place, "a model")
        sources = [_source(reader, one, (*place, n), method, {}) for n, one in enumerate(items)]
        yield Slice(tuple(s for s in sources if s), True, None, {}, place)
        return
    place = (*at, "slices")
    for number, item in enumerate(reader.items(content["slices"], place, "a slice")):
        here = (*place, number)
        known = reader.mapping(
            item, here, known=("sources", "base_model", "parameters"), required=("sources",)
        )
        base = known.get("base_model")
        base = None if base is None else read_reference(reader, base, (*here, "base_model"))
        settings = read_settings(
            reader, known.get("parameters"), (*here, "parameters"), method, of_a_model=False
        )
        below = (*here, "sources")
        items = reader.items(known["sources"], below, "a source") if "sources" in known else []
        more = {"layer_range": None}
        sources = [_source(reader, one, (*below, n), method, more) for n, one in enumerate(items)]
        yield Slice(tuple(s for s in sources if s), False, base, settings, here)


def _source(
    reader: Reader, value: Any, at: Location, method: Method, more: dict[str, None]
) -> Source | None:
    if method.statistics is not None:
        more = {**more, "statistics": None}
    known = reader.mapping(value, at, known=("model", "parameters", *more), required=("model",))
    at_model = (*at, "model")
    model = read_reference(reader, known["model"], at_model) if "model" in known else None
    settings = read_settings(
        reader, known.get("parameters"), (*at, "parameters"), method, of_a_model=True
    )
    layers = None
    if known.get("layer_range") is not None:
        layers = _layer_range(reader, known["layer_range"], (*at, "layer_range"))
    statistics = None
    if "statistics" in known:
        statistics = reader.text(known["statistics"], (*at, "statistics"))
    return None if model is None else Source(model, layers, settings, at, statistics)


def _layer_range(reader: Reader, value: Any, at: Location) -> tuple[int, int] | None:
    if isinstance(value, list) and len(value) == 2 and all(type(n) is int for n in value):
        first, end = value
        if 0 <= first < end:
            return first, end
    reader.fault(
        at,
        f"expected [first, end] with 0 <= first < end (the end is not in it), found {shown(value)}",
    )
    return None


def _faults(document: Document) -> Iterator[tuple[Location, str]]:
    """What is wrong with a document whose parts are sound."""
    method = document.method
    if method.needs_base and document.base_model is None:
        yield ("base_model",), f"missing: {method.name} adds to a base. Add it"
    if document.vocabulary is not None:
        yield from strange_models(document.vocabulary, document.references)
    for module in document.modules:
        for part in module.slices:
            yield from _faults_of_slice(document, module, part)


def _faults_of_slice(
    document: Document, module: Module, part: Slice
) -> Iterator[tuple[Location, str]]:
    method, base = document.method, part.base_model or document.base_model
    seen: set[tuple[str, tuple[int, int] | None]] = set()
    counted = 0
    for source in part.sources:
        if (source.model, source.layers) in seen:
            what = f"{source.model} is listed twice. Give it one entry with the sum of weights"
            yield source.at, what
        seen.add((source.model, source.layers))
        if method.uses_base and source.model == base:
            if source.statistics is not None:
                yield (*source.at, "statistics"), "the base is not weighed. Remove them"
            continue
        counted += 1
        if method.statistics is not None and source.statistics is None:
            what = f"{source.model} has none, and {method.name} weighs by them"
            yield (*source.at, "statistics"), f"missing: {what}. Add `statistics: PATH`"
        levels = (source.settings, part.settings, module.settings, document.settings)
        for parameter in method.of_models:
            if parameter.required and not any(level.get(parameter.name) for level in levels):
                name = parameter.name
                what = f"{source.model} has no {name}. Add `parameters: {{{name}: ...}}`"
                yield source.at, what
    yield from _faults_of_counts(method, base, part, counted)


def _faults_of_counts(
    method: Method, base: str | None, part: Slice, counted: int
) -> Iterator[tuple[Location, str]]:
    if method.uses_base and part.sources and not counted:
        if len(part.sources) > 1:
            what = f"only the base {base} is listed, more than once. Add a model tuned from it"
            yield part.at, what
        return  # as it is in the base
    if counted < method.fewest_models:
        yield part.at, f"{method.name} takes {method.fewest_models} models or more. Add one"
    elif method.most_models is not None and counted > method.most_models:
        models = "one model" if method.most_models == 1 else f"{method.most_models} models"
        beside = " beside the base" if method.uses_base and base is not None else ""
        what = f"{method.name} takes {models} at most{beside}, found {counted}"
        yield part.at, f"{what}. Remove the others"
    lengths = {end - first for first, end in (s.layers for s in part.sources if s.layers)}
    if len(lengths) > 1:
        counts = ", ".join(map(str, sorted(lengths)))
        yield part.at, f"the sources have {counts} layers. Give all layer_ranges one length"
