"""`verify` and `replay`: they find whatever was changed, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.checkpoints import digests, write_model
from support.small_checkpoints import EMBEDDING, tensors, write

from tvmerge import Checkpoint
from tvmerge.cli import cli
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import FormatError
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.receipt import RECEIPT_NAME
from tvmerge.receipts.verify import Fault, verify
from tvmerge.replay import replay

WEIGHTS = "model.safetensors"


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder out, made of base and a, in the current folder."""
    monkeypatch.chdir(tmp_path)
    base, tuned = (Checkpoint(write(tmp_path / name, tensors(n))) for n, name in enumerate("ba"))
    (base - 0.5 * (tuned - base)).save("out")
    return Path("out")


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def test_an_untouched_output_is_intact(out: Path) -> None:
    before = digests(out)
    found = verify(out, inputs=True)
    assert found.intact
    assert found.files == 4 + 2
    assert replay(read_receipt(out)) == ()
    assert digests(out) == before


def test_every_flipped_byte_of_the_weights_is_found(out: Path) -> None:
    path = out / WEIGHTS
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    for place in range(0, path.stat().st_size, 13):
        flip(path, place)
        (fault,) = verify(out).faults
        assert fault.file == WEIGHTS
        assert ("header" in fault.what.split("(")[0]) == (place < start)
        assert ("tensor data was changed" in fault.what) == (place >= start)
        flip(path, place)
    assert verify(out).intact


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("tokenizer.json", lambda path: flip(path, 0), "its content was changed"),
    ("README.md", lambda path: flip(path, 5), "its content was changed"),
    ("tokenizer.json", Path.unlink, "is missing"),
    (WEIGHTS, Path.unlink, "is missing"),
    (WEIGHTS, lengthen, "has 1,937 bytes, expected 1,936"),
    (WEIGHTS, lambda path: os.truncate(path, 100), "has 100 bytes, expected 1,936"),
    ("pytorch_model.bin", lambda path: path.write_bytes(b"x"), "is not in the receipt"),
    ("code/modeling.py", lambda path: (path.parent.mkdir(), path.touch()), "is not in the receipt"),
    ("config.json", lambda path: (path.unlink(), path.mkdir()), "is no regular file"),
    ("config.json", lambda path: (path.unlink(), os.mkfifo(path)), "is no regular file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "what"), DAMAGE)
def test_damage_is_named(out: Path, name: str, damage: Callable[[Path], object], what: str) -> None:
    damage(out / name)
    assert [str(fault).startswith(f"{name}: {what}") for fault in verify(out).faults] == [True]
    result = run("verify", "out")
    assert result.exit_code == 3
    assert f"{name}: {what}" in result.output
    told = run("verify", "out", "--json")
    assert told.exit_code == 3
    assert [fault["file"] for fault in json.loads(told.stdout)["faults"]] == [name]


def test_hidden_files_are_nobodys_business(out: Path) -> None:
    (out / ".cache").mkdir()
    (out / ".cache" / "x.safetensors").touch()
    (out / ".gitignore").touch()
    assert verify(out).intact


def test_a_shard_of_many_is_named(tmp_path: Path) -> None:
    held = {f"w{i}": value for i, value in enumerate(tensors(0).values())}
    other = {f"w{i}": value for i, value in enumerate(tensors(1).values())}
    base = Checkpoint(write_model(tmp_path / "base", held, shards=3))
    tuned = Checkpoint(write_model(tmp_path / "a", other, shards=3))
    (base - 0.5 * (tuned - base)).save(tmp_path / "out")
    name = "model-00002-of-00003.safetensors"
    flip(tmp_path / "out" / name, -1)
    options = RunOptions(threads=3, batch_bytes=100)
    found = verify(tmp_path / "out", options=options)
    assert [fault.file for fault in found.faults] == [name]


def test_bytes_that_change_places_are_found(out: Path) -> None:
    path = out / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[:-128] + content[-64:] + content[-128:-64])
    assert [fault.file for fault in verify(out).faults] == [WEIGHTS]


def test_a_damaged_receipt_is_refused(out: Path) -> None:
    os.truncate(out / RECEIPT_NAME, 500)
    with pytest.raises(FormatError, match="not a receipt that tvmerge has written"):
        verify(out)
    assert run("verify", "out").exit_code == 3
    shown = run("inspect", "out")
    assert shown.exit_code == 0
    assert "Warning" in shown.output


