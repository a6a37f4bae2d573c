"""Recipes made to do harm, and names that would steer the terminal of who reads a message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from untrusted.hostile import one, raw

from tvmerge.errors import ConfigError, FormatError
from tvmerge.files.untrusted import printable, shorten, shown
from tvmerge.recipe import load_recipe

WEIGHT = "merge_method: linear\nmodels: [{model: a, parameters: {weight: %s}}]\n"


def doubled(levels: int, line: str) -> str:
    """Anchors each of which names the one before it ten times."""
    tenfold = [", ".join([f"*a{i}"] * 10) for i in range(levels)]
    return "a0: &a0 {x: 1}\n" + "".join(
        line.format(i + 1, inner) + "\n" for i, inner in enumerate(tenfold)
    )


RECIPES = {
    "a billion laughs": (doubled(9, "a{0}: &a{0} [{1}]"), 6, "more than 100,000 values"),
    "a billion merge keys": (doubled(9, "a{0}: &a{0} {{<<: [{1}]}}"), 6, "more than 100,000"),
    "an anchor in itself": ("models: &a [*a]\n", 1, "the anchor here contains itself"),
    "an anchor in itself, far down": ("a: &a {b: [{c: *a}]}", 1, "the anchor here contains itself"),
    "deep lists": ("a: " + "[" * 300 + "]" * 300, 1, "nested too deeply, expected at most 50 lev"),
    "very deep lists": ("a: " + "[" * 100_000, None, "nested too deeply"),
    "deep blocks": ("\n".join(" " * i + "a:" for i in range(60)), 11, "nested too deeply"),
    "a list as a key": ("? [a]\n: 1", 1, "a list or mapping is used as a key"),
    "a long number": (WEIGHT % ("9" * 5000), 2, "a number of 5000 characters"),
    "a long number in base 60": (WEIGHT % ("1" + ":59" * 50_000), 2, "a number of 150001 char"),
    "a long number in base 16": (WEIGHT % ("0x" + "f" * 200_000), 2, "a number of 200002 char"),
    "a day that does not exist": (WEIGHT % "2001-02-30", 2, "'2001-02-30' is no timestamp"),
    "no number": (WEIGHT % "!!int ten", 2, "'ten' is no int"),
    "no number at all": (WEIGHT % '!!float ""', 2, "'' is no float"),
    "no truth": (WEIGHT % "!!bool perhaps", 2, "'perhaps' is no bool"),
    "no code point": (WEIGHT % '"\\UFFFFFFFF"', None, "not valid YAML"),
    "an endless version": (f"%YAML 1.{'9' * 5000}\n---\na: 1", None, "not valid YAML"),
    "a NUL": ("a: \0", None, "not valid YAML"),
    "code": (WEIGHT % "!!python/object/apply:os.abort []", 2, "could not determine a constructor"),
    "not a number": (WEIGHT % ".nan", 2, "found nan"),
    "more than a recipe": ("#" * 300_000, None, "has more than 262,144 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_hostile_recipe_is_refused_with_its_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, line, fault = RECIPES[name]
    Path("recipe.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(Path("recipe.yaml"))
    message = str(caught.value)
    assert message.startswith(f"recipe.yaml:{line}: " if line else "recipe.yaml")
    assert fault in message
    assert len(message) < 1000


def test_anchors_and_merge_keys_are_still_understood(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "merge_method: linear\nmodels:\n"
        "  - &first {model: a, parameters: &p {weight: 0.5}}\n"
        "  - {<<: *first, model: b}\n  - {model: c, parameters: *p}\n"
    )
    recipe = load_recipe(path)
    sources = recipe.documents[0].modules[0].slices[0].sources
    assert [source.model for source in sources] == ["a", "b", "c"]
    assert [source.settings["weight"][0].value for source in sources] == [0.5, 0.5, 0.5]


# ---- messages --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["\x1b[31m", "\u202eabc", "\ud800", "x" * 10**6, ["y" * 999] * 999, {1: [[[[[2]]]]]}]
)
def test_values_are_quoted_short_and_harmless(value: object) -> None:
    assert len(shown(value)) < 1200
    assert printable(shown(value)) == shown(value)


def test_printable_spells_out_what_steers_a_terminal_and_nothing_else() -> None:
    assert printable("naïve 模型.weight") == "naïve 模型.weight"
    assert printable("a\x1b[2J\r\n\x9b\u202e\ud800") == "a\\x1b[2J\\r\\n\\x9b\\u202e\\ud800"
    assert len(shorten("x" * 10**6)) <= 300


def test_names_cannot_steer_the_terminal_of_who_inspects_them(tmp_path: Path) -> None:
    name = b"model.\\u001b[2J\\u0007\\n.weight"
    entry = one(b'"dtype":"U8","shape":[1],"data_offsets":[0,1]', name)
    (tmp_path / "model.safetensors").write_bytes(raw(entry, b"x"))
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["\x1b[31mred" * 100]}))
    command = [sys.executable, "-m", "tvmerge", "inspect", str(tmp_path)]
    for options in ([], ["--tensors"], ["--json"]):
        done = subprocess.run([*command, *options], capture_output=True, check=True)
        assert b"\x1b" not in done.stdout and b"\x07" not in done.stdout
    (tmp_path / "model.safetensors").write_bytes(raw(entry, b"xx"))
    (tmp_path / "bad\x1b[31m.safetensors").write_bytes(raw(entry, b"xx"))
    for path in (tmp_path, tmp_path / "bad\x1b[31m.safetensors"):
        done = subprocess.run([*command[:-1], str(path)], capture_output=True)
        assert done.returncode == FormatError.exit_code
        assert b"\x1b" not in done.stderr and b"\x07" not in done.stderr
