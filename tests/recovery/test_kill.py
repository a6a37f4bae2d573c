"""A merge killed at any moment: the same command ends as if nothing had happened.

SIGKILL, which no clean-up survives: before every single call that alters the disk, in the middle of
writes, and at random moments; a resumed run is killed again.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from recovery.fault_runs import (
    KILLED,
    FaultyDisk,
    Run,
    changes,
    contents,
    faulty_disk,
    write_inputs,
)

from tvmerge.checkpoints.stored import open_stored
from tvmerge.errors import TVMergeError

pytestmark = pytest.mark.slow

MERGE = "apply base out --subtract tuned=0.5 --threads 2 --quiet"
RECIPE = (
    "merge_method: task_arithmetic\nbase_model: base\n"
    "models:\n  - {model: tuned, parameters: {weight: -0.5}}\n"
)
OTHERS = {
    "in another dtype": MERGE + " --dtype F16",
    "flushed to the disk": MERGE + " --sync",
    "of a task vector": "vector base tuned out --quiet",
    "begun anew": MERGE + " --restart",
    "of several scales": "sweep recipe.yaml out --scale 0.5,1,2 --quiet",
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyDisk]:
    with faulty_disk(tmp_path_factory.mktemp("disk")) as disk:
        yield disk


class Killing:
    """One command, killed again and again in one place and compared with an undisturbed run."""

    def __init__(self, disk: FaultyDisk, place: Path, command: str) -> None:
        self.disk, self.place, self.command = disk, place, command
        write_inputs(place)
        (place / "recipe.yaml").write_text(RECIPE)
        self.inputs = sorted(path.name for path in place.iterdir())
        undisturbed = disk.run(command, place)
        assert undisturbed.exit_code == 0, undisturbed.said
        self.expected = contents(place / "out")
        shutil.rmtree(place / "out")
        began = time.monotonic()
        self.changes = changes(disk.calls(command, place))
        self.seconds = time.monotonic() - began
        self.phases: Counter[str] = Counter()
        shutil.rmtree(place / "out")

    def kill(self, rules: str) -> None:
        """Run under rules that kill, and check what lies there."""
        self.check_killed(self.disk.run(self.command, self.place, rules))

    def check_killed(self, ended: Run) -> None:
        """Nothing that loads as a model lies at the destination, unless it is whole."""
        assert ended.exit_code in (KILLED, 0), ended.said
        if ended.exit_code == KILLED:
            self.phases[phase(self.place)] += 1
        if (self.place / "out").exists():
            assert contents(self.place / "out") == self.expected
        else:
            with pytest.raises(TVMergeError):
                open_stored(self.place / "out")

    def finish(self) -> None:
        """The same command ends well, its result is the undisturbed one, nothing else is left."""
        whole = (self.place / "out").exists()
        ended = self.disk.run(self.command, self.place)
        # Killed after its last step, it has done all there was to do.
        assert ended.exit_code == (5 if whole else 0), ended.said
        assert contents(self.place / "out") == self.expected
        assert sorted(path.name for path in self.place.iterdir()) == sorted([*self.inputs, "out"])
        shutil.rmtree(self.place / "out")

    def tell(self) -> None:
        """Print how often each phase was hit: `pytest -rP` shows it."""
        sys.stdout.write(f"killed {self.phases.total()} times: {dict(self.phases)}\n")


def phase(place: Path) -> str:
    """How far a killed merge had come, from what it left."""
    unfinished = place / ".out.unfinished"
    if (place / "out").exists():
        return "published"
    if not unfinished.exists():
        return "planning"
    if not (unfinished / ".journal").exists():
        return "publishing" if any(unfinished.rglob("*.safetensors")) else "laying out"
    if any(unfinished.rglob("*.safetensors")):
        return "finishing"
    batches = (unfinished / ".journal").read_bytes().count(b"\n") - 1
    return "writing" if batches > 0 else "laying out"


def test_killed_before_any_change_to_the_disk(disk: FaultyDisk, tmp_path: Path) -> None:
    merge = Killing(disk, tmp_path, MERGE)
    chance = random.Random(1)
    for call in range(1, len(merge.changes) + 1):
        merge.kill(f"change@{call}=kill")
        if chance.random() < 0.25:  # and again while it resumes
            merge.kill(f"change@{chance.randint(1, len(merge.changes))}=kill")
        merge.finish()
    merge.tell()
    assert merge.phases.keys() >= {"planning", "laying out", "writing", "finishing", "publishing"}
    assert merge.phases.total() >= 100


def test_killed_at_random_moments(disk: FaultyDisk, tmp_path: Path) -> None:
    merge = Killing(disk, tmp_path, MERGE)
    chance = random.Random(2)
    within = merge.seconds
    for _ in range(40):
        for _ in range(chance.randint(1, 3)):
            began = time.monotonic()
            merge.check_killed(disk.run_and_kill(MERGE, tmp_path, chance.uniform(0, within)))
            if (tmp_path / "out").exists():
                # How long a merge takes changes with what else this machine does meanwhile.
                within = time.monotonic() - began
                break
            within *= 1.1
        merge.finish()
    merge.tell()
    assert merge.phases.total() >= 10


@pytest.mark.parametrize("part", ["journal", ".part", "README.md", "index.json"])
def test_killed_in_the_middle_of_a_write(part: str, disk: FaultyDisk, tmp_path: Path) -> None:
    merge = Killing(disk, tmp_path, MERGE)
    writes = sum(call.startswith("write ") and part in call for call in merge.changes)
    assert writes > 0
    for write in range(1, writes + 1, 1 + writes // 12):
        merge.kill(f"write:{part}@{write}=torn")
        merge.finish()
    assert merge.phases.total() >= min(writes, 5)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_killed_merge_of_another_kind_is_resumed(
    kind: str, disk: FaultyDisk, tmp_path: Path
) -> None:
    merge = Killing(disk, tmp_path, OTHERS[kind])
    chance = random.Random(3)
    last = len(merge.changes)
    # Half of them at the end, where a merge takes its many single steps.
    for call in [*chance.sample(range(1, last - 20), 8), *range(last - 20, last + 1, 2)]:
        merge.kill(f"change@{call}=kill")
        if chance.random() < 0.5 and not (tmp_path / "out").exists():
            merge.kill(f"change@{chance.randint(1, 20)}=kill")
        merge.finish()
    merge.tell()
    assert merge.phases.total() >= 15


def test_what_a_killed_merge_has_written_is_not_written_again(
    disk: FaultyDisk, tmp_path: Path
) -> None:
    merge = Killing(disk, tmp_path, MERGE)
    written = [call for call in merge.changes if call.startswith("write ") and ".part" in call]
    merge.kill(f"write:.part@{len(written) - 2}=kill")
    again = [call for call in disk.calls(MERGE, tmp_path) if call.startswith("write ")]
    assert sum(".part" in call for call in again) < 0.3 * len(written)
    assert contents(tmp_path / "out") == merge.expected
