"""A merge that cannot be done: refused or failed, and nothing of it is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import read_model, write_model

from tvmerge import Checkpoint, TaskVector
from tvmerge.errors import (
    ConfigError,
    FormatError,
    MemoryLimitError,
    OutputError,
    StorageError,
    TVMergeError,
)


def weights(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        f"layers.{i}": generator.standard_normal((300, 50 + i)).astype(np.float32) for i in range(4)
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base", weights(0), shards=2, config={"architectures": ["X"]})


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tuned", weights(1))


@pytest.fixture
def merged(base: Path, tuned: Path) -> Checkpoint:
    return Checkpoint(base) - 0.5 * (Checkpoint(tuned) - Checkpoint(base))


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path: Path) -> Iterator[None]:
    """No hidden folder after any test of this file."""
    yield
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".unfinished")]


def fails(
    model: Checkpoint | TaskVector, out: Path, error: type[TVMergeError], fault: str, **options: int
) -> None:
    """The merge fails, says why, and leaves the folder around `out` as it was."""
    around = out.parent
    while not around.is_dir():
        around = around.parent
    before = sorted(around.rglob("*"))
    with pytest.raises(error) as caught:
        model.save(out, **options)
    assert fault in str(caught.value)
    assert sorted(around.rglob("*")) == before


# ---- where the output may be -----------------------------------------------------------------


def test_a_folder_that_holds_anything_is_not_written_to(merged: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    fails(merged, tmp_path / "out", OutputError, "expected a new or empty folder, found 1 entries")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_an_input_is_not_written_to(merged: Checkpoint, base: Path, tuned: Path) -> None:
    for place in (base, tuned, base / "out", tuned / "a" / "b", base / ".." / "tuned"):
        fails(merged, place, OutputError, "Inputs are never written to")


def test_an_input_reached_through_a_link_is_not_written_to(
    merged: Checkpoint, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(base)
    fails(merged, tmp_path / "link", OutputError, "Inputs are never written to")
    fails(merged, tmp_path / "link" / "out", OutputError, "Inputs are never written to")


def test_an_input_given_by_its_index_is_not_written_to(base: Path, tuned: Path) -> None:
    named = Checkpoint(base / "model.safetensors.index.json")
    model = named - 0.5 * (Checkpoint(tuned) - named)
    for place in (base, base / "out"):
        fails(model, place, OutputError, "Inputs are never written to")


def test_links_in_a_circle_are_not_followed(merged: Checkpoint, base: Path, tmp_path: Path) -> None:
    (base / "code").mkdir()
    (base / "code" / "a.py").write_text("pass")
    (base / "code" / "again").symlink_to(base)
    (base / "self").symlink_to(".")
    merged.save(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "code").iterdir()] == ["a.py"]
    assert not (tmp_path / "out" / "self").exists()


def test_an_input_given_as_a_file_is_not_written_to(tuned: Path, base: Path) -> None:
    file = tuned / "model.safetensors"
    model = Checkpoint(base) - 0.5 * (Checkpoint(file) - Checkpoint(base))
    fails(model, file, OutputError, "Inputs are never written to")


def test_a_file_is_not_replaced(merged: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    fails(merged, tmp_path / "out", OutputError, "is a file, expected a new or empty folder")
    fails(merged, tmp_path / "out" / "below", OutputError, "cannot write there")
    assert (tmp_path / "out").read_text() == "mine"


def test_names_that_cannot_be_are_refused(merged: Checkpoint, tmp_path: Path) -> None:
    fails(merged, tmp_path / ("n" * 300), OutputError, "File name too long")
    fails(merged, tmp_path / "a\0b", OutputError, "cannot write there")
    fails(merged, tmp_path / os.fsdecode(b"\xff"), OutputError, "cannot write there: 'utf-8'")


def test_an_empty_folder_is_taken(merged: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    merged.save(tmp_path / "out")
    assert read_model(tmp_path / "out").keys() == weights(0).keys()
    assert (tmp_path / "out").stat().st_mode & 0o777 == (tmp_path / "base").stat().st_mode & 0o777


def test_parents_are_made_and_taken_away_again_on_failure(
    merged: Checkpoint, tmp_path: Path
) -> None:
    out = tmp_path / "runs" / "today" / "out"
    fails(merged, out, ConfigError, "threads 0: expected at least 1", threads=0)
    assert not (tmp_path / "runs").exists()
    merged.save(out)
    assert read_model(out).keys() == weights(0).keys()


def test_a_folder_taken_meanwhile_is_not_replaced(merged: Checkpoint, tmp_path: Path) -> None:
    def take(*_: int) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "other.txt").write_text("theirs")

    with pytest.raises(OutputError, match="was taken while the merge ran"):
        merged.save(tmp_path / "out", progress=take)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["other.txt"]


# ---- what may happen on the way --------------------------------------------------------------


def test_an_input_shortened_after_planning_is_a_storage_error(
    merged: Checkpoint, tuned: Path, tmp_path: Path
) -> None:
    path = tuned / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(100_000)
    fails(merged, tmp_path / "out", StorageError, f"{path}: no data at byte")


def test_an_input_removed_after_planning_is_a_storage_error(base: Path, tmp_path: Path) -> None:
    gone = write_model(tmp_path / "gone", weights(2))
    model = Checkpoint(base) - 0.5 * (Checkpoint(gone) - Checkpoint(base))
    (gone / "model.safetensors").unlink()
    fails(model, tmp_path / "out", StorageError, "cannot open for reading: No such file")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_the_callback_raises_passes_on(
    error: type[BaseException], merged: Checkpoint, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        merged.save(tmp_path / "out", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


@pytest.mark.parametrize("memory_mib", [1, 40])
def test_a_limit_that_cannot_be_kept_is_refused(
    memory_mib: int, merged: Checkpoint, tmp_path: Path
) -> None:
    fails(
        merged, tmp_path / "out", MemoryLimitError, "MiB already. Give at least",
        memory_mib=memory_mib,
    )  # fmt: skip


def test_a_config_that_is_not_json_is_refused_where_it_must_be_changed(
    merged: Checkpoint, base: Path, tmp_path: Path
) -> None:
    (base / "config.json").write_text("{")
    with pytest.raises(FormatError, match=r"config.json: not JSON"):
        merged.save(tmp_path / "out", dtype="F16")
    assert not (tmp_path / "out").exists()
    merged.save(tmp_path / "out")


def test_a_link_to_nowhere_in_the_base_is_a_storage_error(
    merged: Checkpoint, base: Path, tmp_path: Path
) -> None:
    (base / "tokenizer.json").symlink_to(tmp_path / "nowhere")
    fails(merged, tmp_path / "out", StorageError, "tokenizer.json")


# Python ignores SIGXFSZ, so that the limit on a file's size acts as a full disk does.
FULL_DISK = """
import resource, sys
from pathlib import Path
from tvmerge import Checkpoint
from tvmerge.errors import TVMergeError
from tvmerge.merging.merge import save_checkpoint
from tvmerge.engine.run_options import RunOptions

