"""Reads YAML files; every error names the file, the line and the key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml

from tvmerge.errors import ConfigError, FormatError, StorageError, did_you_mean
from tvmerge.files.untrusted import printable, read_bounded, shorten, shown
from tvmerge.files.yaml_nodes import YamlError, load, load_all

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")
Location = tuple[int | str, ...]
_LARGEST_FILE_BYTES = 256 * 1024  # a recipe of a thousand models has 50 KiB; PyYAML is slow
_LISTED = 20  # how many faults an error tells
# pydantic names Python's types, a YAML file has none.
_EXPECTED = {
    "tuple_type": "a list",
    "list_type": "a list",
    "model_type": "keys and values",
    "dict_type": "keys and values",
    "string_type": "text",
}


def read_yaml(path: Path, model: type[Model]) -> Model:
    """The validated content of the file; raises ConfigError at whatever is wrong with it."""
    return YamlFile.read(path).validate(model)


@dataclass(frozen=True, slots=True)
class YamlFile:
    """The keys and values of one file, and where each of them stands."""

    path: Path
    content: dict[str, Any]
    root: yaml.MappingNode
    text: str

    @classmethod
    def read(cls, path: Path) -> YamlFile:
        """Parse the file; raises ConfigError where it is not YAML or repeats a key."""
        try:
            return cls.parse(path, read_bounded(path, most_bytes=_LARGEST_FILE_BYTES))
        except (FormatError, StorageError) as error:
            raise ConfigError(str(error)) from error

    @classmethod
    def read_all(cls, path: Path) -> list[YamlFile]:
        """Parse a file of several documents; each knows the lines of its own."""
        try:
            return cls.parse_all(path, read_bounded(path, most_bytes=_LARGEST_FILE_BYTES))
        except (FormatError, StorageError) as error:
            raise ConfigError(str(error)) from error

    @classmethod
    def parse(cls, path: Path, text: bytes) -> YamlFile:
        """Parse what stands in the file `path`; raises ConfigError like read."""
        return cls._parse(path, text, lambda decoded: [load(decoded)])[0]

    @classmethod
    def parse_all(cls, path: Path, text: bytes) -> list[YamlFile]:
        """As parse, for every document that the text holds; one at least."""
        return cls._parse(path, text, lambda decoded: [*load_all(decoded)] or [(None, None)])

    @classmethod
    def _parse(
        cls, path: Path, text: bytes, loaded: Callable[[str], Sequence[tuple[Any, Any]]]
    ) -> list[YamlFile]:
        try:
            decoded = text.decode()
            documents = loaded(decoded)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8 text. Name a YAML file") from error
        except YamlError as error:
            where = f"{path}:{error.line}" if error.line else f"{path}"
            raise ConfigError(f"{where}: {error}") from error
        for root, content in documents:
            if not isinstance(root, yaml.MappingNode) or not isinstance(content, dict):
                found = "nothing" if content is None else type(content).__name__
                line = 1 if root is None else root.start_mark.line + 1
                what = f"expected keys and values (`name: ...`), found {found}"
                raise ConfigError(f"{path}:{line}: {what}")
        return [cls(path, content, root, decoded) for root, content in documents]

    def error(self, location: Location, text: str) -> ConfigError:
        """A ConfigError that points at `location`, or at the deepest part of it that exists."""
        return ConfigError(self.pointed(location, text))

    def errors(self, faults: Iterable[tuple[Location, str]]) -> ConfigError:
        """One ConfigError with a line for each of the faults, of the first twenty if many."""
        lines = self.all_pointed(islice(faults, _LISTED + 1))
        return ConfigError("\n".join(lines if len(lines) <= _LISTED else [*lines[:-1], "..."]))

    def validate(self, model: type[Model]) -> Model:
        """The content as a `model`; raises one ConfigError with a line for every fault."""
        from pydantic import ValidationError  # which recipes do without: it takes long to load

        try:
            return model.model_validate(self.content)
        except ValidationError as error:
            found = error.errors(include_url=False)
            raise self.errors((fault["loc"], _explain(model, fault)) for fault in found) from error

    def all_pointed(self, told: Iterable[tuple[Location, str]]) -> list[str]:
        """Texts behind the places that they speak of, in the order of their lines."""
        return [self.pointed(*one) for one in sorted(told, key=lambda one: self._line(one[0]))]

    def pointed(self, location: Location, text: str) -> str:
        """The text behind the file, the line and the key that it speaks of."""
        key = ".".join(str(part) for part in location)
        what = f"{shorten(key)}{': ' if key else ''}{shorten(text, 1000)}"
        return f"{self.path}:{self._line(location)}: {printable(what)}"

    def _line(self, location: Location) -> int:
        node: yaml.Node = self.root
        line = node.start_mark.line
        for part in location:
            if isinstance(node, yaml.MappingNode):
                pairs = {key.value: (key, value) for key, value in node.value}
                if str(part) not in pairs:
                    break
                key, node = pairs[str(part)]
                line = key.start_mark.line
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                node = node.value[part]
                line = node.start_mark.line
            else:
                break
        return int(line) + 1


def _explain(model: type[BaseModel], fault: Any) -> str:
    location: Location = fault["loc"]
    kind, found = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        hint = did_you_mean(str(location[-1]), known)
        return f"unknown key.{hint} Known keys: {', '.join(sorted(known))}"
    if kind == "missing":
        return f"missing. Add `{location[-1]}: ...`"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, found {shown(found)}"
    hint = ""
    if kind == "literal_error" and isinstance(found, str):
        choices = fault["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        hint = did_you_mean(found, choices)
    message = str(fault["msg"])
    return f"{message[:1].lower()}{message[1:]}, found {shown(found)}.{hint}"


def _known_keys(model: type[BaseModel], location: Location) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        inner = next(_models_in(field.annotation), None) if field else None
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    from pydantic import BaseModel

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
