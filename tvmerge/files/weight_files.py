"""Which of a folder's files are the model's weights, by their names alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from tvmerge.errors import FormatError
from tvmerge.files import torch_file

INDEX_SUFFIX = ".safetensors.index.json"
DIFFUSION = "diffusion_pytorch_model"  # what diffusers calls the weights of its own models
_LISTED = 5
# Of weights that cannot be read here.
_OTHERS = (".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".pb", ".npz")


class _Form(NamedTuple):
    """How files of weights of one format are called: those that save_pretrained writes, others."""

    stems: tuple[str, ...]
    suffixes: tuple[str, ...]
    index_suffix: str
    no_weights: tuple[str, ...] = ()  # how files begin that have such an ending all the same


# As transformers: a folder's safetensors before all else.
_FORMS = (
    _Form(("model", DIFFUSION, "vector"), (".safetensors",), INDEX_SUFFIX),
    _Form(
        ("pytorch_model", DIFFUSION),
        torch_file.SUFFIXES,
        ".bin.index.json",
        ("training_args.", "optimizer.", "scheduler.", "scaler.", "rng_state", "random_states"),
    ),
)
# What tells a model from an adapter with the same folder.
MODEL_FILES = tuple(
    form.stems[0] + end for form in _FORMS for end in (form.suffixes[0], form.index_suffix)
)


def is_index(path: Path) -> bool:
    """Whether a file says in which others the tensors lie."""
    return path.name.endswith(tuple(form.index_suffix for form in _FORMS))


def is_weights(path: Path) -> bool:
    """Whether a file is called as weights are, or as the hub's cache calls what it holds."""
    return path.suffix in ("", *(suffix for form in _FORMS for suffix in form.suffixes))


def find_weights(folder: Path, names: Sequence[str]) -> Path | None:
    """The file or index that makes a folder with files of these names a checkpoint; None: nothing.

    Raises FormatError where it is not clear which it is, and for weights of other formats alone.
    """
    for form in _FORMS:
        found = _find(folder, names, form)
        if found is not None:
            return found
    if any(name.endswith(_OTHERS) for name in names):
        refuse_folder(folder, names)
    return None


def refuse_folder(folder: Path, names: Sequence[str]) -> NoReturn:
    """Raise FormatError for a folder with files of these names, in which no weights are."""
    raise FormatError(
        f"{folder}: expected *.safetensors or pytorch_model.bin, found "
        f"{_listed(names) or 'an empty folder'}. Convert weights of another format first: load "
        "them with transformers, then save_pretrained(...)"
    )


def output_stem(file: Path) -> str:
    """How the weights that are made of those in `file` are called, without number and ending."""
    return DIFFUSION if file.name.startswith(DIFFUSION) else "model"


def _find(folder: Path, names: Sequence[str], form: _Form) -> Path | None:
    indices = [name for name in names if name.endswith(form.index_suffix)]
    files = [n for n in names if n.endswith(form.suffixes) and not n.startswith(form.no_weights)]
    # The file before its index, as transformers: that may be left over from an earlier save.
    for stem in form.stems:
        for name in (stem + form.suffixes[0], stem + form.index_suffix):
            if name in files or name in indices:
                return folder / name
    if len(indices) > 1:
        found = f"{len(indices)} indices ({_listed(indices)})"
        raise FormatError(f"{folder}: {found}: name the one that you mean")
    if not indices and len(files) > 1:
        raise FormatError(
            f"{folder}: {len(files)} files of weights ({_listed(files)}) and no "
            f"*{form.index_suffix} that says which of them belong together. Name one file, or "
            "restore the index"
        )
    return folder / (indices or files)[0] if indices or files else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
