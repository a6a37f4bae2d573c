"""The model card of a merged model: README.md with the metadata that the hub reads."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from tvmerge.stored import Stored
from tvmerge.version import __version__


def model_card(name: str, coefficients: Mapping[Stored, float], donor: Stored) -> str:
    """A card that names the inputs by folder name, with `base_model_relation: merge`."""
    names = sorted({stored.source.name for stored in (donor, *coefficients)})
    front = yaml.safe_dump(
        {
            "base_model": names,
            "base_model_relation": "merge",
            "library_name": "transformers",
            "tags": ["merge", "task-arithmetic", "tvmerge"],
        },
        sort_keys=True,
    )
    rows = "\n".join(f"| {stored.source.name} | {c:.17g} |" for stored, c in coefficients.items())
    return (
        f"---\n{front}---\n\n# {name}\n\nMade with tvmerge {__version__}: a linear combination of "
        f"checkpoints, rounded once.\n\n| input | coefficient |\n|---|---|\n{rows}\n\n"
        f"Configuration, tokenizer and dtypes come from {donor.source.name}.\n"
    )
