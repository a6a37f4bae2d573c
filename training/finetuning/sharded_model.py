"""A model whose weights lie in parts on several workers (FSDP2): loaded and written piecewise.

A worker holds its parts and, while loading, one decoder layer (or all that lies outside the
layers); while writing, one tensor, and rank 0 the tensors of one file.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tvmerge import Checkpoint
from tvmerge.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.distributed.device_mesh import DeviceMesh

    from tvmerge.checkpoints.stored import Slot
    from tvmerge.training.settings.sections import Trainable

FILE_BYTES = 2 << 30
INDEX = "model.safetensors.index.json"


def load_sharded(base: Path, mesh: DeviceMesh, *, trainable: Trainable) -> Any:
    """The base in float32, each worker with its part; GPUs compute in bfloat16.

    Raises FormatError where the base's files name a tensor otherwise than the model does.
    """
    from accelerate import init_empty_weights
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from transformers import AutoConfig, AutoModelForCausalLM

    from tvmerge.training.finetuning.trainable import mark_trainable

    with init_empty_weights(include_buffers=False):
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.from_pretrained(base), dtype=torch.float32
        )
    model.tie_weights()
    mark_trainable(model, trainable)
    computing = torch.bfloat16 if mesh.device_type == "cuda" else None
    policy = MixedPrecisionPolicy(param_dtype=computing, reduce_dtype=torch.float32)
    places = _places(model)
    slots = Checkpoint(base).donor.slots
    for name, tensor in _stored(model).items():
        if not isinstance(tensor, nn.Parameter):  # a small buffer, whole on every worker
            tensor.copy_(_read([name], slots, tensor.shape, base))
    for part in (*_layers(model), model):
        for parameter in list(part.parameters()):
            if parameter.is_meta:
                _fill(parameter, places[id(parameter)], slots, base)
        fully_shard(part, mesh=mesh, mp_policy=policy)
    return model.eval()


def write_sharded(model: Any, folder: Path | None, *, file_bytes: int = FILE_BYTES) -> None:
    """Gather one tensor after the other; the worker that names a folder writes them there.

    A collective: all workers call it, the others with None. Files are those of `save_pretrained`,
    and hold at most `file_bytes`, or one tensor.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    tensors = _stored(model)
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()},
        max_shard_size=file_bytes,
    )
    for file, names in plan.filename_to_tensors.items():
        held: dict[str, Tensor] = {}
        for name in names:
            whole = _whole(tensors[name].detach())
            if folder is not None:
                held[name] = whole.cpu().contiguous()
        if folder is not None:
            save_file(held, folder / file, metadata={"format": "pt"})
    if folder is None:
        return
    if plan.is_sharded:
        total = sum(tensor.numel() for tensor in tensors.values())
        index = {
            "metadata": {**plan.metadata, "total_parameters": total},
            "weight_map": plan.tensor_to_filename,
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / INDEX).write_text(text, encoding="utf-8")
    model.config.dtype = "float32"
    model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def _layers(model: Any) -> list[nn.Module]:
    """The decoder layers, by the class that the architecture names; inner ones come first."""
    names = model._no_split_modules or ()
    return [module for module in model.modules() if type(module).__name__ in names][::-1]


def _places(model: nn.Module) -> Mapping[int, list[tuple[nn.Module, str, str]]]:
    """By a parameter's identity, the modules that have it: module, attribute, full name."""
    places = defaultdict(list)
    for prefix, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{attribute}" if prefix else attribute
            places[id(parameter)].append((module, attribute, name))
    return places


def _fill(
    empty: nn.Parameter,
    places: list[tuple[nn.Module, str, str]],
    slots: Mapping[str, Slot],
    base: Path,
) -> None:
    """Read the parameter and put it where the empty one is, everywhere that it is tied to."""
    tensor = _read([name for _, _, name in places], slots, empty.shape, base)
    filled = nn.Parameter(tensor.float(), requires_grad=empty.requires_grad)
    for module, attribute, _ in places:
        setattr(module, attribute, filled)


def _read(names: list[str], slots: Mapping[str, Slot], shape: torch.Size, base: Path) -> Tensor:
    """The base's tensor of the first of these names that it has."""
    found = next((name for name in names if name in slots), None)
    if found is None:
        raise FormatError(
            f"{base}: expected a tensor {names[0]!r}, as its model names it, found none. "
            "Some architectures are stored under other names than they run with: fine-tune this "
            "base with train.workers: 1."
        )
    with safe_open(slots[found].file, framework="pt") as file:
        tensor: Tensor = file.get_tensor(found)
    if tensor.shape != shape:
        raise FormatError(
            f"{base}: expected {found!r} of shape {list(shape)}, as config.json says, found "
            f"{list(tensor.shape)}."
        )
    return tensor


def _stored(model: nn.Module) -> dict[str, Tensor]:
    """What a file of the model holds: parameters and buffers, those that are tied once."""
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, tensor in state.items():
        first.setdefault(id(tensor), name)
    return {name: state[name] for name in first.values()}


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
