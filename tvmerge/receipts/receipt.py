"""The receipt of a merge: what went in, what was done to every tensor, and what came out.

`tvmerge_receipt.json` lies in every output folder; docs/receipt.md describes it field by field.
All that may differ between two runs of one merge (machine, threads, times) is in its section
`run`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tvmerge.engine.digest import bytes_digest
from tvmerge.engine.edit import Edit, total
from tvmerge.plans.outcome import COMBINED, COPIED, TensorOutcome

RECEIPT_NAME = "tvmerge_receipt.json"
FORMAT = "tvmerge receipt 1"
MODEL = "model"
VECTOR = "task vector"
# Of a row in `tensors`; a copied tensor has null from `changed` on.
COLUMNS = (
    "name", "dtype", "elements", "action", "reason", "differs", "changed", "intended", "lost",
    "lost_share", "cosine", "relative_error", "intended_sq", "realised_sq", "dot",
)  # fmt: skip
# Precedes the receipt's own digest, which covers all bytes before these; only `run` follows.
SEAL = b',\n"digest": '

_OF_EDIT = COLUMNS[COLUMNS.index("changed") :]
_DIGITS = 9  # of shares and cosines, which are derived; sums are kept exactly
_encode = json.JSONEncoder(separators=(", ", ": "), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file: its path below the folder (with `/`), size and digest (digest.py).

    Safetensors files also have the digest of their header alone, inputs the time of their last
    change in nanoseconds.
    """

    name: str
    size_bytes: int
    digest: str
    header_digest: str | None = None
    mtime_ns: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; without what the file does not have."""
        named = {"name": self.name, "bytes": self.size_bytes, "digest": self.digest}
        more = {"header_digest": self.header_digest, "mtime_ns": self.mtime_ns}
        return named | {key: value for key, value in more.items() if value is not None}


@dataclass(frozen=True, slots=True)
class InputRecord:
    """One input: its path as given and as resolved, its coefficient in the sum, its files.

    A donor that is not in the sum has the coefficient 0; None: each tensor has its own, which the
    recipe tells.
    """

    given: str
    path: str
    coefficient: float | None
    files: tuple[FileRecord, ...]


@dataclass(frozen=True, slots=True)
class RecipeText:
    """A recipe as it was read: its merge method, and the YAML file's text."""

    method: str
    text: str
    lenient: bool = False  # what it has and mergekit passes over was no error


@dataclass(frozen=True, slots=True)
class Recipe:
    """What was asked for."""

    kind: str  # MODEL or VECTOR
    donor: int  # the number of the input that gives layout, dtypes and accompanying files
    dtype: str | None = None  # None: as in the donor (float32 for a task vector)
    source: RecipeText | None = None
    scale: float | None = None  # of a sweep whose coefficients are those of tensors
    form: str | None = None  # of a vector that is not stored dense: int8, topk=0.1, rank=16


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything that the receipt's file says."""

    version: str  # of tvmerge
    recipe: Recipe
    inputs: tuple[InputRecord, ...]  # in the order of the sum
    files: tuple[FileRecord, ...]
    tensors: tuple[TensorOutcome, ...]
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def edit(self) -> Edit:
        """The edit of the whole model."""
        return total(tensor.edit for tensor in self.tensors if tensor.edit is not None)

    def totals(self) -> dict[str, Any]:
        """The sums over all tensors."""
        actions = Counter(tensor.action for tensor in self.tensors)
        return {
            "tensors": len(self.tensors),
            "combined": actions[COMBINED],
            "copied": actions[COPIED],
            "elements": sum(t.elements for t in self.tensors if t.action == COMBINED),
            **dict(zip(_OF_EDIT, _edit(self.edit), strict=True)),
        }

    def to_bytes(self) -> bytes:
        """The content of the file: JSON in ASCII, a line for every file and tensor."""
        told = b"{\n" + ",\n".join(self._sections()).encode()
        run = _encode({key: _finite(value) for key, value in self.run.items()})
        return told + SEAL + f'"{seal(told)}",\n"run": {run}\n}}\n'.encode()

    def to_dict(self) -> dict[str, Any]:
        """What `to_bytes` spells out."""
        found: dict[str, Any] = json.loads(self.to_bytes())
        return found

    def _sections(self) -> Iterator[str]:
        recipe = self.recipe
        yield f'"format": {_encode(FORMAT)}'
        yield f'"tvmerge": {_encode(self.version)}'
        yield f'"kind": {_encode(recipe.kind)}'
        source = recipe.source
        text = {"method": source and source.method, "text": source and source.text}
        asked: dict[str, Any] = {"donor": recipe.donor, "dtype": recipe.dtype}
        if recipe.scale is not None:
            asked["scale"] = recipe.scale
        if recipe.form is not None:
            asked["form"] = recipe.form
        if source is not None and source.lenient:
            asked["lenient"] = True
        yield f'"recipe": {_encode(asked | text)}'
        yield f'"inputs": {_lines(map(_input, self.inputs))}'
        yield f'"files": {_lines(_encode(file.to_dict()) for file in self.files)}'
        rows = _lines(_encode(row(tensor)) for tensor in self.tensors)
        yield f'"tensors": {{"columns": {_encode(list(COLUMNS))}, "rows": {rows}}}'
        yield f'"totals": {_encode(self.totals())}'


def row(tensor: TensorOutcome) -> list[Any]:
    """A tensor's values of COLUMNS; None for what is not finite, and for the edit of a copy."""
    values = [tensor.name, tensor.dtype, tensor.elements, tensor.action, tensor.reason]
    edit = [None] * len(_OF_EDIT) if tensor.edit is None else _edit(tensor.edit)
    return [*values, tensor.differs, *edit]


def seal(before: bytes) -> str:
    """The receipt's own digest, from all that precedes SEAL in it."""
    return bytes_digest([before])


def relative_error(edit: Edit) -> float | None:
    """|realised - intended| / |intended|; None where nothing was intended or it is not finite.

    From the three sums, whose cancellation leaves about 1e-8 as the least that can be seen.
    """
    if not 0 < edit.intended_sq < math.inf:
        return None
    error_sq = edit.realised_sq - 2 * edit.dot + edit.intended_sq
    return math.sqrt(max(0.0, error_sq) / edit.intended_sq) if math.isfinite(error_sq) else None


def _edit(edit: Edit) -> list[Any]:
    changed, intended, lost, *sums = edit
    derived = (edit.lost_share, edit.cosine, relative_error(edit))
    return [changed, intended, lost, *map(_shortened, derived), *map(_finite, sums)]


def _input(record: InputRecord) -> str:
    named = {
        "given": record.given,
        "path": record.path,
        "coefficient": record.coefficient,
        "coefficient_hex": None if record.coefficient is None else record.coefficient.hex(),
    }
    files = _lines(_encode(file.to_dict()) for file in record.files)
    return f'{_encode(named)[:-1]}, "files": {files}}}'


def _lines(values: Iterator[str]) -> str:
    text = ",\n".join(values)
    return f"[\n{text}\n]" if text else "[]"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shortened(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")