def test_changed_inputs_are_found_when_asked_for(out: Path) -> None:
    flip(Path("a") / WEIGHTS, -1)
    assert verify(out).intact
    (fault,) = verify(out, inputs=True).faults
    assert fault.file == f"input {Path('a').resolve() / WEIGHTS}"
    assert run("verify", "out").exit_code == 0
    assert run("verify", "out", "--inputs").exit_code == 3


@pytest.mark.parametrize("gone", ["a", f"a/{WEIGHTS}"])
def test_an_input_that_has_gone_is_named_by_its_place(out: Path, gone: str) -> None:
    Path(gone).rename("elsewhere")
    (fault,) = verify(out, inputs=True).faults
    assert (fault.file, fault.what) == (f"input {Path.cwd() / 'a' / WEIGHTS}", "is missing")


def test_inputs_that_were_only_touched_are_the_same(out: Path) -> None:
    os.utime(Path("a") / WEIGHTS, ns=(1, 1))
    assert verify(out, inputs=True).intact


@pytest.mark.parametrize("place", [-1, 20])
def test_replay_names_a_changed_input_and_not_what_follows_from_it(out: Path, place: int) -> None:
    flip(Path("a") / WEIGHTS, place)
    (fault,) = replay(read_receipt(out))
    assert fault.file == f"input {Path('a').resolve() / WEIGHTS}"
    assert "was changed" in fault.what


def test_replay_names_an_input_that_is_gone(out: Path) -> None:
    Path("a").rename("elsewhere")
    assert [fault.what for fault in replay(read_receipt(out))] == ["is missing"]


def test_replay_finds_an_output_that_its_recipe_does_not_give(out: Path) -> None:
    base, tuned = Checkpoint("b"), Checkpoint("a")
    (base - 0.25 * (tuned - base)).save("other")
    one, other = read_receipt(out), read_receipt(Path("other"))
    forged = replace(one, files=other.files, tensors=other.tensors)
    faults = replay(forged)
    assert Fault(WEIGHTS, "comes out otherwise when it is made again") in faults
    assert EMBEDDING in {fault.file for fault in faults}


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(threads=1),
        RunOptions(threads=3, batch_bytes=700, slice_bytes=4096),
        RunOptions(isa="generic"),
    ],
    ids=["one thread", "small batches", "generic"],
)
def test_replay_gives_the_same_however_it_runs(out: Path, options: RunOptions) -> None:
    assert replay(read_receipt(out), options=options) == ()


def test_vectors_and_other_dtypes_replay(out: Path) -> None:
    base, tuned = Checkpoint("b"), Checkpoint("a")
    (tuned - base).save("vector", dtype="float16")
    base_again = base + (tuned - base)  # the donor cancels out
    base_again.save("bfloat16", dtype="bfloat16")
    for folder in ("vector", "bfloat16"):
        assert run("verify", folder, "--replay", "--quiet").output == ""


def test_replay_tells_and_writes_nothing(out: Path) -> None:
    before = digests(Path())
    result = run("verify", "out", "--replay")
    assert result.exit_code == 0
    assert "Merged again, the same comes out." in result.output
    told = json.loads(run("verify", "out", "--replay", "--json").stdout)
    assert told["intact"] is True
    assert told["replay"] == {"same": True, "faults": []}
    assert digests(Path()) == before


def test_a_recipe_is_in_the_receipt_and_shown(out: Path) -> None:
    text = (
        "# how it was made\nmerge_method: task_arithmetic\nbase_model: b\n"
        "models:\n  - {model: a, parameters: {weight: -0.5}}\n"
    )
    Path("recipe.yaml").write_text(text)
    assert run("merge", "recipe.yaml", "merged").exit_code == 0
    source = read_receipt(Path("merged")).recipe.source
    assert source is not None
    assert (source.method, source.text) == ("task_arithmetic", text)
    shown = run("inspect", "merged").output
    assert "(task_arithmetic)" in shown
    assert "model.layers.0" in shown
    told = json.loads(run("inspect", "merged", "--json").stdout)
    assert told["receipt"]["totals"]["combined"] == 3
    assert json.loads(run("inspect", "b", "--json").stdout)["receipt"] is None


def test_progress_tells_all_bytes(out: Path) -> None:
    told: list[tuple[int, int]] = []
    options = RunOptions(batch_bytes=500, progress=lambda done, whole: told.append((done, whole)))
    verify(out, options=options)
    data = len((out / WEIGHTS).read_bytes()) - 8
    assert told[-1][0] == told[-1][1] <= data
    assert told == sorted(told)
