"""Input made to do harm: refused with a message, at once, in little memory."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import INDEX, read_model, write_file, write_index, write_model

from tvmerge import Checkpoint
from tvmerge.errors import ConfigError, FormatError, MismatchError, OutputError, StorageError
from tvmerge.receipt import RECEIPT_NAME
from tvmerge.recipe import load_recipe
from tvmerge.safetensors import MOST_TENSORS, read_header
from tvmerge.stored import open_stored, read_config
from tvmerge.untrusted import printable, shorten, shown

GIB = 1 << 30
# What the largest of these inputs took before there were limits: 2.5 GB, or minutes.
MEMORY_BYTES = GIB
SECONDS = 20

# Opens each path under a limit on memory and processor time, which end the process if they must.
LIMITED = """
import resource, sys
from tvmerge.errors import TVMergeError
from tvmerge.stored import open_stored
from tvmerge.receipt_parsing import RECEIPT_NAME, read_receipt
from tvmerge.recipe import load_recipe
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]),) * 2)
for name in sys.argv[3:]:
    read = load_recipe if name.endswith(".yaml") else open_stored
    read = read_receipt if Path(name, RECEIPT_NAME).exists() else read
    try:
        read(Path(name))
        print("opened")
    except TVMergeError as error:
        print(ascii(str(error)))
"""


def opened_within_limits(*paths: Path) -> list[str]:
    """What became of each path: "opened", or the message, as ascii() writes it."""
    limits = [str(MEMORY_BYTES), str(SECONDS)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *limits, *map(str, paths)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def raw(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def one(fields: bytes, name: bytes = b"a") -> bytes:
    return b'{"' + name + b'":{' + fields + b"}}"


TINY = b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'

HEADERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "too many tensors": (
        lambda: b"{" + b",".join(TINY % i for i in range(MOST_TENSORS + 1)) + b"}",
        f"the header has {MOST_TENSORS + 1:,} entries, expected at most {MOST_TENSORS:,}",
    ),
    "33 million empty objects": (
        lambda: b'{"a":[' + b"{}," * 33_000_000 + b"{}]}",
        "the header holds more than 6,000,000 values",
    ),
    "100 MB of brackets": (lambda: b"[" * 99_999_999, "holds more than 6,000,000 values"),
    "metadata alone": (
        lambda: b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(4_000_000)) + b"}}",
        "holds more than 6,000,000 values",
    ),
    "one name repeated late": (
        lambda: b"{" + b",".join(b'"%d":0' % i for i in range(300_000)) + b',"299999":0}',
        "the header holds the name '299999' twice",
    ),
    "a shape whose product never ends": (
        lambda: one(b'"dtype":"U8","data_offsets":[0,1],"shape":[' + b"9" * 18
                    + (b"," + b"9" * 18) * 300_000 + b"]"),
        "is not a list of sizes, 64 at most",
    ),
    "a number of 50 million digits": (
        lambda: one(b'"dtype":"U8","shape":[' + b"9" * 50_000_000 + b'],"data_offsets":[0,1]'),
        "shape [inf] is not a list of sizes",
    ),
    "a name of 50 million characters": (
        lambda: one(b'"dtype":"U8","shape":[],"data_offsets":[0,1]', b"n" * 50_000_000),
        "a name has 50,000,000 characters, expected at most 4096",
    ),
    "a name of wide characters": (
        lambda: one(b"", "\U0001f600".encode() * 12_000_000),
        "a name has 12,000,000 characters, expected at most 4096",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_large_header_is_refused_within_a_gibibyte_and_seconds(name: str, tmp_path: Path) -> None:
    make, fault = HEADERS[name]
    (tmp_path / "model.safetensors").write_bytes(raw(make()))
    (message,) = opened_within_limits(tmp_path)
    assert fault in message
    assert len(message) < 1000


def test_as_many_tensors_as_allowed_are_read_within_a_gibibyte(tmp_path: Path) -> None:
    text = b"{" + b",".join(TINY % i for i in range(MOST_TENSORS)) + b"}"
    (tmp_path / "model.safetensors").write_bytes(raw(text))
    assert opened_within_limits(tmp_path) == ["opened"]


def test_a_large_index_is_refused_within_a_gibibyte_and_seconds(tmp_path: Path) -> None:
    shards = write_index(tmp_path, {f"t{i}": f"m{i}.safetensors" for i in range(10_001)})
    (tmp_path / "many").mkdir()
    tensors = write_index(tmp_path / "many", dict.fromkeys(map(str, range(MOST_TENSORS + 1)), "m"))
    (tmp_path / "large").mkdir()
    large = tmp_path / "large" / INDEX
    large.write_bytes(b"")
    os.truncate(large, 64 * GIB)  # sparse
    found = opened_within_limits(shards, tensors, large)
    assert "names 10,001 tensors in 10,001 files, expected at most" in found[0]
    assert "names 500,001 tensors in 1 files, expected at most 500,000" in found[1]
    assert "has more than 100,000,000 bytes, which no such file needs" in found[2]


RECEIPTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty objects": (lambda: b'{"run":[' + b"{}," * 49_000_000 + b"{}]}", "holds more than 8,500"),
    "objects": (lambda: b'{"run":[' + b'{"":0},' * 2_600_000 + b"0]}", "expected the format"),
    "texts": (lambda: b'{"run":[' + b'"ab",' * 7_900_000 + b"0]}", "expected the format"),
    "one text": (lambda: b'{"run":"' + b"x" * 149_000_000 + b'"}', "expected the format"),
    "one wide text": (lambda: b'{"run":"\xf0\x9f\x98\x80' + b"x" * 140_000_000 + b'"}', "ASCII"),
    "more than a receipt": (lambda: b" " * 150_000_001, "has more than 150,000,000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECEIPTS)
def test_a_large_receipt_is_refused_within_a_gibibyte_and_seconds(
    name: str, tmp_path: Path
) -> None:
    make, fault = RECEIPTS[name]
    (tmp_path / RECEIPT_NAME).write_bytes(make())
    (message,) = opened_within_limits(tmp_path)
    assert fault in message
    assert len(message) < 1000


def test_shards_are_not_all_read_before_the_first_that_the_index_contradicts(
    tmp_path: Path,
) -> None:
    """Else an index of one line could make the reader hold ten thousand headers."""
    (tmp_path / "a.safetensors").write_bytes(
        raw(one(b'"dtype":"U8","shape":[1],"data_offsets":[0,1]', b"unknown"), b"x")
    )
    (tmp_path / "b.safetensors").write_bytes(b"not read")
    write_index(tmp_path, {"x": "a.safetensors", "y": "b.safetensors"})
    with pytest.raises(FormatError, match=r"'unknown' of 'a.safetensors' is not in the weight_map"):
        open_stored(tmp_path)


@pytest.fixture
def merged(tmp_path: Path) -> Checkpoint:
    held = {"w": np.ones((4, 4), np.float32)}
    base = Checkpoint(write_model(tmp_path / "base", held))
    tuned = Checkpoint(write_model(tmp_path / "tuned", {"w": 2 * held["w"]}))
    return base + 0.5 * (tuned - base)


# ---- what is no file -------------------------------------------------------------------------


@pytest.fixture(params=["pipe", "zero", "full", "null"])
def special(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a pipe that nobody writes to, or a link to a device, under a name."""

    def make(name: str) -> Path:
        path = tmp_path / name
        if request.param == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(f"/dev/{request.param}")
        return path

    return make


