"""A merge on a disk that fails or fills up: right bytes, or one error and no lost work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from recovery.fault_runs import (
    KILLED,
    MERGE,
    UNFINISHED,
    FaultyDisk,
    Run,
    changes,
    contents,
    ends_well,
)

KEPT = "run the same command again"


def failed_cleanly(ended: Run, place: Path) -> None:
    """One message; what is left is told of, and what is told of is left."""
    assert ended.exit_code in (5, 7), ended.said
    assert ended.said.startswith("Error: "), ended.said
    assert ended.said.count("\n") == 1, ended.said
    left = {path.name for path in place.iterdir()} - {"base", "tuned"}
    assert left == ({UNFINISHED} if KEPT in ended.said else set()), ended.said


# ---- calls that do less than asked, or fail ----------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [
        "any@1-=flaky",
        "any@1-=short",
        "allocate@1-=EOPNOTSUPP",
        "lock@1-=EOPNOTSUPP",
        "lock@1-=ENOLCK",
    ],
)
def test_what_a_disk_may_do_changes_no_byte(
    rules: str, disk: FaultyDisk, place: Path, expected: dict[str, bytes]
) -> None:
    ended = disk.run(MERGE, place, rules)
    assert ended.exit_code == 0, ended.said
    assert contents(place / "out") == expected


def test_short_and_interrupted_calls_change_nothing_when_a_killed_merge_is_resumed(
    disk: FaultyDisk, place: Path, expected: dict[str, bytes]
) -> None:
    assert disk.run(MERGE, place, "write:.part@20=kill").exit_code == KILLED
    ended = disk.run(MERGE, place, "any@1-=flaky")
    assert ended.exit_code == 0, ended.said
    assert contents(place / "out") == expected


def test_any_single_change_to_the_disk_may_fail(
    disk: FaultyDisk, place: Path, expected: dict[str, bytes], calls: list[str]
) -> None:
    seen: Counter[str] = Counter()
    failed = kept = 0
    for call, what in enumerate(changes(calls), 1):
        seen[what] += 1
        if seen[what] > 3:  # the same for every batch
            continue
        ended = disk.run(MERGE, place, f"change@{call}={('EIO', 'ENOSPC')[call % 2]}")
        if ended.exit_code == 0:  # a step that is worth trying, and not needed
            assert contents(place / "out") == expected
            shutil.rmtree(place / "out")
            continue
        failed_cleanly(ended, place)
        failed += 1
        kept += KEPT in ended.said
        ends_well(disk, place, expected, MERGE)
    sys.stdout.write(f"{failed} calls of {len(seen)} kinds failed, {kept} merges were resumed\n")
    assert failed > 0.9 * len(seen)
    assert kept > 0.5 * failed


def test_any_single_read_may_fail(
    disk: FaultyDisk, place: Path, expected: dict[str, bytes], calls: list[str]
) -> None:
    for part in ("base/model-0", "tuned/model-0"):
        reads = sum(call.startswith("read ") and part in call for call in calls)
        for read in range(1, reads + 1, 1 + reads // 8):
            ended = disk.run(MERGE, place, f"read:{part}@{read}=EIO")
            failed_cleanly(ended, place)
            assert ended.exit_code == 7, ended.said
            assert part in ended.said
            ends_well(disk, place, expected, MERGE)


def test_an_unreadable_sector_is_named_and_the_work_is_kept(
    disk: FaultyDisk, place: Path, expected: dict[str, bytes]
) -> None:
    ended = disk.run(MERGE, place, "read:tuned/model@30=EIO")
    assert ended.exit_code == 7
    assert "tuned/model-0000" in ended.said
    assert "cannot read at byte " in ended.said
    assert "Input/output error" in ended.said
    assert KEPT in ended.said
    ends_well(disk, place, expected, MERGE)


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
def test_a_disk_that_fills_up_costs_no_work(
    error: str, disk: FaultyDisk, place: Path, expected: dict[str, bytes]
) -> None:
    for first in (25, 5):  # it is still full when the merge goes on
        ended = disk.run(MERGE, place, f"write:.part@{first}-={error}")
        assert ended.exit_code == 7
        assert "cannot write at byte " in ended.said
        assert KEPT in ended.said
    ends_well(disk, place, expected, MERGE)


def test_a_disk_that_cannot_flush_is_an_error(
    disk: FaultyDisk, place: Path, expected: dict[str, bytes]
) -> None:
    command = MERGE + " --sync"
    syncs = sum(call.startswith("sync ") for call in disk.calls(command, place))
    shutil.rmtree(place / "out")
    assert syncs >= 4
    for sync in range(1, syncs, 3):
        ended = disk.run(command, place, f"sync@{sync}=EIO")
        failed_cleanly(ended, place)
        assert ended.exit_code == 7, ended.said
        ends_well(disk, place, expected, command)


# ---- a disk that is full -----------------------------------------------------------------------

# Runs where a small disk of its own is mounted on the folder `disk`; prints what happened.
ON_A_SMALL_DISK = """
import json, os, shutil, subprocess, sys
from pathlib import Path

