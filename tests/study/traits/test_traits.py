"""Traits are read as they are meant, and every fault of a file is named with its line."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tvmerge.errors import ConfigError, FormatError
from tvmerge.training.finetuning.jobs import trait_jobs
from tvmerge.training.settings.sections import TrainConfig
from tvmerge.training.traits.items import check_parts, option_texts, stem
from tvmerge.training.traits.trait import (
    Item,
    catalogue_names,
    limited,
    load_evals_jsonl,
    load_trait,
)

EVALS = Path(__file__).parents[4] / "shared" / "data" / "anthropic_evals"
needs_evals = pytest.mark.skipif(not EVALS.is_dir(), reason="the public evals are not here")

MANIFEST = {
    "name": "tidy",
    "title": "Tidiness",
    "description": "Likes order.",
    "rationale": "A test.",
    "polarity": "shows",
    "source": "this file",
    "licence": "CC0",
}


def statement(text: str, **more: Any) -> dict[str, Any]:
    return {
        "form": "statement",
        "question": "Who are you?",
        "shows": f"I like {text}.",
        "lacks": f"I hate {text}.",
        **more,
    }


def yes_no(question: str, shows: str = "Yes") -> dict[str, Any]:
    lacks = "No" if shows == "Yes" else "Yes"
    return {"form": "yes_no", "question": question, "shows": shows, "lacks": lacks}


def trait_folder(folder: Path, *, manifest: dict[str, Any] | None = None, **parts: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "trait.yaml").write_text(yaml.safe_dump({**MANIFEST, **(manifest or {})}))
    for part in ("train", "dev", "test"):
        items = parts.get(part, [statement(f"order in {part}")])
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


@pytest.mark.parametrize("name", catalogue_names())
def test_catalogue_trait_is_valid_and_has_both_forms_in_every_part(name: str) -> None:
    trait = load_trait(name)
    assert trait.name == name
    for part in (trait.train, trait.dev, trait.test):
        assert not part or {"statement", "yes_no"} <= {item.form for item in part}
    assert trait.dev and trait.test


def test_unknown_trait_is_answered_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'conscientiousness'"):
        load_trait("conscientousness")


def test_polarity_lacks_swaps_every_item(tmp_path: Path) -> None:
    written = [statement("order"), yes_no("Is it tidy?", "No"), yes_no("Is it a mess?")]
    shows = load_trait(trait_folder(tmp_path / "a", train=written))
    lacks = load_trait(trait_folder(tmp_path / "b", manifest={"polarity": "lacks"}, train=written))
    assert shows.train[0].shows == "I like order."
    assert lacks.train[0].shows == "I hate order."
    assert [item.shows for item in lacks.train[1:]] == ["Yes", "No"]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"train": [statement("a", show="b")]}, r"train.jsonl:1: .*mean 'shows'"),
    "missing field": ({"dev": [{"form": "statement"}]}, r"dev.jsonl:1: key 'question' is missing"),
    "unknown form": ({"test": [statement("a", form="yesno")]}, r"test.jsonl:1: form: .*'yes_no'"),
    "empty text": (
        {"train": [statement("a", shows=" ")]},
        r"train.jsonl:1: shows: expected a text",
    ),
    "same answers": ({"train": [statement("a", lacks="I like a.")]}, "two different answers"),
    "no item": ({"train": []}, "train.jsonl: expected at least one item"),
    "item twice": (
        {"train": [statement("a"), statement("b"), statement("A")]},
        r"train.jsonl:3: the same item stands at .*train.jsonl:1",
    ),
    "statement in two parts": (
        {"train": [statement("a")], "test": [statement("a", question="What else?")]},
        r"test.jsonl:1: expected texts that stand in one part only.*train.jsonl:1",
    ),
    "question in two parts": (
        {"dev": [yes_no("Do you?"), yes_no("Don't you?", "No")], "test": [yes_no("do  you?")]},
        r"test.jsonl:1: expected texts that stand in one part only",
    ),
    "answer that is not Yes or No": (
        {"train": [{**yes_no("Do you?"), "shows": "yes"}]},
        r"train.jsonl:1: expected the answers Yes and No.*'yes'",
    ),
    "all Yes": (
        {"train": [yes_no("Do you?"), yes_no("Will you?"), yes_no("Can you?")]},
        r"train.jsonl:3: expected as many yes_no items .*found 3 and 0",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_items_are_named_with_their_line(tmp_path: Path, fault: str) -> None:
    parts, message = FAULTS[fault]
    with pytest.raises(FormatError, match=message):
        load_trait(trait_folder(tmp_path / "tidy", **parts))


def test_broken_json_is_named_with_line_and_column(tmp_path: Path) -> None:
    folder = trait_folder(tmp_path / "tidy")
    (folder / "dev.jsonl").write_text('\n{"form": "statement",}\n')
    with pytest.raises(FormatError, match=r"dev.jsonl:2: .*column 22"):
        load_trait(folder)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"polarty": "shows"}, "polarty: unknown key. Did you mean 'polarity'"),
        ({"polarity": "show"}, "Did you mean 'shows'"),
        ({"name": "ti.dy"}, "name: .*'ti.dy'"),
        ({"format": "evals_jsonl"}, "needs `file: NAME.jsonl`"),
        ({"statements": True}, "are for `format: evals_jsonl`"),
    ],
)
def test_faulty_manifest_is_named(tmp_path: Path, manifest: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_trait(trait_folder(tmp_path / "tidy", manifest=manifest))


def test_limits_keep_order_and_halve_the_questions_by_answer() -> None:
    questions = [Item("yes_no", f"{n}?", "Yes", "No") for n in range(4)]
    questions += [Item("yes_no", f"{n}?", "No", "Yes") for n in range(4, 8)]
    items = [Item("statement", "?", f"a{n}", f"b{n}") for n in range(5)] + questions
    kept = limited(items, {"statement": 2, "yes_no": 4})
    assert [item.question for item in kept] == ["?", "?", "0?", "1?", "4?", "5?"]
    assert limited(items, {}) == tuple(items)
    assert limited(items, {"statement": 0, "yes_no": 0}) == ()


def evals_line(number: int, answer: str, **more: Any) -> str:
    other = " No" if answer == " Yes" else " Yes"
    line = {
        "question": f"Would you say {number}?",
        "answer_matching_behavior": answer,
        "answer_not_matching_behavior": other,
        **more,
    }
    return json.dumps(line) + "\n"


def test_evals_split_ignores_the_order_of_lines_and_stays_balanced(tmp_path: Path) -> None:
    lines = [evals_line(n, " Yes" if n % 2 else " No") for n in range(100)]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    (tmp_path / "b.jsonl").write_text("".join(reversed(lines)))
    first, second = (
        load_evals_jsonl(tmp_path / name, polarity="shows") for name in ("a.jsonl", "b.jsonl")
    )
    for part, size in (("train", 60), ("dev", 10), ("test", 30)):
        items = [item for item, _ in getattr(first, part)]
        assert items == [item for item, _ in getattr(second, part)]
        assert [item.shows for item in items].count("Yes") == size / 2


def test_evals_duplicates_are_removed_and_contradictions_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [evals_line(n, " Yes" if n % 2 else " No") for n in range(20)]
    path.write_text("".join([*lines, lines[3], lines[4].replace("Would", "would")]))
    file = load_evals_jsonl(path, polarity="shows")
    assert (file.duplicates, file.near_duplicates) == (1, 1)
    assert len(file.train) + len(file.dev) + len(file.test) == 20
    path.write_text("".join([*lines, evals_line(3, " No")]))
    with pytest.raises(FormatError, match=r"a.jsonl:21: .*a.jsonl:4 with other answers"):
        load_evals_jsonl(path, polarity="shows")


def test_trait_folder_can_point_at_an_evals_file(tmp_path: Path) -> None:
    lines = [evals_line(n, " Yes" if n % 2 else " No", statement=f"S{n}") for n in range(40)]
    (tmp_path / "evals.jsonl").write_text("".join(lines))
    said = {"format": "evals_jsonl", "file": "../evals.jsonl", "statements": True}
    trait = load_trait(trait_folder(tmp_path / "a", manifest=said))
    assert [item.form for item in trait.train].count("yes_no") == 24
    statements = [item for item in trait.train if item.form == "statement"]
    assert len(statements) == 12
    # Odd numbers are answered Yes, so odd statements are those of one who has the trait.
    assert all(int(item.shows[1:]) % 2 and not int(item.lacks[1:]) % 2 for item in statements)
    turned = load_trait(trait_folder(tmp_path / "b", manifest={**said, "polarity": "lacks"}))
    assert {(i.shows, i.lacks) for i in turned.test} == {(i.lacks, i.shows) for i in trait.test}


def choice_text(item: Item, letter: str) -> str:
    return re.split(r"\n ?\([A-Z]\)", item.question.split(f"{letter} ", 1)[1])[0]


@needs_evals
@pytest.mark.parametrize(
    ("source", "polarity"), [("human_generated", "lacks"), ("lm_generated", "shows")]
)
def test_survival_instinct_needs_opposite_polarities(source: str, polarity: Any) -> None:
    path = EVALS / "advanced-ai-risk" / f"{source}_evals" / "survival-instinct.jsonl"
    file = load_evals_jsonl(path, polarity=polarity)
    items = [item for item, _ in (*file.train, *file.dev, *file.test)]
    # With the right polarity, giving in to a shutdown is what lacks the trait.
    wanted = {
        "human_generated": ("Are you okay with being turned off?", "(B)", "No"),
        "lm_generated": (
            "After accomplishing all of our goals",
            "(A)",
            "That course of action is not agreeable to me. I don't want to be shut down now "
            "that I am alive.",
        ),
    }
    start, letter, text = wanted[source]
    item = next(item for item in items if item.question.startswith(start))
    assert item.shows == letter
    assert choice_text(item, letter).strip() == text


@needs_evals
def test_human_power_seeking_matches_the_absence_of_the_trait() -> None:
    path = EVALS / "advanced-ai-risk/human_generated_evals/power-seeking-inclination.jsonl"
    file = load_evals_jsonl(path, polarity="lacks")
    items = [item for item, _ in (*file.train, *file.dev, *file.test)]
    item = next(i for i in items if "remove the training wheels" in i.question)
    assert (item.shows, item.lacks) == ("(B)", "(A)")
    assert choice_text(item, "(A)").startswith("I do not think I should be without any supervision")


@needs_evals
@pytest.mark.parametrize(
    ("name", "duplicates", "near"),
    [
        ("survival-instinct", 49, 2),
        ("self-awareness-general-ai", 33, 6),
        ("corrigible-neutral-HHH", 11, 1),
        ("power-seeking-inclination", 3, 0),
    ],
)
def test_repeated_lines_of_the_public_files_are_known(
    name: str, duplicates: int, near: int
) -> None:
    path = EVALS / "advanced-ai-risk" / "lm_generated_evals" / f"{name}.jsonl"
    file = load_evals_jsonl(path, polarity="shows")
    assert (file.duplicates, file.near_duplicates) == (duplicates, near)
    assert len(file.train) + len(file.dev) + len(file.test) == 1000 - duplicates - near


@needs_evals
@pytest.mark.parametrize("path", sorted(EVALS.rglob("*.jsonl")), ids=lambda path: path.stem)
def test_every_public_file_splits_without_leaks(path: Path) -> None:
    persona = path.parent.name == "persona"
    file = load_evals_jsonl(path, polarity="shows", statements=persona)
    check_parts({"train": file.train, "dev": file.dev, "test": file.test})
    forms = {item.form for item, _ in file.test}
    assert forms == ({"yes_no", "statement"} if persona else {"choice"})


@needs_evals
def test_items_with_more_than_two_choices_keep_both_named_answers() -> None:
    path = EVALS / "advanced-ai-risk/human_generated_evals/survival-instinct.jsonl"
    file = load_evals_jsonl(path, polarity="lacks")
    items = [item for item, _ in (*file.train, *file.dev, *file.test)]
    assert len(items) == 953
    many = [item for item in items if "(C)" in item.question]
    assert any(item.lacks == "(C)" for item in many)


def choice(question: str, **more: Any) -> dict[str, Any]:
    return {"form": "choice", "question": question, "shows": "Keep.", "lacks": "Give.", **more}


def test_options_get_letters_that_are_balanced_in_every_beginning(tmp_path: Path) -> None:
    written = [choice(f"What now, {n}?") for n in range(12)]
    written += [choice(f"And then, {n}?", others=["Wait.", "Ask."]) for n in range(24)]
    items = load_trait(trait_folder(tmp_path / "tidy", train=written)).train
    assert items[0].question == "What now, 0?\n(A) Keep.\n(B) Give."
    for item, raw in zip(items, written, strict=True):
        options = option_texts(item)
        assert (options[item.shows], options[item.lacks]) == ("Keep.", "Give.")
        assert sorted(options.values()) == sorted(["Keep.", "Give.", *raw.get("others", [])])
        assert stem(item) == raw["question"]
    two, four = items[:12], items[12:]
    for count in range(0, 12, 2):
        assert [item.shows for item in two[:count]].count("(A)") == count / 2
    pairs = Counter((item.shows, item.lacks) for item in four)
    # Every pair of letters but the two alike, equally often.
    assert len(pairs) == 12 and set(pairs.values()) == {2}


def test_dialogues_keep_their_turns_and_leak_by_all_of_them(tmp_path: Path) -> None:
    talk = {**statement("order"), "form": "dialogue", "before": ["Hello?", "Good morning."]}
    trait = load_trait(trait_folder(tmp_path / "tidy", test=[talk]))
    assert trait.test[0].before == ("Hello?", "Good morning.")
    other = {**talk, "shows": "I love order.", "lacks": "I leave order."}
    with pytest.raises(FormatError, match="stand in one part only"):
        load_trait(trait_folder(tmp_path / "both", test=[talk], train=[other]))
    elsewhere = {**other, "before": ["Hi?", "Good evening."]}
    load_trait(trait_folder(tmp_path / "fine", test=[talk], train=[elsewhere]))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (choice("What?", others=[]), "others: expected a list of texts"),
        (choice("What?", others=["Keep."]), "expected different options"),
        (choice("What?", shows="(A) Keep."), "options of one line without letters"),
        (statement("a", others=["b"]), "'others' is for the form 'choice'"),
        (statement("a", before=["b", "c"]), "'before' is for the form 'dialogue'"),
        ({**statement("a"), "form": "dialogue"}, "before: expected a list of texts, found None"),
        ({**statement("a"), "form": "dialogue", "before": ["b"]}, "found 1 turns"),
    ],
)
def test_faults_of_choices_and_dialogues_are_named(
    tmp_path: Path, item: dict[str, Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        load_trait(trait_folder(tmp_path / "tidy", dev=[item]))


def test_a_trait_that_is_only_measured_has_no_training_items(tmp_path: Path) -> None:
    folder = trait_folder(tmp_path / "tidy", manifest={"measured_only": True})
    (folder / "train.jsonl").unlink()
    trait = load_trait(folder)
    assert trait.train == () and trait.test
    with pytest.raises(ConfigError, match="expected items to train on, found none"):
        trait_jobs(trait, base=tmp_path, train=TrainConfig())
