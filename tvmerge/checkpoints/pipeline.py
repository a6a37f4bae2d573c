"""A pipeline of diffusers: a folder whose model_index.json names models in folders of their own.

Its tensors are those of all of them, under the names `unet/...`, `text_encoder/...`.
https://huggingface.co/docs/diffusers/using-diffusers/loading
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tvmerge.errors import FormatError
from tvmerge.files.safetensors import Header
from tvmerge.files.untrusted import parse_json, read_bounded

PIPELINE_INDEX = "model_index.json"
_LARGEST_INDEX_BYTES = 1_000_000
_MOST_VALUES = 10_000
_BETWEEN = "/"


def component_names(index: Path, folders: Iterable[str]) -> list[str]:
    """Those of `folders`, which lie beside the index, that it names as a part of the pipeline.

    Raises FormatError where it is no JSON object.
    """
    text = read_bounded(index, most_bytes=_LARGEST_INDEX_BYTES)
    try:
        content = parse_json(text, most_values=_MOST_VALUES)
    except ValueError as error:
        raise FormatError(f"{index}: the index {error}. Restore it") from error
    if not isinstance(content, dict):
        raise FormatError(f"{index}: expected an object that names folders. Restore it")
    # A part that is left out is [null, null].
    named = {n for n, what in content.items() if isinstance(what, list) and any(what)}
    return sorted(named.intersection(folders))


def within(component: str, header: Header) -> Header:
    """A component's header, its tensors named as those of the pipeline."""
    named = [e._replace(name=component + _BETWEEN + e.name) for e in header.entries]
    return replace(header, entries=tuple(named))


def own_name(component: str, name: str) -> str:
    """The name in the component's own files of a tensor of the pipeline."""
    return name.removeprefix(component + _BETWEEN) if component else name