def merge(out="disk/out"):
    command = f"apply base {out} --subtract tuned=0.5 --threads 2 --quiet"
    ran = subprocess.run(
        [sys.executable, "-m", "tvmerge", *command.split()], capture_output=True, text=True
    )
    told.append([ran.returncode, ran.stderr, sorted(os.listdir("disk"))])

def leave_free(pages):
    Path("disk/ballast").unlink(missing_ok=True)
    free = shutil.disk_usage("disk").free
    with open("disk/ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - pages * 4096)

told = []
merge("disk")
output = sum(path.stat().st_size for path in Path("base").glob("*.safetensors"))
pages = output // 4096
leave_free(pages // 2)  # it can be seen that there is no room
merge()
leave_free(pages + 2)  # it can be seen only when every file takes its blocks
merge()
leave_free(pages + 20)  # the weights fit, the tokenizer does not
merge()
merge()
Path("disk/ballast").unlink()
merge()
shutil.copytree("disk/out", "out")
print(json.dumps(told))
"""


def on_a_small_disk(place: Path) -> list[tuple[int, str, list[str]]]:
    """Run the script above; skips where nobody may mount a disk."""
    (place / "disk").mkdir()
    mount = "mount -t tmpfs -o size=8m tmpfs disk"
    for namespace in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            allowed = subprocess.run([*namespace, "sh", "-c", mount], cwd=place, check=False)
        except FileNotFoundError:
            continue
        if allowed.returncode == 0:
            break
    else:
        pytest.skip("a disk of its own cannot be mounted here")
    ran = subprocess.run(
        [*namespace, "sh", "-c", f'{mount} && exec "$@"', "-", sys.executable, "-c",
         ON_A_SMALL_DISK],
        cwd=place, check=True, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    (place / "disk").rmdir()
    return [tuple(one) for one in json.loads(ran.stdout)]


def test_a_full_disk_is_told_of_early_and_a_merge_resumes_when_it_has_room(
    place: Path, disk: FaultyDisk
) -> None:
    (place / "base" / "tokenizer.json").write_bytes(b"{}" + b" " * 300_000)
    assert disk.run(MERGE, place).exit_code == 0
    expected = contents(place / "out")
    shutil.rmtree(place / "out")
    mounted, seen, reserving, companion, again, last = on_a_small_disk(place)
    assert mounted[0] == 5
    assert "Name a folder inside it" in mounted[1]
    assert seen[0] == 5
    assert "bytes, the disk has" in seen[1]
    assert reserving[0] == 7
    assert "cannot reserve" in reserving[1]
    assert "No space left on device. Free some space" in reserving[1]
    for code, said, left in (companion, again):
        assert code == 7, said
        assert "tokenizer.json" in said
        assert KEPT in said
        assert left == [UNFINISHED, "ballast"]
    assert seen[2] == reserving[2] == ["ballast"]
    assert last == (0, "", ["out"])
    assert contents(place / "out") == expected