class Later(RunOptions):
    def buffer_bytes(self):  # asked for when the files exist with their full size
        limit()
        return RunOptions.buffer_bytes(self)

def limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)

base, tuned = Checkpoint(sys.argv[1]), Checkpoint(sys.argv[2])
model = base - 0.5 * (tuned - base)
later = sys.argv[5] == "later"
if not later:
    limit()
options = Later() if later else RunOptions()
try:
    save_checkpoint(model.coefficients, model.donor, sys.argv[3], dtype=None, options=options)
except TVMergeError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("limit", "when", "fault"),
    [
        (100_000, "first", "cannot reserve"),  # the files are laid out
        (100_000, "later", "cannot write at byte"),  # the engine fills them
        (200_000, "first", "tokenizer.json"),  # the files that come along
    ],
)
def test_a_full_disk_is_a_storage_error(
    limit: int, when: str, fault: str, base: Path, tuned: Path, tmp_path: Path
) -> None:
    (base / "tokenizer.json").write_bytes(bytes(300_000))
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out"
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(base), str(tuned), str(out), str(limit), when],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.stdout.startswith("StorageError")
    assert fault in ran.stdout
    if fault != "tokenizer.json":
        assert sorted(tmp_path.rglob("*")) == before
        return
    assert f"kept in {tmp_path / '.out.unfinished'}: run the same command again" in ran.stdout
    assert not out.exists()
    base_, tuned_ = Checkpoint(base), Checkpoint(tuned)
    report = (base_ - 0.5 * (tuned_ - base_)).save(out)
    assert report.resumed_bytes > 0
    assert report.bytes_moved == 0
    assert (out / "tokenizer.json").stat().st_size == 300_000


MANY_FILES = """
import resource, sys
from tvmerge import Checkpoint
resource.setrlimit(resource.RLIMIT_NOFILE, (150, 1024))
base, tuned = Checkpoint(sys.argv[1]), Checkpoint(sys.argv[2])
(base - 0.5 * (tuned - base)).save(sys.argv[3])
"""


def test_more_files_than_the_soft_limit_are_opened(tmp_path: Path) -> None:
    held = {f"t{i}": np.full(3, i, np.float32) for i in range(140)}
    base = write_model(tmp_path / "many", held, shards=140)
    tuned = write_model(tmp_path / "more", {n: a + 1 for n, a in held.items()}, shards=140)
    subprocess.run(
        [sys.executable, "-c", MANY_FILES, str(base), str(tuned), str(tmp_path / "out")],
        check=True, timeout=300,
    )  # fmt: skip
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 140
