"""Reads a receipt that anybody may have written: all of it is checked, in bounded time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from tvmerge.engine.edit import Edit
from tvmerge.errors import FormatError
from tvmerge.files.safetensors import DTYPE_BITS, MOST_TENSORS
from tvmerge.files.untrusted import parse_json, read_bounded, shown
from tvmerge.plans.outcome import COMBINED, COPIED, TensorOutcome
from tvmerge.receipts.receipt import (
    COLUMNS,
    FORMAT,
    MODEL,
    RECEIPT_NAME,
    SEAL,
    VECTOR,
    FileRecord,
    InputRecord,
    Receipt,
    Recipe,
    RecipeText,
    seal,
)

_LARGEST_BYTES = 150_000_000  # 300 for each of as many tensors as a header may have
_VALUES_PER_TENSOR = len(COLUMNS) + 2  # as parse_json counts them, with room for the files
_COUNTS, _SUMS = slice(6, 9), slice(12, 15)  # of a row; what lies between is derived
_SECTIONS = frozenset(
    {"format", "tvmerge", "kind", "recipe", "inputs", "files", "tensors", "totals", "run", "digest"}
)


def read_receipt(folder: Path) -> Receipt:
    """The receipt of an output folder.

    Raises FormatError where there is none, or not one that tvmerge has written; StorageError
    where reading fails.
    """
    path = folder / RECEIPT_NAME
    if not path.exists():
        below = sorted(found.parent.name for found in folder.glob(f"*/{RECEIPT_NAME}"))
        which = f", such as {folder / below[0]}" if below else ""
        raise FormatError(
            f"{folder}: has no {RECEIPT_NAME}. Name the folder of a model or vector that tvmerge "
            f"has written{which}"
        )
    return parse_receipt(read_bounded(path, most_bytes=_LARGEST_BYTES), path)


def parse_receipt(content: bytes, path: Path = Path(RECEIPT_NAME)) -> Receipt:
    """The receipt in a file's content; raises FormatError, with `path`, for anything else.

    Numbers that follow from others (totals, shares, cosines) are not taken from it, but computed
    again.
    """
    try:
        if not content.isascii():  # else four bytes for every one in memory
            _fail("it is not in ASCII")
        parsed = parse_json(content, most_values=_VALUES_PER_TENSOR * MOST_TENSORS)
        return _receipt(_object(parsed, "the receipt"), content)
    except (ValueError, OverflowError) as error:
        what = f"{path}: not a receipt that tvmerge has written: {error}"
        raise FormatError(f"{what}. Restore the file, or merge again") from error


def _receipt(found: dict[str, Any], content: bytes) -> Receipt:
    if found.get("format") != FORMAT:
        _fail(f"expected the format {FORMAT!r}, found {shown(found.get('format'))}")
    if found.keys() != _SECTIONS:
        odd = sorted(found.keys() ^ _SECTIONS)
        _fail(f"{shown(odd[0])} is missing, or should not be there")
    before, _, after = content.rpartition(SEAL)
    if list(found)[-2:] != ["digest", "run"] or not after.startswith(f'"{seal(before)}",'.encode()):
        _fail("its content is not what its digest says: it was changed after it was written")
    inputs = tuple(map(_input, _list(found["inputs"], "inputs")))
    receipt = Receipt(
        version=_text(found["tvmerge"], "tvmerge"),
        recipe=_recipe(found, len(inputs)),
        inputs=inputs,
        files=tuple(map(_file, _list(found["files"], "files"))),
        tensors=tuple(_tensors(_object(found["tensors"], "tensors"))),
        run=_run(_object(found["run"], "run")),
    )
    _once((file.name for file in receipt.files), "files")
    _once((tensor.name for tensor in receipt.tensors), "tensors")
    return receipt


def _run(found: dict[str, Any]) -> dict[str, Any]:
    for key, value in found.items():
        if isinstance(value, list | dict) or value in (math.inf, -math.inf):
            _fail(f"run: {shown(key)} has the value {shown(value)}")
    return found


def _recipe(found: dict[str, Any], inputs: int) -> Recipe:
    asked = _object(found["recipe"], "recipe")
    kind = _one_of(found["kind"], (MODEL, VECTOR), "kind")
    donor = _count(asked.get("donor"), "donor")
    if donor >= inputs:
        _fail(f"donor: there is no input {donor}")
    dtype = asked.get("dtype")
    return Recipe(
        kind=kind,
        donor=donor,
        dtype=None if dtype is None else _one_of(dtype, DTYPE_BITS, "dtype"),
        source=_recipe_text(asked),
        scale=None if asked.get("scale") is None else _finite(asked["scale"], "scale"),
        form=_text_or_none(asked.get("form"), "form"),
    )


def _recipe_text(asked: dict[str, Any]) -> RecipeText | None:
    method, text = asked.get("method"), asked.get("text")
    if method is None and text is None:
        return None
    lenient = asked.get("lenient", False)
    if not isinstance(lenient, bool):
        _fail(f"lenient: expected true or false, found {shown(lenient)}")
    return RecipeText(_text(method, "method"), _text(text, "text"), lenient)


def _input(value: Any) -> InputRecord:
    found = _object(value, "an input")
    coefficient = found.get("coefficient")
    if coefficient is not None:
        _finite(coefficient, "coefficient")
    if found.get("coefficient_hex") != (None if coefficient is None else coefficient.hex()):
        _fail(f"coefficient {coefficient} is not {shown(found.get('coefficient_hex'))}")
    files = tuple(map(_file, _list(found.get("files"), "files")))
    _once((file.name for file in files), "files")
    return InputRecord(
        given=_path(found.get("given"), "given"),
        path=_path(found.get("path"), "path"),
        coefficient=coefficient,
        files=files,
    )


def _file(value: Any) -> FileRecord:
    found = _object(value, "a file")
    mtime_ns = found.get("mtime_ns")
    return FileRecord(
        name=_name_below(found.get("name")),
        size_bytes=_count(found.get("bytes"), "bytes"),
        digest=_text(found.get("digest"), "digest"),
        header_digest=_text_or_none(found.get("header_digest"), "header_digest"),
        mtime_ns=None if mtime_ns is None else _whole(mtime_ns, "mtime_ns"),
    )


def _tensors(found: dict[str, Any]) -> Iterator[TensorOutcome]:
    if found.get("columns") != list(COLUMNS):
        _fail(f"tensors: expected the columns {', '.join(COLUMNS)}")
    rows = _list(found.get("rows"), "rows")
    if len(rows) > MOST_TENSORS:
        _fail(f"lists {len(rows):,} tensors, expected at most {MOST_TENSORS:,}")
    for row in rows:
        if not isinstance(row, list) or len(row) != len(COLUMNS):
            _fail(f"tensors: a row has not {len(COLUMNS)} values: {shown(row)}")
        name, dtype, elements, action, reason, differs = row[:6]
        edit = None
        if _one_of(action, (COMBINED, COPIED), "action") == COMBINED:
            counts = [_count(value, "a count") for value in row[_COUNTS]]
            edit = Edit(*counts, *map(_sum, row[_SUMS]))
            if edit.intended_sq < 0 or edit.realised_sq < 0:
                _fail(f"tensors: a sum of squares is below 0: {shown(row)}")
        yield TensorOutcome(
            _text(name, "name"),
            _one_of(dtype, DTYPE_BITS, "dtype"),
            _count(elements, "elements"),
            action,
            _text(reason, "reason"),
            edit,
            differs=differs is True,
        )


def _fail(what: str) -> NoReturn:
    raise ValueError(what)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _fail(f"{what}: expected an object, found {shown(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        _fail(f"{what}: expected a list, found {shown(value)}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        _fail(f"{what}: expected a text, found {shown(value)}")
    return value


def _text_or_none(value: Any, what: str) -> str | None:
    return None if value is None else _text(value, what)


def _one_of(value: Any, known: Any, what: str) -> str:
    if _text(value, what) not in known:
        _fail(f"{what}: expected one of {', '.join(known)}, found {shown(value)}")
    return str(value)


def _whole(value: Any, what: str) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        _fail(f"{what}: expected a whole number, found {shown(value)}")
    return value


def _count(value: Any, what: str) -> int:
    if _whole(value, what) < 0:
        _fail(f"{what}: expected a count, found {shown(value)}")
    return int(value)


def _finite(value: Any, what: str) -> float:
    if not isinstance(value, float) or not math.isfinite(value):
        _fail(f"{what}: expected a finite number, found {shown(value)}")
    return value


def _sum(value: Any) -> float:
    """A sum over elements; null stands for one that is not finite."""
    if value is not None and not isinstance(value, float):
        _fail(f"expected a sum, found {shown(value)}")
    return math.nan if value is None else value


def _path(value: Any, what: str) -> str:
    if "\0" in _text(value, what):
        _fail(f"{what}: {shown(value)} is no path")
    return str(value)


def _name_below(value: Any) -> str:
    """The name of a file in the receipt's folder: it must not lead anywhere else."""
    pure = PurePosixPath(_path(value, "name"))
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or pure.as_posix() != value:
        _fail(f"the file name {shown(value)} leaves the folder")
    return str(value)


def _once(names: Iterator[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _fail(f"{what}: {shown(name)} is listed twice")
        seen.add(name)
