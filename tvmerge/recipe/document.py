"""A recipe as it was written: what a YAML file says, each part with its place in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tvmerge.files.yaml_file import Location, YamlFile
from tvmerge.methods import Method

Scalar = float | bool


@dataclass(frozen=True, slots=True)
class Setting:
    """A value of a parameter, or a gradient of values, for tensors whose name holds `filter`."""

    value: Scalar | tuple[Scalar, ...]
    filter: str | None  # None: every tensor
    at: Location

    def matches(self, name: str) -> bool:
        """Whether it counts for the tensor."""
        return self.filter is None or self.filter in name


# By the parameter's name; of several settings the first that matches a tensor counts.
Settings = Mapping[str, tuple[Setting, ...]]


@dataclass(frozen=True, slots=True)
class Source:
    """A model's part in a slice: its layers from the first up to but without the second."""

    model: str
    layers: tuple[int, int] | None  # None: all
    settings: Settings
    at: Location
    statistics: str | None = None  # the file or folder with what its method weighs it by


@dataclass(frozen=True, slots=True)
class Slice:
    """Layers of the output, and what they are made of; `whole`: `models`, all their tensors."""

    sources: tuple[Source, ...]
    whole: bool
    base_model: str | None
    settings: Settings
    at: Location


@dataclass(frozen=True, slots=True)
class Module:
    """A part of a model, or with the name None all of it, as slices of its layers."""

    name: str | None
    slices: tuple[Slice, ...]
    settings: Settings
    at: Location


@dataclass(frozen=True, slots=True)
class TokenRule:
    """Whence a token's row comes where a model lacks it, or with `force` in every model.

    Of `model` it is the row of the same token, of `token`, or number `token_id`; without a model it
    is 0.
    """

    model: str | None
    token: str | None
    token_id: int | None
    force: bool


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The vocabulary that a document gives its models: UNION, BASE or that of another one.

    `tokens` are added where it lacks them.
    """

    source: str
    tokens: Mapping[str, TokenRule]
    pad_to_multiple_of: int | None
    at: Location


UNION, BASE = "union", "base"


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: a merge, or a stage of one."""

    file: YamlFile
    name: str | None
    method: Method
    base_model: str | None
    modules: tuple[Module, ...]
    settings: Settings
    dtype: str | None
    out_dtype: str | None
    vocabulary: Vocabulary | None
    chat_template: str | None  # its text, or AUTO
    lenient: bool  # whether what mergekit passes over is no fault

    @property
    def output_dtype(self) -> str | None:
        """The safetensors code of the dtype to write, None to keep the base's dtypes."""
        return self.out_dtype or self.dtype

    @property
    def references(self) -> tuple[str, ...]:
        """Every model that it names, each once, the one that gives the layout first."""
        parts = [part for module in self.modules for part in module.slices]
        bases = [self.base_model, *(part.base_model for part in parts)]
        sources = [source.model for part in parts for source in part.sources]
        first = [*bases[:1], *sources, *bases]
        return tuple(dict.fromkeys(name for name in first if name is not None))

    def place(self, reference: str) -> Location | None:
        """Where it names the model first; None: it does not."""
        if reference == self.base_model:
            return ("base_model",)
        for part in (part for module in self.modules for part in module.slices):
            if reference == part.base_model:
                return (*part.at, "base_model")
            for source in part.sources:
                if reference == source.model:
                    return source.at
        return None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked recipe file: its stages in their order; the last one is what is written."""

    path: Path
    text: str
    documents: tuple[Document, ...]
    passed_over: tuple[str, ...] = ()  # of a lenient one what has no use, and where it stands

    @property
    def method(self) -> str:
        """The method of the last stage."""
        return self.documents[-1].method.name

    @property
    def output_dtype(self) -> str | None:
        """The dtype that the last stage asks for."""
        return self.documents[-1].output_dtype
