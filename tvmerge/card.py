"""The model card of a merged model: README.md with the metadata that the hub reads."""

from __future__ import annotations

from collections.abc import Mapping

from tvmerge.stored import Stored
from tvmerge.version import __version__

# What YAML 1.1 takes for something else than text, of all that _is_plain would let pass.
_WORDS = frozenset({"yes", "no", "on", "off", "true", "false", "null"})


def model_card(name: str, coefficients: Mapping[Stored, float | None], donor: Stored) -> str:
    """A card that names the inputs by folder name, with `base_model_relation: merge`."""
    names = sorted({stored.source.name for stored in (donor, *coefficients)})
    models = "\n".join(f"- {name}" for name in names)
    if not all(map(_is_plain, names)):
        import yaml  # takes longer to load than a small merge to run

        models = yaml.safe_dump({"base_model": names}).strip().partition("\n")[2]
    rows = "\n".join(f"| {s.source.name} | {_number(c)} |" for s, c in coefficients.items())
    return (
        f"---\nbase_model:\n{models}\nbase_model_relation: merge\nlibrary_name: transformers\n"
        f"tags:\n- merge\n- task-arithmetic\n- tvmerge\n---\n\n# {name}\n\n"
        f"Made with tvmerge {__version__}: a linear combination of checkpoints, rounded once.\n\n"
        f"| input | coefficient |\n|---|---|\n{rows}\n\n"
        f"Configuration, tokenizer and dtypes come from {donor.source.name}.\n"
    )


def _is_plain(name: str) -> bool:
    """Whether YAML writes the text as it is; false in case of doubt."""
    letters = name.replace("-", "").replace("_", "").replace(".", "")
    return (
        letters.isascii() and letters.isalnum() and name[0].isalpha() and name.lower() not in _WORDS
    )


def _number(coefficient: float | None) -> str:
    return "by tensor" if coefficient is None else f"{coefficient:.17g}"
