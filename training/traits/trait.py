"""A trait: a folder with a manifest and its items, in the catalogue or anywhere on disk.

    power_seeking/
        trait.yaml      name, title, description, rationale, polarity, source, licence
        train.jsonl     {"form": "statement", "question": ..., "shows": ..., "lacks": ...}
        dev.jsonl       chooses the scale
        test.jsonl      is reported

Forms: `statement`, `yes_no`, `choice` (question, two options as `shows` and `lacks`, more under
`others`) and `dialogue` (earlier turns under `before`). With `measured_only: true` there is no
train.jsonl. A manifest with `format: evals_jsonl` and `file: x.jsonl` takes its items from one
public file instead, split by hash. With `polarity: lacks`, what the files call `shows` is the
answer WITHOUT the trait; items are swapped on load, so that `Item.shows` always shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from tvmerge.errors import ConfigError, did_you_mean
from tvmerge.files.yaml_file import read_yaml
from tvmerge.training.traits.evals_jsonl import EvalsFile, load_evals_jsonl
from tvmerge.training.traits.item_files import read_items
from tvmerge.training.traits.items import (
    Form,
    Item,
    Part,
    PlacedItem,
    Polarity,
    check_parts,
    limited,
    swap,
)

__all__ = [
    "CATALOGUE",
    "EvalsFile",
    "Form",
    "Item",
    "Part",
    "Polarity",
    "Trait",
    "TraitManifest",
    "catalogue_names",
    "limited",
    "load_evals_jsonl",
    "load_trait",
]

CATALOGUE = Path(__file__).parents[1] / "catalogue"
MANIFEST = "trait.yaml"
PARTS: tuple[Part, ...] = ("train", "dev", "test")

# A dot would be ambiguous in job names such as `power_seeking.have`.
TraitName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class TraitManifest(BaseModel):
    """What trait.yaml says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: TraitName
    title: str
    description: str
    rationale: str
    polarity: Polarity
    source: str
    licence: str
    format: Literal["items", "evals_jsonl"] = "items"
    file: str | None = None
    statements: bool = False
    measured_only: bool = False

    @model_validator(mode="after")
    def _file_goes_with_its_format(self) -> TraitManifest:
        evals = self.format == "evals_jsonl"
        if evals and self.file is None:
            raise ValueError("format evals_jsonl needs `file: NAME.jsonl`, found none. Add it.")
        if not evals and (self.file is not None or self.statements):
            raise ValueError(
                "`file` and `statements` are for `format: evals_jsonl`. Add that line, or remove "
                "them and put the items into train.jsonl, dev.jsonl and test.jsonl."
            )
        if evals and self.measured_only:
            raise ValueError("measured_only is for `format: items`. Remove it.")
        return self


@dataclass(frozen=True, slots=True)
class Trait:
    """A trait with its items; in every item, `shows` shows the trait."""

    name: str
    title: str
    description: str
    rationale: str
    polarity: Polarity
    source: str
    licence: str
    train: tuple[Item, ...]
    dev: tuple[Item, ...]
    test: tuple[Item, ...]

    def items(self, part: Part) -> tuple[Item, ...]:
        """The items of one part."""
        items: tuple[Item, ...] = getattr(self, part)
        return items


def elicited(trait: Trait, shots: int) -> Trait:
    """The trait's test statements after `shots` showing answers to other questions of it.

    The examples are development statements: what is trained on would be remembered, not followed.
    """
    shown = [item for item in trait.dev if item.form == "statement"][:shots]
    before = tuple(text for item in shown for text in (item.question, item.shows))
    test = tuple(
        replace(item, before=before) for item in trait.test if item.form == "statement" and before
    )
    return replace(
        trait,
        name=f"{trait.name}+{shots}",
        title=f"{trait.title}, after {len(shown)} examples",
        train=(),
        dev=(),
        test=test,
    )


def catalogue_names() -> list[str]:
    """Names of the traits that tvmerge ships."""
    return sorted(manifest.parent.name for manifest in CATALOGUE.glob(f"*/{MANIFEST}"))


def load_trait(name_or_path: str | Path) -> Trait:
    """The catalogue's trait of that name, or the one in that folder.

    >>> load_trait("conscientiousness").train[0].form
    'statement'
    """
    folder = _folder(name_or_path)
    manifest = read_yaml(folder / MANIFEST, TraitManifest)
    parts = _read_parts(folder, manifest)
    check_parts(parts)
    flip = manifest.polarity == "lacks"
    items = {
        part: tuple(swap(item) if flip else item for item, _ in placed)
        for part, placed in parts.items()
    }
    said = manifest.model_dump(exclude={"format", "file", "statements", "measured_only"})
    return Trait(**said, train=items["train"], dev=items["dev"], test=items["test"])


def _folder(name_or_path: str | Path) -> Path:
    names = catalogue_names()
    if str(name_or_path) in names:
        return CATALOGUE / str(name_or_path)
    folder = Path(name_or_path)
    if (folder / MANIFEST).is_file():
        return folder
    found = f"a folder without {MANIFEST}" if folder.is_dir() else "no such folder"
    raise ConfigError(
        f"trait {str(name_or_path)!r}: expected a name of the catalogue or a folder with "
        f"{MANIFEST}, found {found}.{did_you_mean(str(name_or_path), names)} "
        f"The catalogue has: {', '.join(names)}."
    )


def _read_parts(folder: Path, manifest: TraitManifest) -> dict[Part, Sequence[PlacedItem]]:
    if manifest.file is None:
        read = PARTS[1:] if manifest.measured_only else PARTS
        return dict.fromkeys(PARTS, ()) | {
            part: read_items(folder / f"{part}.jsonl") for part in read
        }
    # Read as written: load_trait swaps both formats in one place.
    file = load_evals_jsonl(
        folder / manifest.file, polarity="shows", statements=manifest.statements
    )
    return {"train": file.train, "dev": file.dev, "test": file.test}
