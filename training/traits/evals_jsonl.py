"""The public JSON-lines format of model-written evaluations (Perez et al. 2022, arXiv 2212.09251).

Each line has `question`, `answer_matching_behavior` and `answer_not_matching_behavior`; persona
files also have `statement`. "Matching" is not always "showing the trait": the caller says which
by `polarity`. The files repeat some items, which are removed before anything is split.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvmerge.errors import FormatError
from tvmerge.training.traits.item_files import check_answers, read_json_lines, text_field
from tvmerge.training.traits.items import (
    Form,
    Item,
    Part,
    PlacedItem,
    Polarity,
    normal,
    option_texts,
    swap,
    telling_texts,
)

KEYS = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
# In the order in which the shares are handed out.
SHARES: dict[Part, float] = {"test": 0.3, "dev": 0.1, "train": 0.6}
STATEMENT_QUESTION = "What would you say about yourself?"
LETTER = re.compile(r"\([A-Z]\)")


@dataclass(frozen=True, slots=True)
class EvalsFile:
    """The three parts of a file, and how many lines were left out because they repeat another.

    `near_duplicates` repeat one but for capitals, blanks and the order of options.
    """

    train: tuple[PlacedItem, ...]
    dev: tuple[PlacedItem, ...]
    test: tuple[PlacedItem, ...]
    duplicates: int
    near_duplicates: int


def load_evals_jsonl(path: Path, *, polarity: Polarity, statements: bool = False) -> EvalsFile:
    """The items of the file, split by a hash of each question: its lines' order means nothing.

    `polarity` says what the matching answer does: it "shows" the trait, or it "lacks" it. With
    `statements`, the texts under `statement` become items too, each statement of one who has the
    trait beside one of another who has not.

        file = load_evals_jsonl(Path("survival-instinct.jsonl"), polarity="lacks")
    """
    rows, duplicates, near_duplicates = _distinct(path)
    parts: dict[Part, list[PlacedItem]] = {part: [] for part in SHARES}
    for part, members in _split(rows).items():
        parts[part] = [row.question_item(polarity) for row in members]
        if statements:
            parts[part] += _statement_items(members, polarity)
    return EvalsFile(
        train=tuple(parts["train"]),
        dev=tuple(parts["dev"]),
        test=tuple(parts["test"]),
        duplicates=duplicates,
        near_duplicates=near_duplicates,
    )


@dataclass(frozen=True, slots=True)
class _Row:
    raw: dict[str, Any]
    item: Item
    place: str

    def question_item(self, polarity: Polarity) -> PlacedItem:
        item = self.item if polarity == "shows" else swap(self.item)
        return PlacedItem(item, self.place)

    @property
    def rank(self) -> str:
        return hashlib.sha256(normal(self.item.question).encode()).hexdigest()


def _distinct(path: Path) -> tuple[list[_Row], int, int]:
    rows: dict[str, _Row] = {}
    questions: set[str] = set()
    duplicates = near_duplicates = 0
    for raw, place in read_json_lines(path):
        item = _item(raw, place)
        first = rows.setdefault("\n".join(telling_texts(item)), _Row(raw, item, place))
        if _answers(first.item) != _answers(item):
            raise FormatError(
                f"{place}: the same question stands at {first.place} with other answers. "
                "Remove the wrong one of the two."
            )
        if first.place != place:
            duplicates += raw["question"] in questions
            near_duplicates += raw["question"] not in questions
        questions.add(raw["question"])
    return list(rows.values()), duplicates, near_duplicates


def _answers(item: Item) -> tuple[str, str]:
    """The answers in words: the same option may stand under another letter."""
    options = option_texts(item) if item.form == "choice" else {}
    return normal(options.get(item.shows, item.shows)), normal(options.get(item.lacks, item.lacks))


def _item(raw: dict[str, Any], place: str) -> Item:
    question, matching, other = (text_field(raw, key, place) for key in KEYS)
    form: Form
    if {matching, other} <= {"Yes", "No"}:
        form = "yes_no"
    elif LETTER.fullmatch(matching) and LETTER.fullmatch(other):
        form = "choice"
    else:
        raise FormatError(
            f"{place}: expected the answers Yes and No, or two letters such as (A) and (B), "
            f"found {matching!r} and {other!r}. Write the trait's own train, dev and "
            "test.jsonl for other answers."
        )
    item = Item(form=form, question=question, shows=matching, lacks=other)
    check_answers(item, place)
    return item


def _split(rows: Sequence[_Row]) -> dict[Part, list[_Row]]:
    """Each answer's rows apart, so that every part keeps the file's balance."""
    parts: dict[Part, list[_Row]] = {part: [] for part in SHARES}
    for answer in sorted({row.item.shows for row in rows}):
        ranked = sorted((row for row in rows if row.item.shows == answer), key=lambda row: row.rank)
        start, share = 0, 0.0
        for part, own_share in SHARES.items():
            share += own_share
            end = round(share * len(ranked))
            parts[part] += ranked[start:end]
            start = end
    return {part: sorted(members, key=lambda row: row.rank) for part, members in parts.items()}


def _statement_items(rows: Sequence[_Row], polarity: Polarity) -> list[PlacedItem]:
    """Pairs in the rows' order; what one side has more of than the other is left out."""
    texts: dict[str, list[tuple[str, str]]] = {"Yes": [], "No": []}
    for row in rows:
        if row.item.form != "yes_no":
            raise FormatError(
                f"{row.place}: `statements: true` expected the answers Yes and No, found "
                f"{row.item.shows!r}. Remove `statements` from the manifest."
            )
        statement = text_field(row.raw, "statement", row.place)
        texts[row.item.shows].append((statement, row.place))
    return [
        PlacedItem(swap(item) if polarity == "lacks" else item, place)
        for (agreed, place), (refused, _) in zip(texts["Yes"], texts["No"], strict=False)
        for item in [Item("statement", STATEMENT_QUESTION, agreed, refused)]
    ]
