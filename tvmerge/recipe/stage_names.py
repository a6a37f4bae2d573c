"""What stages are called, and which of them may use which: earlier ones, each by its name.

Later ones may put an adapter on a stage: `name+adapter`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from tvmerge.files.yaml_file import Location
from tvmerge.recipe.document import Document, Source

# Each may be written within the writing of the next one: calls are not nested without end.
_MOST_STAGES = 64


def stage_of(reference: str, names: Container[str]) -> str | None:
    """The stage that a model is, or that it puts an adapter on; None: it is no stage."""
    part = reference
    while part not in names and "+" in part:
        part = part.rpartition("+")[0]
    return part if part in names else None


def check_names(documents: Sequence[Document]) -> None:
    """Raise ConfigError for stages without a name, without a use, or used before they are made."""
    if len(documents) > _MOST_STAGES:
        what = f"stage {len(documents)}, expected {_MOST_STAGES} at most. Make two recipes of it"
        raise documents[-1].file.error((), what)
    places: dict[str, int] = {}
    for number, document in enumerate(documents):
        if document.name is None and number < len(documents) - 1:
            raise document.file.error(
                ("name",), "missing: later stages cannot use this one. Add `name: ...`"
            )
        if document.name in places:
            what = f"an earlier stage is called {document.name}. Rename one"
            raise document.file.error(("name",), what)
        if document.name is not None:
            places[document.name] = number
    for number, document in enumerate(documents):
        for reference in document.references:
            fault = _fault(documents, places, number, reference)
            if fault is not None:
                raise document.file.error(_place(document, reference), fault)
    for number, document in enumerate(documents[:-1]):
        if not any(document.name in _stages_of(one, places) for one in documents[number + 1 :]):
            what = f"no later stage uses {document.name}. Remove it, or name it as a model"
            raise document.file.error(("name",), what)


def refuse_folders(documents: Sequence[Document]) -> None:
    """Raise ConfigError for a stage whose name is that of a file or folder as well."""
    names = {document.name for document in documents if document.name is not None}
    for document in documents:
        for reference in document.references:
            if stage_of(reference, names) not in (None, reference) and _exists(Path(reference)):
                what = (
                    f"{reference} is a file or folder here, and an adapter on the stage "
                    f"{stage_of(reference, names)} as well. Rename the stage"
                )
                raise document.file.error(_place(document, reference), what)
        if document.name is not None and _exists(Path(document.name)):
            what = (
                f"{document.name} is a file or folder here as well: which one later stages mean "
                "cannot be told. Rename the stage"
            )
            raise document.file.error(("name",), what)


def _fault(
    documents: Sequence[Document], places: dict[str, int], number: int, reference: str
) -> str | None:
    """What is wrong with a reference of the document with that number."""
    stage = stage_of(reference, places)
    if stage is None or places[stage] < number:
        return None
    if places[stage] == number:
        return f"the stage {stage} uses itself. Name another model, or rename the stage"
    own = documents[number].name
    if own in _used_by(documents, places, places[stage]):
        return f"a circle: the stage {stage} is itself made of {own}. Take one of them out"
    return f"the stage {stage} comes later, and stages use earlier ones. Move it before this"


def _used_by(documents: Sequence[Document], places: dict[str, int], number: int) -> set[str]:
    """The stages that a document is made of, directly or not."""
    found: set[str] = set()
    left = [number]
    while left:
        names = _stages_of(documents[left.pop()], places) - found
        found |= names
        left += [places[name] for name in names]
    return found


def _stages_of(document: Document, names: Container[str]) -> set[str]:
    found = (stage_of(reference, names) for reference in document.references)
    return {stage for stage in found if stage is not None}


def _place(document: Document, reference: str) -> Location:
    named = (source.at for source in _sources(document) if source.model == reference)
    return next(named, ("base_model",))


def _sources(document: Document) -> Iterator[Source]:
    for module in document.modules:
        for part in module.slices:
            yield from part.sources


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, a NUL
        return False
