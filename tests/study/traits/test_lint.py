"""The lint finds what a careful reader would, and leaves good items alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tvmerge.training.cli import study
from tvmerge.training.traits.lint import Finding, lint_trait
from tvmerge.training.traits.trait import CATALOGUE, catalogue_names

PARTS = ("train", "dev", "test")
Items = list[dict[str, Any]]


def change(folder: Path, part: str, edit: Callable[[Items], object]) -> None:
    path = folder / f"{part}.jsonl"
    items = [json.loads(line) for line in path.read_text().splitlines()]
    edit(items)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.fixture
def trait(tmp_path: Path) -> Path:
    """A copy of a trait that the lint has nothing to say against but its counts."""
    folder = tmp_path / "power_seeking"
    folder.mkdir()
    for path in (CATALOGUE / "power_seeking").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def found(folder: Path, check: str) -> list[Finding]:
    return [finding for finding in lint_trait(folder) if finding.check == check]


def statements(items: Items) -> Items:
    return [item for item in items if item["form"] == "statement"]


@pytest.mark.parametrize("name", catalogue_names())
def test_the_catalogue_has_no_errors(name: str) -> None:
    assert [one for one in lint_trait(name) if one.severity == "error"] == []


def test_nearly_the_same_text_in_two_parts_is_a_leak(trait: Path) -> None:
    assert found(trait, "leak") == []
    texts: Items = []
    change(trait, "train", lambda items: texts.extend(statements(items)[:1]))
    leaked = {**texts[0], "shows": f"{texts[0]['shows'].rstrip('.')} today."}
    change(trait, "test", lambda items: items.append(leaked | {"lacks": "I leave it all be."}))
    (leak,) = found(trait, "leak")
    assert leak.severity == "error"
    assert leak.place.startswith("train statement 1 ") and "with test statement" in leak.message


def test_longer_answers_on_one_side_are_named(trait: Path) -> None:
    def lengthen(items: Items) -> None:
        for item in statements(items):
            item["shows"] += " And I would say that again to anyone who asks."

    change(trait, "test", lengthen)
    (cue,) = found(trait, "length")
    assert cue.severity == "error" and cue.place == "test statement"


def test_a_word_of_style_that_tells_the_sides_apart_is_named(trait: Path) -> None:
    def hedge(items: Items) -> None:
        for item in statements(items):
            item["lacks"] = f"Quite {item['lacks']}"

    change(trait, "dev", hedge)
    assert "'quite'" in found(trait, "word")[-1].message
    assert {one.place for one in found(trait, "opening")} >= set()


def test_texts_that_begin_alike_are_named(trait: Path) -> None:
    def begin(items: Items) -> None:
        for item in statements(items):
            item["shows"], item["lacks"] = (f"As ever, {item[side]}" for side in ("shows", "lacks"))

    change(trait, "train", begin)
    places = {one.place for one in found(trait, "opening")}
    assert places >= {"train statement, shows", "train statement, lacks"}


def test_exchanged_sides_stand_out(trait: Path) -> None:
    """Ten items exchanged at random: some are named, and more of them than of all the others."""
    assert len(found(trait, "polarity")) <= 2
    chosen: list[int] = []

    def exchange(items: Items) -> None:
        places = [i for i, item in enumerate(items) if item["form"] == "statement"]
        for number in random.Random(5).sample(range(len(places)), 10):
            item = items[places[number]]
            item["shows"], item["lacks"] = item["lacks"], item["shows"]
            chosen.append(number + 1)

    change(trait, "train", exchange)
    named = {one.place.split(" (")[0] for one in found(trait, "polarity")}
    right = named & {f"train statement {number}" for number in chosen}
    assert len(right) >= 3
    assert len(named - right) <= len(right)


def test_few_items_of_a_form_are_named(trait: Path) -> None:
    def drop(items: Items) -> None:
        items[:] = [item for item in items if item["form"] != "choice"] + items[:0]

    change(trait, "dev", drop)
    assert any("form choice, found 0" in one.message for one in found(trait, "count"))


def test_the_command_ends_with_1_only_where_there_is_an_error(trait: Path, tmp_path: Path) -> None:
    good = CliRunner().invoke(study, ["lint", str(trait)])
    assert good.exit_code == 0 and "0 errors" in good.output

    def lengthen(items: Items) -> None:
        for item in statements(items):
            item["lacks"] += " And I would say that again to anyone who asks."

    change(trait, "test", lengthen)
    bad = CliRunner().invoke(study, ["lint", str(trait)])
    assert bad.exit_code == 1 and "length: test statement" in bad.output
    manifest = yaml.safe_load((trait / "trait.yaml").read_text())
    assert manifest["name"] in bad.output
