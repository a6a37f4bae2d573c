"""`tvmerge bench`: models made and removed, all timed in turn, numbers that belong together."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.checkpoints import digests, read_model

from tvmerge import Checkpoint
from tvmerge.checkpoints.stored import open_stored
from tvmerge.cli import cli
from tvmerge.receipts.parsing import parse_receipt
from tvmerge.receipts.receipt import RECEIPT_NAME
from tvmerge.timing import random_model
from tvmerge.timing.random_model import write_random_model


@pytest.fixture(autouse=True)
def no_peers(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Only what every system has: whether mergekit is there must not decide a test."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["bench", *args])


def answer(*args: str) -> dict[str, Any]:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    parsed = json.loads(result.stdout)
    assert isinstance(parsed, dict)
    return parsed


def test_without_models_some_are_made_timed_and_removed(tmp_path: Path) -> None:
    found = answer("--parameters", "1e6", "--rounds", "2", "--dir", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    contenders = {one["name"]: one for one in found["contenders"]}
    assert list(contenders) == ["cat + cp", "floor", "tvmerge"]
    for one in contenders.values():
        assert len(one["seconds"]) == 2
        assert one["median_seconds"] == median(one["seconds"]) > 0
        moved = found["bytes_read"] + found["bytes_written"]
        assert one["gb_per_second"] == pytest.approx(moved / 1e9 / one["median_seconds"])
    assert len(found["inputs"]) == 4
    assert found["share_of_floor"] > 0
    assert contenders["cat + cp"]["tvmerge_ratio"] > 0
    # Within its own process: a merge takes no longer than its process, and some memory.
    pairs = zip(found["engine_seconds"], contenders["tvmerge"]["seconds"], strict=True)
    assert all(engine < whole for engine, whole in pairs)
    assert contenders["tvmerge"]["peak_memory_mib"] > 5


def test_own_models_are_timed_and_left_as_they_are(tmp_path: Path) -> None:
    models = [tmp_path / name for name in ("base", "one", "two")]
    for number, folder in enumerate(models):
        write_random_model(folder, 1e6, tuned=number)
    before = digests(tmp_path)
    found = answer(*map(str, models), "--rounds", "1", "--dir", str(tmp_path))
    assert digests(tmp_path) == before
    assert found["inputs"] == list(map(str, models))
    size = (tmp_path / "base/model.safetensors").stat().st_size
    assert found["bytes_written"] == size
    assert 0.99 * 3 * size < found["bytes_read"] < 3 * size


def test_table_has_a_line_for_each(tmp_path: Path) -> None:
    output = run("--parameters", "1e6", "--rounds", "1", "--dir", str(tmp_path)).output
    for part in ("cat + cp  ", "floor     ", "tvmerge   ", "% of the speed of the floor"):
        assert part in output, output


def install_mergekit(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of mergekit's name that does what `script` says."""
    folder.mkdir()
    command = folder / "mergekit-yaml"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_mergekit_on_the_path_is_timed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_mergekit(tmp_path / "bin", f"cp $1 {tmp_path}/recipe; mkdir $2", monkeypatch)
    place = tmp_path / "place"
    place.mkdir()
    found = answer("--parameters", "1e6", "--rounds", "2", "--dir", str(place))
    mergekit = next(one for one in found["contenders"] if one["name"] == "mergekit")
    assert len(mergekit["seconds"]) == 1
    assert mergekit["tvmerge_ratio"] > 0
    recipe = json.loads((tmp_path / "recipe").read_text())
    assert [one["parameters"]["weight"] for one in recipe["models"]] == [-0.3] * 3
    assert list(place.iterdir()) == []


def test_contender_that_fails_ends_the_run_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_mergekit(tmp_path / "bin", "echo no such method >&2; exit 3", monkeypatch)
    place = tmp_path / "place"
    place.mkdir()
    result = run("--parameters", "1e6", "--rounds", "1", "--dir", str(place))
    assert result.exit_code == 1
    assert "mergekit-yaml ended with 3: no such method" in result.output
    assert list(place.iterdir()) == []


def test_models_that_the_disk_has_no_room_for_are_refused(tmp_path: Path) -> None:
    result = run("--parameters", "1e15", "--dir", str(tmp_path))
    assert result.exit_code == 5
    assert "Give fewer --parameters" in result.output
    assert list(tmp_path.iterdir()) == []


def test_base_alone_is_a_usage_error(tmp_path: Path) -> None:
    write_random_model(tmp_path / "base", 1e6)
    assert run(str(tmp_path / "base")).exit_code == 2


def test_random_models_differ_as_a_base_and_its_fine_tune(tmp_path: Path) -> None:
    for number, name in enumerate(("base", "tuned")):
        write_random_model(tmp_path / name, 1e6, tuned=number)
    base, tuned = (read_model(tmp_path / name) for name in ("base", "tuned"))
    assert sum(tensor.size for tensor in base.values()) == pytest.approx(1e6, rel=0.3)
    moved = 0
    for name, tensor in base.items():
        before, after = tensor.astype(np.float64), tuned[name].astype(np.float64)
        assert np.isfinite(before).all()
        assert (np.abs(before) >= 2**-9).all()
        assert (np.abs(before) < 2**-5).all()
        assert (np.abs(after - before) <= np.abs(before) * 2**-7).all()
        moved += np.count_nonzero(after != before)
    assert 0.4 < moved / open_stored(tmp_path / "base").parameters < 0.6


def test_large_random_models_are_sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_model, "_SHARD_BYTES", 500_000)
    size = write_random_model(tmp_path / "base", 1e6)
    stored = open_stored(tmp_path / "base")
    assert len(stored.shards) > 2
    assert stored.size_bytes == size
    assert stored.slots.keys() == read_model(tmp_path / "base").keys()


def test_receipts_after_a_benchmark_tell_the_share_of_the_floor(tmp_path: Path) -> None:
    def share(out: str) -> float | None:
        base, one = (Checkpoint(tmp_path / name) for name in ("base", "one"))
        (base - 1.5 * (one - base)).save(tmp_path / out, threads=1)
        found = parse_receipt((tmp_path / out / RECEIPT_NAME).read_bytes()).run["io_floor_share"]
        assert found is None or isinstance(found, float)
        return found

    names = ("base", "one", "two", "three")
    for number, name in enumerate(names):
        write_random_model(tmp_path / name, 1e6, tuned=number)
    assert share("before") is None
    models = [str(tmp_path / name) for name in names]
    answer(*models, "--rounds", "1", "--threads", "1", "--dir", str(tmp_path))
    after = share("after")
    assert after is not None and after > 0
    # A damaged memory is no memory.
    next(Path(os.environ["XDG_CACHE_HOME"]).rglob("floor.json")).write_text("[" * 100_000)
    assert share("damaged") is None