@pytest.mark.timeout(20)  # a reader that waits for a pipe waits for ever
@pytest.mark.parametrize("name", ["model.safetensors", INDEX])
def test_pipes_and_devices_are_not_read(special: Callable[[str], Path], name: str) -> None:
    path = special(name)
    for place in (path, path.parent):
        with pytest.raises(FormatError, match="is a device or a pipe, expected a regular file"):
            open_stored(place)


@pytest.mark.timeout(20)
def test_pipes_and_devices_are_no_recipes_and_no_configs(special: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="is a device or a pipe, expected a regular file"):
        load_recipe(special("recipe.yaml"))
    assert read_config(special("config.json").parent) == {}


def test_folders_links_in_a_circle_and_links_to_nothing_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.symlink_to(path.name)
    with pytest.raises(StorageError, match="cannot read: Too many levels of symbolic links"):
        open_stored(tmp_path)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(StorageError, match="cannot read: No such file"):
        open_stored(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match="cannot read: Is a directory"):
        open_stored(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{}" * 3, b"[]", b" " * 2_000_000, b"\xff"])
def test_a_config_that_cannot_be_read_says_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert read_config(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"architectures": ["X"]}')
    assert read_config(tmp_path) == {"architectures": ["X"]}


def test_folders_without_end_beside_the_weights_are_refused(
    merged: Checkpoint, tmp_path: Path
) -> None:
    """Twenty folders with two links each to the next spell out a million paths."""
    for number in range(20):
        (tmp_path / "base" / f"d{number}").mkdir()
        for name in "xy":
            (tmp_path / "base" / f"d{number}" / name).symlink_to(f"../d{number + 1}")
    (tmp_path / "base" / "d20").mkdir()
    with pytest.raises(StorageError, match=r"holds more than 10,000 files and folders beside the"):
        merged.save(tmp_path / "out")
    (tmp_path / "base" / "d" / "/".join("d" * 40)).mkdir(parents=True)
    with pytest.raises(StorageError, match=r"lies 32 levels below the weights"):
        merged.save(tmp_path / "out")


def test_models_that_have_no_name_in_common_are_told_at_once(tmp_path: Path) -> None:
    """The names that were meant are looked for among few names only: it takes the product."""
    held = {
        name: write_file(
            tmp_path / f"{name}.safetensors",
            {f"{name}.layers.{i}.weight": np.zeros(0, np.float32) for i in range(20_000)},
        )
        for name in ("model", "transformer")
    }
    found = Checkpoint(held["model"]), Checkpoint(held["transformer"])
    limited = threading.Timer(SECONDS, os.abort)
    limited.start()
    with pytest.raises(MismatchError, match="missing in"):
        (found[0] + (found[1] - found[0])).save(tmp_path / "out")
    limited.cancel()


def test_a_quantised_model_is_refused_however_its_config_is_written(
    merged: Checkpoint, tmp_path: Path
) -> None:
    for config in (
        '{"quantization_config": null, "quantization_config": {"bits": 4}}',
        '{"a": "' + "x" * 5_000_000 + '", "quantization_config": {"bits": 4}}',
        '{"quantization_config": {"bits": ' + "9" * 3000 + "}}",
    ):
        (tmp_path / "base" / "config.json").write_text(config)
        with pytest.raises(MismatchError, match="is quantised"):
            merged.save(tmp_path / "out")


# ---- recipes ---------------------------------------------------------------------------------

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
    assert [entry.model for entry in recipe.models] == ["a", "b", "c"]
    assert recipe.weights == [0.5, 0.5, 0.5]


def test_a_recipe_of_the_largest_size_is_checked_within_limits(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("".join(f"key{i}: 1\n" for i in range(18_000)))
    (tmp_path / "list.yaml").write_text("a: [" + "x," * 49_000 + "]")
    keys, flat = opened_within_limits(tmp_path / "keys.yaml", tmp_path / "list.yaml")
    assert "key0: unknown key" in keys
    assert "a: unknown key" in flat
    assert max(len(keys), len(flat)) < 10_000


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


def test_every_header_length_that_a_file_can_claim_is_checked_before_it_is_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.safetensors"
    for exponent in range(2, 64):
        path.write_bytes(struct.pack("<Q", 1 << exponent) + b"{}")
        with pytest.raises(FormatError, match=f"claims {1 << exponent} bytes; the file has 10"):
            read_header(path)


# ---- planted beside the destination ----------------------------------------------------------


def test_a_link_in_place_of_the_unfinished_folder_is_not_followed(
    merged: Checkpoint, tmp_path: Path
) -> None:
    """What the folder holds from an earlier run is removed: it must not be somebody's home."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    (tmp_path / ".out.unfinished").symlink_to("home")
    with pytest.raises(OutputError, match="cannot write there"):
        merged.save(tmp_path / "out")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]


@pytest.mark.timeout(20)
def test_a_link_a_pipe_or_a_device_in_place_of_the_journal_is_not_opened(
    merged: Checkpoint, tmp_path: Path
) -> None:
    journal = tmp_path / ".out.unfinished" / ".journal"
    letter = tmp_path / "letter.txt"
    letter.write_text("mine")
    for plant in (
        lambda: journal.symlink_to(letter),
        lambda: journal.symlink_to("/dev/zero"),
        lambda: os.mkfifo(journal),
    ):
        journal.parent.mkdir(exist_ok=True)
        plant()
        with pytest.raises(OutputError):
            merged.save(tmp_path / "out")
        journal.unlink()
    assert letter.read_text() == "mine"
    merged.save(tmp_path / "out")
    assert not journal.parent.exists()


@pytest.mark.parametrize("merge", [None, 3, [], {}, {"inputs": 3}, {"inputs": [[]]}])
def test_a_journal_that_names_no_merge_is_not_continued(
    merge: object, merged: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / ".out.unfinished"
    folder.mkdir()
    (folder / "left").write_text("by another version")
    body = json.dumps({"format": "tvmerge journal 1", "pid": 1, "merge": merge}).encode() + b"\n"
    checksum = hashlib.blake2b(body, digest_size=8).hexdigest().encode()
    (folder / ".journal").write_bytes(checksum + b" " + body)
    with pytest.raises(OutputError, match="--restart"):
        merged.save(tmp_path / "out")
    assert (folder / "left").exists()
    merged.save(tmp_path / "out", restart=True)
    assert sorted(read_model(tmp_path / "out")) == ["w"]
