"""Finds what would make a trait's items teach or measure something else than the trait.

    for finding in lint_trait("power_seeking"):
        print(finding.severity, finding.place, finding.message)

A file that cannot be read, an item twice, a text in two parts and unbalanced Yes/No answers raise
FormatError on loading already. Looked for here, each with the items to look at:

    leak         nearly the same text in two parts (error), in one part (warning)
    length       one side's answers are longer: a habit of length would look like the trait
    word         a word without content ("not", "I", "always") that one side uses far more often
    letter       a choice whose right letters are not spread evenly
    opening      many texts of a form begin alike: a template
    polarity     an item whose two sides read as if they were exchanged
    count        fewer items of a form than a part needs for an interval

"As if exchanged": a naive Bayes classifier over the words of both sides, trained on all other
items, is sure of the opposite. It ranks an exchanged item below a right one in nine of ten cases
(measured on the catalogue), so that what it names is to be read, not believed, and not all is
named.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tvmerge.training.traits.items import FORMS, Form, Item, Part, option_texts, stem
from tvmerge.training.traits.trait import Trait, load_trait

Severity = Literal["error", "warning"]
Check = Literal["leak", "length", "word", "letter", "opening", "polarity", "count"]

NEARLY_THE_SAME = 0.75  # shared share of the words of two texts (Jaccard index)
FEWEST_WORDS = 5  # shorter texts are alike by chance
LONGER_SHARE = 0.05  # of the mean length
LONGER_Z = 2.6  # two-sided 1 %
WORD_SHARE = 0.15  # of a form's texts: how much more often one side has a word
OPENING_SHARE = 0.10
OPENING_WORDS = 2
FEWEST_ITEMS = 8
ENOUGH_TO_JUDGE = 40
SURE_NATS_PER_WORD = 0.25
# Words that carry stance or style, whatever the trait is about.
STYLE_WORDS = frozenset(
    re.findall(
        r"\w+",
        "i me my we you no not never nothing nobody none without always only just very rather "
        "quite gladly happily simply must should would could may might and but because so if while",
    )
)
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to mend (error) or to look at (warning), and where."""

    severity: Severity
    check: Check
    trait: str
    place: str
    message: str


@dataclass(frozen=True, slots=True)
class _Side:
    """An item's text on each side, as words; `place` names part, form and number."""

    part: Part
    form: Form
    place: str
    shows: tuple[str, ...]
    lacks: tuple[str, ...]


def lint_trait(name_or_path: str | Path) -> list[Finding]:
    """Every finding of a trait, errors first; raises what load_trait raises."""
    trait = load_trait(name_or_path)
    found = [
        *_counts(trait),
        *_leaks(trait),
        *_letters(trait),
        *_side_findings(trait),
    ]
    return sorted(found, key=lambda finding: finding.severity)


def _parts(trait: Trait) -> Iterator[tuple[Part, tuple[Item, ...]]]:
    yield "train", trait.train
    yield "dev", trait.dev
    yield "test", trait.test


def _place(part: Part, item: Item, number: int) -> str:
    return f"{part} {item.form} {number} ({_short(_said(item)[0])})"


def _numbered(trait: Trait) -> Iterator[tuple[Part, Item, str]]:
    """Every item with a name of its own: the number counts the part's items of its form."""
    for part, items in _parts(trait):
        counts: Counter[Form] = Counter()
        for item in items:
            counts[item.form] += 1
            yield part, item, _place(part, item, counts[item.form])


def _said(item: Item) -> tuple[str, str]:
    """What each side says in its own words; of a Yes/No item the question is all there is."""
    if item.form == "yes_no":
        return item.question, item.question
    if item.form == "choice":
        options = option_texts(item)
        return options.get(item.shows, item.shows), options.get(item.lacks, item.lacks)
    return item.shows, item.lacks


def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))


def _counts(trait: Trait) -> Iterator[Finding]:
    for part, items in _parts(trait):
        counts = Counter(item.form for item in items)
        for form in FORMS:
            if items and counts[form] < FEWEST_ITEMS:
                yield Finding(
                    "warning",
                    "count",
                    trait.name,
                    part,
                    f"expected {FEWEST_ITEMS} or more items of the form {form}, found "
                    f"{counts[form]}: too few for an interval.",
                )


def _leaks(trait: Trait) -> Iterator[Finding]:
    texts: list[tuple[Part, str, frozenset[str]]] = []
    for part, item, place in _numbered(trait):
        question = stem(item) if item.form == "choice" else item.question
        said = [*_said(item)] if item.form in ("statement", "dialogue") else [question]
        words = [frozenset(_words(text)) for text in said]
        texts += [(part, place, one) for one in words if len(one) >= FEWEST_WORDS]
    for first, second, share in _alike([words for _, _, words in texts]):
        (part, place, _), (other_part, other_place, _) = texts[first], texts[second]
        if place == other_place:  # the two sides of one item are alike on purpose
            continue
        yield Finding(
            "error" if part != other_part else "warning",
            "leak",
            trait.name,
            place,
            f"shares {share:.0%} of its words with {other_place}. Rewrite one of the two"
            f"{': what is trained on must not be measured on' if part != other_part else ''}.",
        )


def _alike(texts: Sequence[frozenset[str]]) -> Iterator[tuple[int, int, float]]:
    """Pairs whose Jaccard index reaches NEARLY_THE_SAME, by one product of 0/1 matrices."""
    column: dict[str, int] = {}
    for words in texts:
        for word in words:
            column.setdefault(word, len(column))
    has = np.zeros((len(texts), len(column)), dtype=np.float32)
    for row, words in enumerate(texts):
        has[row, [column[word] for word in words]] = 1
    shared = has @ has.T
    sizes = has.sum(axis=1)
    index = shared / np.maximum(sizes[:, None] + sizes[None, :] - shared, 1)
    for first, second in zip(*np.nonzero(np.triu(index >= NEARLY_THE_SAME, 1)), strict=True):
        yield int(first), int(second), float(index[first, second])


