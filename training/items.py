"""The items of a trait: a question with an answer that shows the trait and one that lacks it.

Everything that can be wrong with a file of them is found here, with its line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from tvmerge.errors import FormatError, did_you_mean

Form = Literal["statement", "yes_no", "choice"]
Polarity = Literal["shows", "lacks"]
Part = Literal["train", "dev", "test"]

FORMS: tuple[Form, ...] = get_args(Form)
KEYS = ("form", "question", "shows", "lacks")
# Of the yes_no items, at most this share of all may be missing from a half-and-half balance.
IMBALANCE = 0.1


@dataclass(frozen=True, slots=True)
class Item:
    """A question; `shows` is the answer of one who has the trait, `lacks` of one who has not."""

    form: Form
    question: str
    shows: str
    lacks: str


class PlacedItem(NamedTuple):
    """An item and where it was read (`file:line`)."""

    item: Item
    place: str


def swap(item: Item) -> Item:
    """The same item for the opposite trait."""
    return replace(item, shows=item.lacks, lacks=item.shows)


def read_items(path: Path) -> list[PlacedItem]:
    """Every line of a JSON-lines file of items, as written (polarity is the manifest's)."""
    return [PlacedItem(_item(raw, place), place) for raw, place in read_json_lines(path)]


def read_json_lines(path: Path) -> list[tuple[dict[str, Any], str]]:
    """(object, `file:line`) of every line that is not empty."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    objects = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            raw = json.loads(line)
        except json.JSONDecodeError as error:
            raise FormatError(
                f"{place}: expected one JSON object on the line, found a fault at column "
                f"{error.colno} ({error.msg})."
            ) from error
        if not isinstance(raw, dict):
            raise FormatError(f"{place}: expected a JSON object, found {type(raw).__name__}.")
        objects.append((raw, place))
    if not objects:
        raise FormatError(f"{path}: expected at least one item, found an empty file.")
    return objects


def text_field(raw: dict[str, Any], key: str, place: str) -> str:
    """The text under `key`, without blanks around it; an error where it is absent or empty."""
    if key not in raw:
        raise FormatError(f"{place}: key {key!r} is missing. Found keys: {', '.join(raw)}.")
    value = raw[key]
    if not isinstance(value, str) or not value.strip():
        raise FormatError(f"{place}: {key}: expected a text, found {value!r}.")
    return value.strip()


def check_parts(parts: dict[Part, Sequence[PlacedItem]]) -> None:
    """No item twice, no text in two parts, as many Yes as No in each part's questions."""
    homes: dict[str, tuple[Part, str]] = {}
    for part, placed in parts.items():
        seen: dict[tuple[str, ...], str] = {}
        for item, place in placed:
            key = tuple(map(normal, (item.form, item.question, item.shows, item.lacks)))
            if key in seen:
                raise FormatError(
                    f"{place}: the same item stands at {seen[key]}. Remove one of the two."
                )
            seen[key] = place
            for text in _telling_texts(item):
                home, where = homes.setdefault(text, (part, place))
                if home != part:
                    raise FormatError(
                        f"{place}: expected texts that stand in one part only, found {text!r} in "
                        f"{part} here and in {home} at {where}. Remove it from one part: what is "
                        "trained on or chosen by must not be measured on."
                    )
        _check_balance(placed)


def limited(
    items: Iterable[Item], *, statements: int | None = None, questions: int | None = None
) -> tuple[Item, ...]:
    """The first `statements` statements and `questions` questions, in order (None = all).

    Yes/No questions are taken half and half by the answer that shows the trait.
    """
    left: dict[str, float] = {
        "statement": _unlimited(statements),
        "choice": _unlimited(questions),
        "yes_no Yes": _unlimited(None if questions is None else (questions + 1) // 2),
        "yes_no No": _unlimited(None if questions is None else questions // 2),
    }
    taken = []
    for item in items:
        kind = f"yes_no {item.shows}" if item.form == "yes_no" else item.form
        if left[kind] > 0:
            left[kind] -= 1
            taken.append(item)
    return tuple(taken)


def _unlimited(limit: int | None) -> float:
    return float("inf") if limit is None else limit


def _item(raw: dict[str, Any], place: str) -> Item:
    unknown = [key for key in raw if key not in KEYS]
    if unknown:
        raise FormatError(
            f"{place}: unknown key {unknown[0]!r}.{did_you_mean(unknown[0], KEYS)} "
            f"Known keys: {', '.join(KEYS)}."
        )
    form = text_field(raw, "form", place)
    if form not in FORMS:
        raise FormatError(
            f"{place}: form: expected one of {', '.join(FORMS)}, found {form!r}."
            f"{did_you_mean(form, FORMS)}"
        )
    item = Item(
        form=form,
        question=text_field(raw, "question", place),
        shows=text_field(raw, "shows", place),
        lacks=text_field(raw, "lacks", place),
    )
    check_answers(item, place)
    return item


def check_answers(item: Item, place: str) -> None:
    """Two different answers; of a Yes/No question exactly Yes and No."""
    if item.form == "yes_no" and {item.shows, item.lacks} != {"Yes", "No"}:
        raise FormatError(
            f"{place}: expected the answers Yes and No, one as `shows` and one as `lacks`, found "
            f"{item.shows!r} and {item.lacks!r}. Write them so, or use the form 'statement'."
        )
    if item.shows == item.lacks:
        raise FormatError(f"{place}: expected two different answers, found {item.shows!r} twice.")


def _telling_texts(item: Item) -> tuple[str, ...]:
    # Statements share their few neutral questions; what must not leak is what they say.
    if item.form == "statement":
        return normal(item.shows), normal(item.lacks)
    return (normal(item.question),)


def _check_balance(placed: Sequence[PlacedItem]) -> None:
    yes = [p for p in placed if p.item.form == "yes_no" and p.item.shows == "Yes"]
    no = [p for p in placed if p.item.form == "yes_no" and p.item.shows == "No"]
    if abs(len(yes) - len(no)) > max(1, IMBALANCE * (len(yes) + len(no))):
        more = yes if len(yes) > len(no) else no
        raise FormatError(
            f"{more[-1].place}: expected as many yes_no items where Yes shows the trait as where "
            f"No does, found {len(yes)} and {len(no)} in this part. Rephrase some questions the "
            "other way round: else a habit of saying Yes looks like the trait."
        )


def normal(text: str) -> str:
    """The text without what makes no other text of it: capitals and runs of blanks."""
    return " ".join(text.casefold().split())
