"""The files of a tokenizer: which they are, and what stands beside a model in their place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tvmerge.checkpoints.stored import Stored
from tvmerge.errors import FormatError
from tvmerge.files.untrusted import parse_json, read_bounded, shown

TOKENIZER, CONFIG, ADDED = "tokenizer.json", "tokenizer_config.json", "added_tokens.json"
TEMPLATE = "chat_template.jinja"
TEMPLATES = (TEMPLATE, "chat_template.json", "additional_chat_templates/*.jinja")
# What a tokenizer says beside its vocabulary.
SETTINGS = (CONFIG, "special_tokens_map.json", *TEMPLATES)
# Vocabularies in the formats of single tokenizers' own programs, from which tokenizer.json is made.
OTHER_VOCABULARIES = (
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model*", "spiece.model",
    "sentencepiece*.model", "tekken.json", "*.tiktoken",
)  # fmt: skip
ALL = (TOKENIZER, ADDED, *SETTINGS, *OTHER_VOCABULARIES)
MOST_VALUES = 10_000_000  # Gemma's 256,000 tokens with their merges take three
_LARGEST_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """Files that are written in place of such of the donor's as match `instead_of`.

    `read` are the inputs whose tokenizers were read for them, beside the tensors.
    """

    files: Mapping[str, bytes]
    instead_of: tuple[str, ...]
    read: tuple[Stored, ...]

    def replaces(self, name: Path) -> bool:
        """Whether the donor's file of that name is not copied."""
        return matches(name, self.instead_of)

    def beside(self, donors: Mapping[str, bytes]) -> dict[str, bytes]:
        """All files of the tokenizer: those of the donor that are copied, and these."""
        kept = {n: data for n, data in donors.items() if not matches(n, self.instead_of)}
        return kept | dict(self.files)

    def write(self, folder: Path) -> None:
        """Write the files into an output folder."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def tokenizer_paths(folder: Path) -> list[Path]:
    """All files of the tokenizer in a folder, in the order of their names."""
    found = (path for pattern in ALL for path in folder.glob(pattern))
    return sorted({path for path in found if path.is_file()})


def read_files(folder: Path) -> dict[str, bytes]:
    """What the files of the tokenizer in a folder hold; raises FormatError for one too large."""
    return {
        path.relative_to(folder).as_posix(): read_bounded(path, most_bytes=_LARGEST_BYTES)
        for path in tokenizer_paths(folder)
    }


def matches(name: Path | str, patterns: tuple[str, ...]) -> bool:
    """Whether a file's name, relative to its model's folder, matches one of the patterns."""
    text = name if isinstance(name, str) else name.as_posix()
    return any(fnmatch(text, pattern) for pattern in patterns)


def json_of(place: Path, files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The keys and values of a file, none where it is missing; raises FormatError for others.

    `place` is the folder, for messages.
    """
    if name not in files:
        return {}
    try:
        content = parse_json(files[name], most_values=MOST_VALUES)
    except ValueError as error:
        raise FormatError(f"{place / name}: {error}. Save the tokenizer again") from error
    if not isinstance(content, dict):
        raise FormatError(f"{place / name}: expected keys and values, found {shown(content)}")
    return content


def to_json(content: Mapping[str, Any]) -> bytes:
    """The text of such a file."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
