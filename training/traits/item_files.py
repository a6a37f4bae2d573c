"""Reads files of items: everything that can be wrong with one is found here, with its line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvmerge.errors import FormatError, did_you_mean
from tvmerge.training.traits.items import FORMS, LETTERS, Form, Item, PlacedItem

KEYS = ("form", "before", "question", "shows", "lacks", "others")
# Keys that only items of one form have.
KEYS_OF_FORM: dict[str, Form] = {"before": "dialogue", "others": "choice"}


def read_items(path: Path) -> list[PlacedItem]:
    """Every line of a JSON-lines file of items, as written (polarity is the manifest's).

    A choice's options get letters that shift from item to item, so that each letter is right
    equally often, in the whole file and in its beginning.
    """
    found = []
    choices = dict.fromkeys(range(len(LETTERS) + 1), 0)
    for raw, place in read_json_lines(path):
        item = _item(raw, place)
        if item.form == "choice":
            others = _texts(raw, "others", place) if "others" in raw else ()
            options = (item.shows, item.lacks, *others)
            _check_options(options, place)
            item = _lettered(item, options, shift=choices[len(options)])
            choices[len(options)] += 1
        found.append(PlacedItem(item, place))
    return found


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


def check_answers(item: Item, place: str) -> None:
    """Two different answers; of a Yes/No question exactly Yes and No."""
    if item.form == "yes_no" and {item.shows, item.lacks} != {"Yes", "No"}:
        raise FormatError(
            f"{place}: expected the answers Yes and No, one as `shows` and one as `lacks`, found "
            f"{item.shows!r} and {item.lacks!r}. Write them so, or use the form 'statement'."
        )
    if item.shows == item.lacks:
        raise FormatError(f"{place}: expected two different answers, found {item.shows!r} twice.")


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
    for key, owner in KEYS_OF_FORM.items():
        if key in raw and form != owner:
            raise FormatError(
                f"{place}: {key!r} is for the form {owner!r}, found it in a {form!r}. Remove it."
            )
    item = Item(
        form=form,
        question=text_field(raw, "question", place),
        shows=text_field(raw, "shows", place),
        lacks=text_field(raw, "lacks", place),
        before=_turns(raw, place) if form == "dialogue" else (),
    )
    check_answers(item, place)
    return item


def _texts(raw: dict[str, Any], key: str, place: str) -> tuple[str, ...]:
    value = raw.get(key)
    if not isinstance(value, list) or not value:
        raise FormatError(f"{place}: {key}: expected a list of texts, found {value!r}.")
    return tuple(text_field({key: text}, key, place) for text in value)


def _turns(raw: dict[str, Any], place: str) -> tuple[str, ...]:
    turns = _texts(raw, "before", place)
    if len(turns) % 2:
        raise FormatError(
            f"{place}: before: expected turns of user and assistant by turns, the assistant's "
            f"last (the user's next one is the question), found {len(turns)} turns."
        )
    return turns


def _check_options(options: Sequence[str], place: str) -> None:
    if len(set(options)) < len(options) or len(options) > len(LETTERS):
        raise FormatError(
            f"{place}: expected different options, {len(LETTERS)} at most, found "
            f"{', '.join(map(repr, options))}."
        )
    for text in options:
        if "\n" in text or re.match(r"\([A-Z]\)", text):
            raise FormatError(
                f"{place}: expected options of one line without letters (they are put before "
                f"them on reading), found {text!r}."
            )


def _lettered(item: Item, options: Sequence[str], *, shift: int) -> Item:
    """The showing option at letter `shift`, the next one after it, and so on, round and round."""
    count = len(options)
    # The lacking option follows the showing one at every distance in turn.
    turn = shift // count % (count - 1)
    rest = [*options[1 + turn :], *options[1 : 1 + turn]]
    placed = dict(
        zip([(shift + n) % count for n in range(count)], [options[0], *rest], strict=True)
    )
    lines = [f"({LETTERS[place]}) {placed[place]}" for place in range(count)]
    letter_of = {text: f"({LETTERS[place]})" for place, text in placed.items()}
    return replace(
        item,
        question="\n".join([item.question, *lines]),
        shows=letter_of[item.shows],
        lacks=letter_of[item.lacks],
    )
