"""Reads YAML files; every error names the file, the line and the key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tvmerge.errors import ConfigError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]
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

    @classmethod
    def read(cls, path: Path) -> YamlFile:
        """Parse the file; raises ConfigError where it is not YAML or repeats a key."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8 text. Name a YAML file") from error
        try:
            content = yaml.safe_load(text)
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(_syntax_error(path, error)) from error
        if not isinstance(root, yaml.MappingNode) or not isinstance(content, dict):
            found = "nothing" if content is None else type(content).__name__
            raise ConfigError(f"{path}:1: expected keys and values (`name: ...`), found {found}")
        file = cls(path, content, root)
        file._refuse_repeated_keys(root, set())
        return file

    def error(self, location: Location, text: str) -> ConfigError:
        """A ConfigError that points at `location`, or at the deepest part of it that exists."""
        return ConfigError(self._point(location, text))

    def validate(self, model: type[Model]) -> Model:
        """The content as a `model`; raises one ConfigError with a line for every fault."""
        try:
            return model.model_validate(self.content)
        except ValidationError as error:
            faults = [
                self._point(fault["loc"], _explain(model, fault))
                for fault in error.errors(include_url=False)
            ]
            raise ConfigError("\n".join(faults)) from error

    def _point(self, location: Location, text: str) -> str:
        key = ".".join(str(part) for part in location)
        return f"{self.path}:{self._line(location)}: {key}{': ' if key else ''}{text}"

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

    def _refuse_repeated_keys(self, node: yaml.Node, seen: set[int]) -> None:
        # PyYAML silently lets the last one win. An anchor may contain itself: visit nodes once.
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for value in node.value:
                self._refuse_repeated_keys(value, seen)
        if not isinstance(node, yaml.MappingNode):
            return
        names: set[str] = set()
        for key, value in node.value:
            if key.value in names:
                line = key.start_mark.line + 1
                raise ConfigError(
                    f"{self.path}:{line}: {key.value}: the key is given twice. Remove one of them"
                )
            names.add(key.value)
            self._refuse_repeated_keys(value, seen)


def _syntax_error(path: Path, error: Exception) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    return f"{where}: not valid YAML: {problem}. Check indentation, colons and quotes there"


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
        return f"expected {_EXPECTED[kind]}, found {found!r}"
    hint = ""
    if kind == "literal_error" and isinstance(found, str):
        choices = fault["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        hint = did_you_mean(found, choices)
    message = str(fault["msg"])
    return f"{message[:1].lower()}{message[1:]}, found {found!r}.{hint}"


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
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
