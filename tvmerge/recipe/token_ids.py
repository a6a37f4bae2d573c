"""Configurations that name tokens by their numbers, once tokens have others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvmerge.checkpoints.tokenizer_files import TokenizerFiles, json_of, to_json
from tvmerge.files.untrusted import read_bounded
from tvmerge.plans.assembly import Model

_GENERATION = "generation_config.json"
_LARGEST_BYTES = 10_000_000
_MOST_NESTED = 3

Ids = Mapping[str, int]


def renumbered(
    config: Mapping[str, Any], before: Ids, after: Ids, path: tuple[str, ...] = ()
) -> dict[tuple[str, ...], Any]:
    """What keys such as eos_token_id have to say instead, by their paths.

    They name the same tokens as before; None stands for one that is gone.
    """
    texts = {number: text for text, number in before.items()}
    found: dict[tuple[str, ...], Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and len(path) < _MOST_NESTED:
            found |= renumbered(value, before, after, (*path, key))
        elif key.endswith("_token_id"):
            held = [n for n in (value if isinstance(value, list) else [value]) if n in texts]
            numbers = [after[texts[n]] for n in held if texts[n] in after]
            new = numbers if isinstance(value, list) else next(iter(numbers), None)
            if held and new != value:
                found[(*path, key)] = new
    return found


def with_generation_config(
    made: TokenizerFiles, donor: Model, before: Ids, after: Ids
) -> TokenizerFiles:
    """The files, with what generates text told the tokens' new numbers as well."""
    path = donor.donor.folder / _GENERATION
    files: Mapping[str, bytes] = {} if donor.tokenizer is None else donor.tokenizer.files
    if _GENERATION not in files:
        if donor.donor.source != path.parent or not path.is_file():
            return made
        files = {_GENERATION: read_bounded(path, most_bytes=_LARGEST_BYTES)}
    content = json_of(path.parent, files, _GENERATION)
    changes = {key: new for (key, *_), new in renumbered(content, before, after).items()}
    if not changes:
        return made
    told = {_GENERATION: to_json(content | changes)}
    return TokenizerFiles({**made.files, **told}, (*made.instead_of, _GENERATION), made.read)
