"""The tensors of a torch model that a checkpoint fills: names, ties, shapes and dtypes compared.

Looked up anew before every fill: the model may have moved to another device in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmerge.errors import ConfigError, MismatchError, did_you_mean
from tvmerge.files.dtype import ALL_TORCH_NAMES
from tvmerge.files.safetensors import FLOAT_DTYPES, Entry

if TYPE_CHECKING:
    import torch

_LISTED = 5  # how many mismatches an error names
_CODES = {name: code for code, name in ALL_TORCH_NAMES.items()}


@dataclass(frozen=True, slots=True)
class ModelTensors:
    """What is to be filled: one torch tensor for each of the checkpoint's names.

    `ties` are groups of the checkpoint's names that are one tensor in the model: only the first of
    a group is in `targets`, and all of a group must hold the same.
    """

    targets: Mapping[str, torch.Tensor]
    ties: tuple[tuple[str, ...], ...]


def torch_dtype(code: str) -> torch.dtype:
    """The torch dtype of a safetensors code; raises ConfigError where torch has none."""
    import torch

    found = getattr(torch, ALL_TORCH_NAMES.get(code, ""), None)
    if not isinstance(found, torch.dtype):
        raise ConfigError(f"dtype {code}: torch {torch.__version__} has no such dtype")
    return found


def dtype_code(tensor: torch.Tensor) -> str:
    """The safetensors code of a tensor's dtype, or torch's name where there is none."""
    name = str(tensor.dtype).removeprefix("torch.")
    return _CODES.get(name, name)


def match_model(
    model: torch.nn.Module, entries: Mapping[str, Entry], source: object
) -> ModelTensors:
    """Find the model's tensor for every name of the checkpoint, which errors call `source`.

    A name that the checkpoint lacks is fine where it is the same memory as one that it has (tied
    embeddings). Raises MismatchError that names the first few tensors at fault.
    """
    import torch

    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"{type(model).__name__}: expected a torch.nn.Module to fill")
    held = _persistent(model)
    groups: dict[object, list[str]] = {}
    for name, tensor in held.items():
        groups.setdefault(_memory(name, tensor), []).append(name)
    named = [[name for name in group if name in entries] for group in groups.values()]
    problems = list(_name_problems(model, entries, held, list(groups.values())))
    targets = {names[0]: held[names[0]] for names in named if names}
    for name, tensor in targets.items():
        problems += _tensor_problems(name, tensor, entries[name])
    if problems:
        more = f"\n  ... and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise MismatchError(
            f"{source} does not fit the {type(model).__name__}:\n  "
            + "\n  ".join(problems[:_LISTED])
            + f"{more}\nThe model is as it was. Load into a model of the checkpoint's own "
            "architecture, with its weights in memory"
        )
    return ModelTensors(targets, tuple(tuple(names) for names in named if len(names) > 1))


def _persistent(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers under every name that they have."""
    held = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    # What is in a state dict besides is no tensor of the model (a module's "extra state").
    return {name: held[name].detach() for name in model.state_dict() if name in held}


def _memory(name: str, tensor: torch.Tensor) -> object:
    """The same for two names of one tensor; other tensors differ, those without memory too."""
    if tensor.is_meta or not _is_plain(tensor) or tensor.numel() == 0:
        return name
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def _is_plain(tensor: torch.Tensor) -> bool:
    import torch

    return type(tensor) in (torch.Tensor, torch.nn.Parameter)


def _name_problems(
    model: torch.nn.Module,
    entries: Mapping[str, Entry],
    held: Mapping[str, torch.Tensor],
    groups: list[list[str]],
) -> Iterator[str]:
    unexpected = [name for name in entries if name not in held]
    # Not saved with a model, yet to be found in old checkpoints (rotary_emb.inv_freq): the model
    # computes them itself. transformers lists more of them by class.
    computed = {name for name, _ in model.named_buffers() if name not in held}
    listed = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    unexpected = [
        name
        for name in unexpected
        if name not in computed and not any(re.search(pattern, name) for pattern in listed)
    ]
    for group in groups:
        if not any(name in entries for name in group):
            hint = did_you_mean(group[0], unexpected)
            yield f"{group[0]}: in the model, missing in the checkpoint.{hint}"
    for name in unexpected:
        hint = did_you_mean(name, (n for n in held if n not in entries))
        yield f"{name}: in the checkpoint, missing in the model.{hint}"


def _tensor_problems(name: str, tensor: torch.Tensor, entry: Entry) -> Iterator[str]:
    code = dtype_code(tensor)
    if not _is_plain(tensor) or tensor.is_meta or tensor.layout is not _strided():
        what = "a tensor without memory (meta)" if tensor.is_meta else f"a {_kind(tensor)}"
        yield f"{name}: is {what} in the model, expected a plain tensor"
    elif tuple(tensor.shape) != entry.shape:
        yield f"{name}: shape {list(tensor.shape)} in the model, expected {list(entry.shape)}"
    elif code != entry.dtype and not {code, entry.dtype} <= FLOAT_DTYPES:
        yield f"{name}: {code} in the model, expected {entry.dtype} as in the checkpoint"


def _strided() -> torch.layout:
    import torch

    return torch.strided


def _kind(tensor: torch.Tensor) -> str:
    return f"{type(tensor).__name__} ({tensor.layout})"
