"""The model card of a merged model: README.md with the metadata that the hub reads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tvmerge.checkpoints.stored import Stored
from tvmerge.files.weight_files import DIFFUSION, output_stem
from tvmerge.receipts.receipt import RecipeText
from tvmerge.version import __version__

# What YAML 1.1 takes for something else than text, of all that _is_plain would let pass.
_WORDS = frozenset({"yes", "no", "on", "off", "true", "false", "null"})


def model_card(
    name: str,
    coefficients: Mapping[Stored, float | None],
    donor: Stored,
    *,
    recipe: RecipeText | None = None,
    own_tokenizer: bool = False,
) -> str:
    """A card that names the inputs by folder name, with `base_model_relation: merge`.

    A recipe that the merge was read from is in it, its absolute paths of inputs as names.
    `own_tokenizer`: files of the tokenizer are not the donor's.
    """
    names = sorted({stored.source.name for stored in (donor, *coefficients)})
    models = "\n".join(f"- {name}" for name in names)
    if not all(map(_is_plain, names)):
        import yaml  # takes longer to load than a small merge to run

        models = yaml.safe_dump({"base_model": names}).strip().partition("\n")[2]
    linear = None not in coefficients.values()
    kind, made = (
        ("- task-arithmetic\n", "a linear combination of checkpoints, rounded once.")
        if linear
        else ("", "merged tensor by tensor; the receipt beside this card says how.")
    )
    if recipe is not None:
        lenient = ", with `--lenient`" if recipe.lenient else ""
        made = f"`{recipe.method}`, by the recipe below{lenient}."
    diffusion = output_stem(donor.shards[0][0]) == DIFFUSION or donor.components
    library = "diffusers" if diffusion else "transformers"
    inputs = {stored.source: c for stored, c in coefficients.items()}
    rows = "\n".join(f"| {source.name} | {_number(c)} |" for source, c in inputs.items())
    taken, last = "Configuration, tokenizer and dtypes", ""
    if donor.is_one_file:
        taken = "Dtypes"
    elif own_tokenizer:
        taken, last = "Configuration and dtypes", ", the tokenizer is as the recipe says"
    return (
        f"---\nbase_model:\n{models}\nbase_model_relation: merge\nlibrary_name: {library}\n"
        f"tags:\n- merge\n{kind}- tvmerge\n---\n\n# {name}\n\n"
        f"Made with tvmerge {__version__}: {made}\n\n"
        f"| input | coefficient |\n|---|---|\n{rows}\n\n"
        f"{taken} come from {donor.source.name}{last}.\n"
        f"{'' if recipe is None else _fenced(recipe.text, (donor.source, *inputs))}"
    )


def _fenced(recipe: str, inputs: Iterable[Path]) -> str:
    """The recipe as a block of code, with what is in it of this machine's folders left out."""
    for path in sorted(inputs, key=lambda path: -len(os.fspath(path))):
        recipe = recipe.replace(os.fspath(path), path.name)
    longest = max(map(len, re.findall("`+", recipe)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"\n{fence}yaml\n{recipe.strip()}\n{fence}\n"


def _is_plain(name: str) -> bool:
    """Whether YAML writes the text as it is; false in case of doubt."""
    letters = name.replace("-", "").replace("_", "").replace(".", "")
    return (
        letters.isascii() and letters.isalnum() and name[0].isalpha() and name.lower() not in _WORDS
    )


def _number(coefficient: float | None) -> str:
    return "by tensor" if coefficient is None else f"{coefficient:.17g}"
