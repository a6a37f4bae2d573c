"""Finds a model by what people call it: a path, or a model of the Hugging Face hub."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tvmerge.checkpoints.pipeline import PIPELINE_INDEX
from tvmerge.errors import FormatError

# organisation/name, and a revision as in mergekit's references.
_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_WANTED = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "*.txt",
    "*.tiktoken",
    "*.py",
    "LICENSE*",
)
# The models of a pipeline and what goes with them; not the same again in one file, or in float16.
_OF_PIPELINE = (
    "*.json",
    "*.txt",
    "LICENSE*",
    "*/*.json",
    "*/*.txt",
    "*/*.model",
    "*/*.safetensors",
)
_NOT_OF_PIPELINE = ("*/*/*", "*.fp16.*", "*.fp16-*", "*.non_ema.*", "*.non_ema-*")
# Copies of the same weights in another layout, and other formats in folders of their own.
_UNWANTED = ("consolidated*", "*/*", "training_args.bin", "optimizer.bin", "openvino*")


def is_hub_id(source: str) -> bool:
    """Whether the text could name a model of the hub."""
    return _HUB_ID.fullmatch(source) is not None


def resolve(source: str) -> Path:
    """The place on disk of `source`: a path, or a hub id (`org/name`, `org/name@revision`).

    A hub id is taken from the local cache or downloaded, where no file or folder of that name
    exists. Raises FormatError where `huggingface_hub` is needed and not installed, or the model
    cannot be had. Any other text comes back as a path, for the reader to judge.
    """
    path = Path(source)
    match = _HUB_ID.fullmatch(source)
    # `runs/typo` with a folder `runs` is a mistyped path, not a model of the organisation `runs`.
    if match is None or _exists(path) or _exists(path.parent):
        if "+" in source and not _exists(path) and _exists(Path(source.split("+")[0])):
            raise FormatError(
                f"{source}: a base with an adapter (model+adapter) is understood in recipes only. "
                "Here, name the adapter's own folder (`tvmerge apply BASE OUT --add ADAPTER`)"
            )
        return path
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]
    except ImportError as error:
        raise FormatError(
            f"{source}: no such file or folder, and to fetch it from the Hugging Face hub "
            "huggingface_hub is needed. Correct the path, or: pip install 'tvmerge[hub]'"
        ) from error
    if not sys.stderr.isatty():
        disable_progress_bars()

    def fetch(*wanted: str, but: tuple[str, ...] = _UNWANTED) -> Path:
        return Path(
            snapshot_download(
                match["id"],
                revision=match["revision"],
                allow_patterns=list(wanted),
                ignore_patterns=list(but),
            )
        )

    try:
        folder = fetch("*.json")
        if (folder / PIPELINE_INDEX).exists():
            folder = fetch(*_OF_PIPELINE, but=_NOT_OF_PIPELINE)
            if not any(folder.glob("*/*.safetensors")):
                folder = fetch(*_OF_PIPELINE, "*/*.bin", but=_NOT_OF_PIPELINE)
        elif not any(fetch(*_WANTED).glob("*.safetensors")):
            folder = fetch(*_WANTED, "*.bin")
    except Exception as error:  # its HTTP client has errors of its own, not all known here
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise FormatError(
            f"{source}: no such file or folder here, and the Hugging Face hub did not give it: "
            f"{reason.rstrip('.')}. Correct the path or the name; for a gated model log in with "
            "`hf auth login`"
        ) from error
    return folder


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, a NUL
        return False
