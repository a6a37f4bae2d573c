"""A merge as YAML, in mergekit's words: read, checked, turned into an algebra expression.

    merge_method: task_arithmetic
    base_model: base
    models:
      - {model: tuned-a, parameters: {weight: -0.5}}
      - {model: org/tuned-b, parameters: {weight: 0.3}}
    dtype: bfloat16

A key with no meaning here is an error, as is one whose meaning is not supported yet: nothing in
a recipe is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from tvmerge.algebra import Checkpoint
from tvmerge.dtype import parse_dtype
from tvmerge.errors import ConfigError, did_you_mean
from tvmerge.hub import resolve
from tvmerge.methods import METHODS, NOT_YET
from tvmerge.yaml_file import Location, YamlFile

# Keys of mergekit that change the result and have no counterpart here yet.
_KEYS_NOT_YET = {
    "slices": "list whole models under `models`",
    "modules": "list whole models under `models`",
    "tokenizer": "the base's tokenizer is copied; remove the key",
    "chat_template": "the base's template is copied; remove the key",
}


def _number(value: Any) -> Any:
    if isinstance(value, list):
        if any(isinstance(item, dict) for item in value):
            raise ValueError("filters are not supported yet: give one number for all tensors")
        raise ValueError("gradients over layers are not supported yet: give one number")
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found {value}")
    return value


def _base_only(value: Any) -> Any:
    if value not in (None, "base"):
        raise ValueError(
            f"{value!r} is not supported yet: the base's tokenizer is copied. "
            "Remove the key or set it to base"
        )
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Dtype = Annotated[str, AfterValidator(parse_dtype)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Parameters(_Strict):
    """Parameters of the whole merge; `weight` is the default of every model."""

    weight: Number | None = None
    lambda_: Number = Field(default=1.0, alias="lambda")
    normalize: bool | None = None
    # mergekit's way to save memory for masks that the methods here do not make.
    int8_mask: bool = False


class ModelParameters(_Strict):
    """Parameters of one model."""

    weight: Number | None = None


class Entry(_Strict):
    """One model of the merge: a path or a hub id."""

    model: str = Field(min_length=1)
    parameters: ModelParameters = ModelParameters()


class Recipe(_Strict):
    """A checked merge configuration."""

    merge_method: str
    base_model: str | None = Field(default=None, min_length=1)
    models: tuple[Entry, ...]
    parameters: Parameters = Parameters()
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: Annotated[Literal["base"] | None, BeforeValidator(_base_only)] = None

    @property
    def output_dtype(self) -> str | None:
        """The safetensors code of the dtype to write, None to keep the base's dtypes."""
        return self.out_dtype or self.dtype

    @property
    def weights(self) -> list[float]:
        """The weight of every model; 0 where a base in the list has none."""
        return [self._weight(entry) or 0.0 for entry in self.models]

    def _weight(self, entry: Entry) -> float | None:
        own = entry.parameters.weight
        return self.parameters.weight if own is None else own

    def faults(self) -> Iterator[tuple[Location, str]]:
        """What is wrong with the recipe as a whole, and where."""
        method = METHODS.get(self.merge_method)
        if method is None:
            yield ("merge_method",), _unknown_method(self.merge_method)
            return
        if method.needs_base and self.base_model is None:
            yield ("base_model",), f"missing: {self.merge_method} adds to a base. Add it"
        for name in Parameters.model_fields:
            key = Parameters.model_fields[name].alias or name
            if name in self.parameters.model_fields_set and key not in method.parameters:
                known = ", ".join(sorted(method.parameters))
                yield ("parameters", key), f"{self.merge_method} takes no {key}; it takes {known}"
        if not self.models:
            yield ("models",), "the list is empty. Add a model"
        seen: set[str] = set()
        for number, entry in enumerate(self.models):
            if entry.model in seen:
                what = f"{entry.model} is listed twice. Give it one entry with the sum of weights"
                yield ("models", number), what
            seen.add(entry.model)
            may_lack_weight = method.needs_base and entry.model == self.base_model
            if self._weight(entry) is None and not may_lack_weight:
                what = f"{entry.model} has no weight. Add `parameters: {{weight: ...}}`"
                yield ("models", number), what


def _unknown_method(name: str) -> str:
    exist = ", ".join(METHODS)
    if name in NOT_YET:
        return f"{name} is not supported yet. Methods that exist: {exist}"
    hint = did_you_mean(name, METHODS)
    return f"unknown method {name!r}.{hint} Methods that exist: {exist}"


def load_recipe(path: Path) -> Recipe:
    """Read and check a YAML recipe; raises ConfigError with file and line of every fault."""
    return check_recipe(YamlFile.read(path))


def check_recipe(file: YamlFile) -> Recipe:
    """The recipe that a YAML file holds; raises ConfigError with file and line of every fault."""
    for key, instead in _KEYS_NOT_YET.items():
        if key in file.content:
            raise file.error((key,), f"not supported yet: {instead}")
    recipe = file.validate(Recipe)
    faults = list(recipe.faults())
    if faults:
        raise file.errors(faults)
    return recipe


def build(recipe: Recipe, *, find: Callable[[str], Path] = resolve) -> Checkpoint:
    """The merge as a lazy expression, ready to `save(out, dtype=recipe.output_dtype)`.

    Layout, tokenizer and dtypes come from the base, by default the first model. Raises
    FormatError where a model cannot be opened.
    """
    for location, text in recipe.faults():
        raise ConfigError(f"{'.'.join(map(str, location))}: {text}")
    models = [Checkpoint(find(entry.model)) for entry in recipe.models]
    base = Checkpoint(find(recipe.base_model)) if recipe.base_model else models[0]
    return METHODS[recipe.merge_method].build(recipe, base, models)
