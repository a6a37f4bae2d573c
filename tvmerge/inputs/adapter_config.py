"""What an adapter_config.json says of a LoRA adapter: ranks, scales, and whether it is one at all.

What would change the sum and is not known here is refused, never passed over.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tvmerge.checkpoints.stored import ADAPTER_CONFIG
from tvmerge.errors import FormatError
from tvmerge.files.untrusted import parse_json, read_bounded, shown

_LARGEST_BYTES = 10_000_000
_MOST_VALUES = 1_000_000
# Variants of LoRA whose delta is not scale * B @ A, or not of one tensor of the base.
_VARIANTS = (
    "use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config",
    "kasa_config", "layer_replication", "megatron_config", "monteclora_config",
    "target_parameters", "trainable_token_indices",
)  # fmt: skip
# Of init_lora_weights. All others (pissa, olora, corda, loftq, ...) begin by changing the base.
_INITIALS = (None, True, False, "gaussian", "eva", "orthogonal")
# A pattern is a regular expression that anybody may have written: what could run for years is
# refused. What people write are names, at times with `.*` or `[0-9]+` in them.
_MOST_PATTERNS = 5_000
_LONGEST_PATTERN = 256
_MOST_REPEATS = 2
_REPEAT = re.compile(r"[*+{]")
_REPEATED_GROUP = re.compile(r"\)[*+{]")

_Value = TypeVar("_Value", int, float)
Patterns = tuple[tuple[re.Pattern[str], _Value], ...]


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The part of adapter_config.json that says what the factors mean."""

    path: Path
    rank: int
    alpha: float
    ranks: Patterns[int]  # of some modules; of several that match the first counts
    alphas: Patterns[float]
    root: bool  # whether the scale is alpha / sqrt(r) (rsLoRA, Kalajdzievski, arXiv 2312.03732)
    transposed: bool  # fan_in_fan_out: the base's weights lie as (inputs, outputs)
    base: str | None  # what it was trained on, as its author called it

    def rank_of(self, module: str) -> int:
        """The rank r of a module's factors."""
        return _found(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """What a module's B @ A is multiplied by: alpha / r, or alpha / sqrt(r)."""
        rank = self.rank_of(module)
        alpha = _found(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.root else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check the config of the adapter in `folder`.

    Raises FormatError for what is no LoRA adapter of peft, and for variants whose delta is not
    scale * B @ A; StorageError where reading fails.
    """
    path = folder / ADAPTER_CONFIG
    text = read_bounded(path, most_bytes=_LARGEST_BYTES)
    try:
        found = parse_json(text, most_values=_MOST_VALUES)
    except ValueError as error:
        _bad(path, f"the file {error}")
    if not isinstance(found, dict):
        _bad(path, f"is a JSON {type(found).__name__}, expected an object")
    _refuse_variants(path, found)
    base = found.get("base_model_name_or_path")
    return AdapterConfig(
        path=path,
        rank=_rank(path, "r", found.get("r")),
        alpha=_alpha(path, "lora_alpha", found.get("lora_alpha")),
        ranks=_patterns(path, "rank_pattern", found, _rank),
        alphas=_patterns(path, "alpha_pattern", found, _alpha),
        root=bool(found.get("use_rslora")),
        transposed=bool(found.get("fan_in_fan_out")),
        base=base if isinstance(base, str) and base else None,
    )


def _bad(path: Path, what: str) -> NoReturn:
    raise FormatError(
        f"{path}: {what}. Check that the folder is a LoRA adapter that peft has saved"
    )


def _refuse_variants(path: Path, found: Mapping[str, Any]) -> None:
    way_out = "Merge it into its base with peft (merge_and_unload), and use the result as a model"
    kind = found.get("peft_type")
    if kind != "LORA":
        raise FormatError(f"{path}: peft_type is {shown(kind)}, expected 'LORA'. {way_out}")
    for key in _VARIANTS:
        if found.get(key):
            value = shown(found[key])
            raise FormatError(
                f"{path}: {key} is {value}: such an adapter is not the plain sum "
                f"scale * B @ A, and is not supported. {way_out}"
            )
    initial = found.get("init_lora_weights")
    if initial not in _INITIALS:
        raise FormatError(
            f"{path}: init_lora_weights is {shown(initial)}: training began by changing the base, "
            "and the adapter adds to that. Save it as plain LoRA "
            "(path_initial_model_for_weight_conversion in peft)"
        )


def _rank(path: Path, key: str, value: object) -> int:
    if type(value) is not int or value < 1:
        _bad(path, f"the rank {shown(key)} is {shown(value)}, expected a whole number above 0")
    return value


def _alpha(path: Path, key: str, value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(float(value)):  # type: ignore[arg-type]
        _bad(path, f"the alpha {shown(key)} is {shown(value)}, expected a finite number")
    return float(value)  # type: ignore[arg-type]


def _patterns(
    path: Path, key: str, found: Mapping[str, Any], read: Callable[[Path, str, object], _Value]
) -> Patterns[_Value]:
    """Patterns of modules' names with their values, compiled as peft's get_pattern_key matches."""
    given = found.get(key) or {}
    if not isinstance(given, dict) or len(given) > _MOST_PATTERNS:
        _bad(path, f"{key} is {shown(given)}, expected an object of at most {_MOST_PATTERNS} names")
    patterns = []
    for pattern, value in given.items():
        repeats = len(_REPEAT.findall(pattern))
        odd = len(pattern) > _LONGEST_PATTERN or repeats > _MOST_REPEATS
        if odd or _REPEATED_GROUP.search(pattern):
            _bad(path, f"{key}: the pattern {shown(pattern)} could take for ever to match")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of sets that will mean something else one day
                compiled = re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, RecursionError, OverflowError) as error:
            _bad(path, f"{key}: {shown(pattern)} is no regular expression ({error})")
        patterns.append((compiled, read(path, pattern, value)))
    return tuple(patterns)


def _found(patterns: Patterns[_Value], module: str, default: _Value) -> _Value:
    return next((value for pattern, value in patterns if pattern.match(module)), default)