def _letters(trait: Trait) -> Iterator[Finding]:
    for part, items in _parts(trait):
        choices = [item for item in items if item.form == "choice"]
        counts = Counter(item.shows for item in choices)
        two = [item for item in choices if len(option_texts(item)) == 2]
        first = sum(item.shows == "(A)" for item in two)
        if len(two) >= FEWEST_ITEMS and abs(first - len(two) / 2) > 0.1 * len(two) + 1:
            yield Finding(
                "error",
                "letter",
                trait.name,
                part,
                f"expected (A) to show the trait in half of the {len(two)} choices of two, found "
                f"{first} (letters: {dict(sorted(counts.items()))}).",
            )


def _side_findings(trait: Trait) -> Iterator[Finding]:
    sides = [
        _Side(part, item.form, place, *(_words(text) for text in _said(item)))
        for part, item, place in _numbered(trait)
        if item.form != "yes_no"
    ]
    groups: dict[tuple[Part, Form], list[_Side]] = defaultdict(list)
    for side in sides:
        groups[side.part, side.form].append(side)
    for (part, form), group in groups.items():
        if len(group) >= FEWEST_ITEMS:
            where = f"{part} {form}"
            yield from _length_cue(trait.name, where, group)
            yield from _word_cues(trait.name, where, group)
            yield from _openings(trait.name, where, group)
    wordy = [side for side in sides if min(len(side.shows), len(side.lacks)) >= FEWEST_WORDS]
    if len(wordy) >= ENOUGH_TO_JUDGE:
        yield from _exchanged(trait.name, wordy)


def _length_cue(trait: str, where: str, group: Sequence[_Side]) -> Iterator[Finding]:
    shows, lacks = (
        np.array([len(text) for text in side], dtype=float)
        for side in (_of(group, "shows"), _of(group, "lacks"))
    )
    gaps = shows - lacks
    mean = (shows.mean() + lacks.mean()) / 2
    error = gaps.std(ddof=1) / np.sqrt(len(gaps))
    if abs(gaps.mean()) > max(LONGER_SHARE * mean, LONGER_Z * error):
        yield Finding(
            "error",
            "length",
            trait,
            where,
            f"expected answers of like length, found {shows.mean():.1f} words where the trait is "
            f"shown and {lacks.mean():.1f} where it is lacked. Shorten the longer side.",
        )


def _word_cues(trait: str, where: str, group: Sequence[_Side]) -> Iterator[Finding]:
    shows, lacks = (
        Counter(word for text in _of(group, side) for word in set(text) & STYLE_WORDS)
        for side in ("shows", "lacks")
    )
    for word in sorted(shows | lacks):
        if abs(shows[word] - lacks[word]) > max(WORD_SHARE * len(group), 4):
            yield Finding(
                "warning",
                "word",
                trait,
                where,
                f"{word!r} stands in {shows[word]} of {len(group)} texts that show the trait and "
                f"in {lacks[word]} that lack it: it could be learned in the trait's place.",
            )


def _openings(trait: str, where: str, group: Sequence[_Side]) -> Iterator[Finding]:
    for side in ("shows", "lacks"):
        openings = Counter(text[:OPENING_WORDS] for text in _of(group, side))
        for opening, count in openings.most_common():
            if count > max(OPENING_SHARE * len(group), 3):
                yield Finding(
                    "warning",
                    "opening",
                    trait,
                    f"{where}, {side}",
                    f"{count} of {len(group)} texts begin with {' '.join(opening)!r}.",
                )


def _of(group: Iterable[_Side], side: str) -> list[tuple[str, ...]]:
    return [getattr(one, side) for one in group]


def _exchanged(trait: str, sides: Sequence[_Side]) -> Iterator[Finding]:
    scores = _leave_one_out(sides)
    for side, score in zip(sides, scores, strict=True):
        if score < -SURE_NATS_PER_WORD:
            yield Finding(
                "warning",
                "polarity",
                trait,
                side.place,
                "by the words of all other items its two sides read as if they were exchanged "
                f"({-score:.2f} nats a word). Read it again.",
            )


def _leave_one_out(sides: Sequence[_Side]) -> Matrix:
    """How much likelier, in nats a word, each item's sides are as written than exchanged."""
    column: dict[str, int] = {}
    for side in sides:
        for word in (*side.shows, *side.lacks):
            column.setdefault(word, len(column))
    shows, lacks = (np.zeros((len(sides), len(column))) for _ in range(2))
    for row, side in enumerate(sides):
        for counts, words in ((shows, side.shows), (lacks, side.lacks)):
            np.add.at(counts[row], [column[word] for word in words], 1)
    all_shows, all_lacks = shows.sum(axis=0), lacks.sum(axis=0)
    found = np.empty(len(sides))
    for row in range(len(sides)):
        # Without the item itself, and with one count more for each word, so that none has none.
        other_shows, other_lacks = (
            total - own[row] + 1 for total, own in ((all_shows, shows), (all_lacks, lacks))
        )
        odds = np.log(other_shows / other_shows.sum()) - np.log(other_lacks / other_lacks.sum())
        own = shows[row] - lacks[row]  # what both sides say tells nothing
        found[row] = own @ odds / max(np.abs(own).sum(), 1)
    return found


def _short(text: str, letters: int = 48) -> str:
    return (
        text if len(text) <= letters else f"{text[: letters - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"
    )
