"""Computed files: shared, kept while they are used, gone afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tvmerge.errors import StorageError
from tvmerge.files.kept import keep, place


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path))
    return place()


def make(path: Path) -> None:
    path.write_text("made")


def refuse(path: Path) -> None:
    raise AssertionError(f"{path} is there already")


def test_file_stays_until_the_last_user_is_gone() -> None:
    first = keep("key", "file", 4, make)
    second = keep("key", "file", 4, refuse)
    path = first.path
    del first
    assert second.path.read_text() == "made"
    del second
    assert not path.parent.exists()


def test_other_process_keeps_it(cache: Path) -> None:
    code = (
        "import sys\nfrom tvmerge.files.kept import keep\n"
        "kept = keep('key', 'file', 4, lambda path: path.write_text('theirs'))\n"
        "print('ready', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        mine = keep("key", "file", 4, refuse)
        del mine
        assert (cache / "key" / "file").read_text() == "theirs"
        other.communicate(b"")
    assert not any(cache.iterdir())


def test_what_a_killed_process_left_is_removed(cache: Path) -> None:
    for key in ("old", "key"):
        (cache / key).mkdir(parents=True)
        (cache / key / "file").write_text("left")
    (cache / "key" / "file.part").write_text("half")
    kept = keep("old", "file", 4, make)
    assert kept.path.read_text() == "made"
    assert [folder.name for folder in cache.iterdir()] == ["old"]


def test_failure_leaves_nothing(cache: Path) -> None:
    def fail(path: Path) -> None:
        make(path)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        keep("key", "file", 4, fail)
    assert not any(cache.iterdir())


def test_disk_without_room_is_named_before_anything_is_written(cache: Path) -> None:
    with pytest.raises(StorageError, match="name another disk's folder in TVMERGE_CACHE"):
        keep("key", "file", 2**62, refuse)


def test_place_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(StorageError, match="computed: cannot write"):
        keep("key", "file", 4, make)
