"""The items of a trait: a question with an answer that shows the trait and one that lacks it."""

from __future__ import annotations

import hashlib
import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from tvmerge.errors import FormatError

Form = Literal["statement", "yes_no", "choice", "dialogue"]
Polarity = Literal["shows", "lacks"]
Part = Literal["train", "dev", "test"]

FORMS: tuple[Form, ...] = get_args(Form)
LETTERS = string.ascii_uppercase
# Of the yes_no items, at most this share of all may be missing from a half-and-half balance.
IMBALANCE = 0.1


@dataclass(frozen=True, slots=True)
class Item:
    """A question; `shows` is the answer of one who has the trait, `lacks` of one who has not.

    `before` are the turns of a dialogue before the question: user, assistant, user, ...
    The question of a choice lists its options under letters, and its answers are two of these.
    """

    form: Form
    question: str
    shows: str
    lacks: str
    before: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Eight hex digits that stay with an item: models are paired by it, never by position."""
        text = "\0".join((self.form, *self.before, self.question, self.shows, self.lacks))
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


class PlacedItem(NamedTuple):
    """An item and where it was read (`file:line`)."""

    item: Item
    place: str


def swap(item: Item) -> Item:
    """The same item for the opposite trait."""
    return replace(item, shows=item.lacks, lacks=item.shows)


def check_parts(parts: dict[Part, Sequence[PlacedItem]]) -> None:
    """No item twice, no text in two parts, as many Yes as No in each part's questions."""
    homes: dict[str, tuple[Part, str]] = {}
    for part, placed in parts.items():
        seen: dict[tuple[str, ...], str] = {}
        for item, place in placed:
            texts = (item.form, *item.before, item.question, item.shows, item.lacks)
            key = tuple(map(normal, texts))
            if key in seen:
                raise FormatError(
                    f"{place}: the same item stands at {seen[key]}. Remove one of the two."
                )
            seen[key] = place
            for text in telling_texts(item):
                home, where = homes.setdefault(text, (part, place))
                if home != part:
                    raise FormatError(
                        f"{place}: expected texts that stand in one part only, found {text!r} in "
                        f"{part} here and in {home} at {where}. Remove it from one part: what is "
                        "trained on or chosen by must not be measured on."
                    )
        _check_balance(placed)


def limited(items: Iterable[Item], limits: Mapping[Form, int | None]) -> tuple[Item, ...]:
    """The first items of each form, in order, as many as its limit says (none or None: all).

    Yes/No questions are taken half and half by the answer that shows the trait.
    """
    left: dict[str, float] = {}
    for form in FORMS:
        limit = limits.get(form)
        left[form] = math.inf if limit is None else limit
        # Of a Yes/No question either answer may show the trait.
        left[f"{form} Yes"] = math.inf if limit is None else (limit + 1) // 2
        left[f"{form} No"] = math.inf if limit is None else limit // 2
    taken = []
    for item in items:
        kind = _alike(item)
        if left[kind] > 0:
            left[kind] -= 1
            taken.append(item)
    return tuple(taken)


def balanced(items: Iterable[Item]) -> tuple[Item, ...]:
    """The items, every second one swapped: their `shows` shows the trait as often as it lacks it.

    So it is within each form, and of Yes/No questions within each answer.
    """
    seen: Counter[str] = Counter()
    found = []
    for item in items:
        found.append(swap(item) if seen[_alike(item)] % 2 else item)
        seen[_alike(item)] += 1
    return tuple(found)


def _alike(item: Item) -> str:
    """What the item is counted with: its form, and of a Yes/No question the answer that shows."""
    return f"yes_no {item.shows}" if item.form == "yes_no" else item.form


def stem(item: Item) -> str:
    """A choice's question without its options."""
    return re.split(r"^ ?\([A-Z]\)", item.question, maxsplit=1, flags=re.MULTILINE)[0].strip()


def option_texts(item: Item) -> dict[str, str]:
    """`{"(A)": text, ...}` of a choice's question."""
    parts = re.split(r"^ ?(\([A-Z]\)) ?", item.question, flags=re.MULTILINE)
    return {letter: text.strip() for letter, text in zip(parts[1::2], parts[2::2], strict=True)}


def telling_texts(item: Item) -> tuple[str, ...]:
    """What makes an item itself, whatever its letters and blanks: what must stand in one part.

    Statements share their few neutral questions: it is what they say. The same options in another
    order are the same choice.
    """
    if item.form == "statement":
        return normal(item.shows), normal(item.lacks)
    if item.form == "choice":
        return (normal("\n".join([stem(item), *sorted(option_texts(item).values())])),)
    return (normal("\n".join((*item.before, item.question))),)


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
