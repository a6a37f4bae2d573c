"""YAML text to nodes and plain values, in bounded time and memory.

PyYAML trusts its input further than one would think: a few hundred bytes of anchors can expand to
gigabytes, a repeated key silently wins, and a date that does not exist is a bare ValueError.
"""

from __future__ import annotations

from typing import Any

import yaml

from tvmerge.files.untrusted import printable, shorten, shown

_DEEPEST = 50
_MOST_NODES = 100_000
_LONGEST_NUMBER = 100
_HINT = "Check indentation, colons and quotes there"
_TAG = "tag:yaml.org,2002:"
_NUMBERS = {_TAG + "int", _TAG + "float"}
# What PyYAML's scanner and constructors let through from int(), chr(), date() and lookups.
_UNCAUGHT = (ValueError, LookupError, AttributeError, OverflowError, TypeError)


class YamlError(Exception):
    """Why a text is no YAML that can be used; `line` counts from 1, None where it has none."""

    def __init__(self, line: int | None, what: str) -> None:
        super().__init__(what)
        self.line = line


def load(text: str) -> tuple[yaml.Node | None, Any]:
    """The root node of the text's one document and the value that it stands for.

    Raises YamlError as load_all does, and for a second document.
    """
    found = load_all(text)
    if len(found) > 1:
        line = found[1][0].start_mark.line + 1
        raise YamlError(line, f"a second document begins, expected one. {_HINT}")
    return found[0] if found else (None, None)


def load_all(text: str) -> list[tuple[yaml.Node, Any]]:
    """As load, for every document that the text holds.

    Raises YamlError for what is not YAML, repeats a key, has a key that is not a scalar, contains
    itself, is deeper than 50 levels, or has more than 100,000 nodes once aliases are expanded.
    """
    found: list[tuple[yaml.Node, Any]] = []
    nodes = 0
    try:
        loader = _Loader(text)
        while loader.check_node():
            root = loader.get_node()
            assert root is not None  # check_node says so
            nodes += _survey(root, {})[0]
            if nodes > _MOST_NODES:
                raise _too_many(root.start_mark.line + 1)
            found.append((root, loader.construct_document(root)))
        return found
    except yaml.YAMLError as error:
        raise _fault(error) from error
    except RecursionError as error:
        raise _too_deep(None) from error
    except _UNCAUGHT as error:
        raise YamlError(None, f"not valid YAML: {_quoted(error)}. {_HINT}") from error


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        value = node.value
        if node.tag in _NUMBERS and len(value) > _LONGEST_NUMBER:  # quadratic to convert
            what = f"a number of {len(value)} characters"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        try:
            return super().construct_object(node, deep=deep)
        except _UNCAUGHT as error:
            what = f"{shown(value)} is no {node.tag.removeprefix(_TAG)}"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from error


def _fault(error: yaml.YAMLError) -> YamlError:
    if isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1 if error.problem_mark else None
        return YamlError(line, f"not valid YAML: {_quoted(error.problem)}. {_HINT}")
    return YamlError(None, f"not valid YAML: {_quoted(error)}. {_HINT}")


def _quoted(value: object) -> str:
    return shorten(printable(str(value)))


def _too_deep(line: int | None) -> YamlError:
    return YamlError(line, f"nested too deeply, expected at most {_DEEPEST} levels")


def _too_many(line: int) -> YamlError:
    return YamlError(line, f"has more than {_MOST_NODES:,} values, aliases written out")


def _survey(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Nodes and levels from `node` down, every alias counted in full; refuses what load refuses."""
    line = node.start_mark.line + 1
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise YamlError(line, "the anchor here contains itself. Write its content out")
        return found
    known[id(node)] = None
    nodes, levels = 1, 0
    for child in _children(node):
        child_nodes, child_levels = _survey(child, known)
        nodes, levels = nodes + child_nodes, max(levels, child_levels)
    if levels >= _DEEPEST:
        raise _too_deep(line)
    if nodes > _MOST_NODES:
        raise _too_many(line)
    known[id(node)] = (nodes, levels + 1)
    return nodes, levels + 1


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    names: set[str] = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise YamlError(line, "a list or mapping is used as a key. Write one word")
        if key.value in names:  # PyYAML would let the last one win
            what = f"{_quoted(key.value)}: the key is given twice. Remove one of them"
            raise YamlError(line, what)
        names.add(key.value)
    return [part for pair in node.value for part in pair]
