"""An unfinished merge belongs to its command and inputs; one process at a time works on it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from recovery.fault_runs import KILLED, MERGE, UNFINISHED, FaultyDisk, contents, ends_well

OTHER = "apply base out --subtract tuned=0.25 --threads 2 --quiet"

# ---- inputs that change on the way -------------------------------------------------------------


def test_an_input_cut_short_while_it_is_read_is_an_error(disk: FaultyDisk, place: Path) -> None:
    ended = disk.run(MERGE, place, "read:tuned/model@30=cut")
    assert ended.exit_code == 7, ended.said
    assert "tuned/model-0000" in ended.said
    assert not (place / "out").exists()
    assert not (place / UNFINISHED).exists()  # what was made of it means nothing


@pytest.mark.parametrize("input_name", ["base", "tuned"])
def test_a_merge_is_not_resumed_with_another_input(
    input_name: str, disk: FaultyDisk, place: Path
) -> None:
    assert disk.run(MERGE, place, "write:.part@20=kill").exit_code == KILLED
    file = sorted((place / input_name).glob("*.safetensors"))[-1]
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    before = contents(place / UNFINISHED)
    refused = disk.run(MERGE, place)
    assert refused.exit_code == 5
    assert f"{file} has changed" in refused.said
    assert "--restart" in refused.said
    assert contents(place / UNFINISHED) == before
    assert disk.run(MERGE + " --restart", place).exit_code == 0
    restarted = contents(place / "out")
    shutil.rmtree(place / "out")
    ends_well(disk, place, restarted, MERGE)


def test_a_merge_waits_for_an_input_that_is_gone(
    disk: FaultyDisk, place: Path, expected: dict[str, bytes]
) -> None:
    assert disk.run(MERGE, place, "write:.part@20=kill").exit_code == KILLED
    before = contents(place / UNFINISHED)
    (place / "tuned").rename(place / "elsewhere")
    gone = disk.run(MERGE, place)
    assert gone.exit_code == 3
    assert "tuned: no such file or folder" in gone.said
    assert contents(place / UNFINISHED) == before
    (place / "elsewhere").rename(place / "tuned")
    ends_well(disk, place, expected, MERGE)


def test_files_that_come_along_are_those_of_the_day_a_merge_ends(
    disk: FaultyDisk, place: Path
) -> None:
    assert disk.run(MERGE, place, "create:index.json@1=kill").exit_code == KILLED
    shutil.rmtree(place / "base" / "code")
    (place / "base" / "tokenizer.json").write_text("{}")
    assert disk.run(MERGE, place).exit_code == 0
    resumed = contents(place / "out")
    shutil.rmtree(place / "out")
    ends_well(disk, place, resumed, MERGE)


# ---- several merges into one place -------------------------------------------------------------


def test_another_merges_work_is_not_touched(
    disk: FaultyDisk, place: Path, expected: dict[str, bytes]
) -> None:
    assert disk.run(MERGE, place, "write:.part@20=kill").exit_code == KILLED
    before = contents(place / UNFINISHED)
    refused = disk.run(OTHER, place)
    assert refused.exit_code == 5
    assert "other coefficients" in refused.said
    assert contents(place / UNFINISHED) == before
    ends_well(disk, place, expected, MERGE)


@pytest.mark.parametrize("command", [MERGE, OTHER, MERGE + " --restart"])
@pytest.mark.parametrize("moment", ["while it writes", "while it publishes"])
def test_a_place_that_is_written_to_is_refused(
    moment: str,
    command: str,
    disk: FaultyDisk,
    place: Path,
    expected: dict[str, bytes],
    calls: list[str],
) -> None:
    renames = sum(call.startswith("rename ") for call in calls)
    rules = "write:.part@20=stop" if moment == "while it writes" else f"rename@{renames}=stop"
    first = disk.start(MERGE, place, rules)
    disk.stopped(first)
    second = disk.run(command, place)
    os.kill(first.pid, signal.SIGCONT)
    ended = disk.wait(first)
    assert second.exit_code == 5, second.said
    assert "another merge" in second.said
    assert ended is not None
    assert ended.exit_code == 0, ended.said
    assert contents(place / "out") == expected
    assert {path.name for path in place.iterdir()} == {"base", "tuned", "out"}


@pytest.mark.parametrize("name", [UNFINISHED, f"{UNFINISHED}/.journal"])
def test_a_link_in_the_place_of_a_merge_is_not_followed(
    name: str, disk: FaultyDisk, place: Path
) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("all of it")
    link = place / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(place / "mine" / ("thesis.txt" if link.name == ".journal" else ""))
    ended = disk.run(MERGE, place)
    assert ended.exit_code == 5, ended.said
    assert "cannot write there" in ended.said
    assert contents(place / "mine") == {"thesis.txt": b"all of it"}
    assert not (place / "out").exists()


@pytest.mark.parametrize("commands", [[MERGE], [MERGE, OTHER]])
def test_of_ten_merges_into_one_place_one_is_published(
    commands: list[str], disk: FaultyDisk, place: Path
) -> None:
    alone = []
    for command in commands:
        assert disk.run(command, place).exit_code == 0
        alone.append(contents(place / "out"))
        shutil.rmtree(place / "out")
    for _ in range(5):
        started = [disk.start(commands[i % len(commands)], place) for i in range(10)]
        ended = [run for run in map(disk.wait, started) if run is not None]
        assert sorted(run.exit_code for run in ended) == [0] + [5] * 9, ended
        winner = next(i for i, run in enumerate(ended) if run.exit_code == 0)
        assert contents(place / "out") == alone[winner % len(commands)]
        assert {path.name for path in place.iterdir()} == {"base", "tuned", "out"}
        shutil.rmtree(place / "out")
