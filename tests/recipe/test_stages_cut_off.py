"""Merges of several stages that are interrupted or killed, or that a cluster shares."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from recipe.staged import CHAINS, SLERP, assert_same, by_hand, recipe_of, text_of
from recovery.fault_runs import KILLED, FaultyDisk, contents, faulty_disk, write_inputs
from support.fleet_cluster import WatchedFleet, local_cluster

from tvmerge.engine.run_options import RunOptions
from tvmerge.merging.merge import save as merge
from tvmerge.merging.order import MODEL, Order, Variant
from tvmerge.recipe import build

pytestmark = pytest.mark.usefixtures("cache")


class Killed:
    """A recipe of three stages on a disk that kills, the cache beside what is merged."""

    def __init__(self, disk: FaultyDisk, folder: Path) -> None:
        self.disk, self.folder = disk, folder
        write_inputs(folder)
        (folder / "cache").mkdir()
        ties = "merge_method: ties\nbase_model: base\nparameters: {weight: 1, density: 0.5}\n"
        chain = [
            ("first", f"{ties}models: [{{model: tuned}}]\n"),
            ("second", SLERP.replace("model: a", "model: tuned")),
            ("", f"{ties}models: [{{model: second}}]\n"),
        ]
        (folder / "recipe.yaml").write_text(text_of(chain))
        self.inputs = sorted(path.name for path in folder.iterdir())
        self.calls = disk.calls(self.command, folder)
        self.expected = contents(folder / "out")
        shutil.rmtree(folder / "out")

    command = "merge recipe.yaml out --threads 2 --quiet"

    def kill(self, rule: str) -> int:
        """The batches of the last stage that were done when a run under the rule was killed."""
        ended = self.disk.run(self.command, self.folder, rule)
        assert ended.exit_code == KILLED, ended.said
        assert not (self.folder / "out").exists()
        journal = self.folder / ".out.unfinished/.journal"
        return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0

    def finish(self) -> None:
        """The same command ends as if nothing had happened, and leaves nothing else."""
        ended = self.disk.run(self.command, self.folder)
        assert ended.exit_code == 0, ended.said
        assert contents(self.folder / "out") == self.expected
        assert sorted(path.name for path in self.folder.iterdir()) == sorted([*self.inputs, "out"])
        assert not any((self.folder / "cache/computed").iterdir())
        shutil.rmtree(self.folder / "out")


def test_a_run_that_is_interrupted_leaves_whole_stages_to_the_next_one(
    cache: Path, written: list[str]
) -> None:
    recipe = recipe_of(text_of(CHAINS["dare, linear, model stock"]))

    def interrupt(_done: int, _whole: int) -> None:
        if written == ["first", "mean"]:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt, match=r"run the same command again to go on"):
            build(recipe).save("out", progress=interrupt)
        gc.collect()  # the error holds on to what was going on
        assert len([*cache.iterdir()]) == 1
        assert written == ["first", "mean"]
        written.remove("mean")  # as if it had not been begun
    file = next(cache.glob("*/model/*-00002-of-*.safetensors"))
    file.write_bytes(bytes(file.stat().st_size))  # what a power failure leaves
    build(recipe).save("out")
    assert written == ["first", "first", "mean"]
    assert not any(cache.iterdir())
    assert_same(Path("out"), by_hand(CHAINS["dare, linear, model stock"]))


def test_what_nobody_can_go_on_with_is_removed(cache: Path, written: list[str]) -> None:
    recipe = recipe_of(text_of(CHAINS["dare, linear, model stock"]))

    def interrupt(_done: int, _whole: int) -> None:
        if "mean" in written:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(recipe).save("out", progress=interrupt)
    gc.collect()  # the error holds on to what was going on
    shutil.rmtree(".out.unfinished")
    assert len([*cache.iterdir()]) == 1
    recipe = recipe_of(text_of(CHAINS["in another dtype"]))
    build(recipe).save("out")
    assert not any(cache.iterdir())


@pytest.mark.slow
def test_nodes_of_a_cluster_write_stages(written: list[str]) -> None:
    recipe = recipe_of(text_of(CHAINS["dare, linear, model stock"]))
    with local_cluster() as cluster, WatchedFleet(cluster.address) as fleet:
        model = build(recipe)
        variants = (Variant(weighting=model.weighting),)
        order = Order(kind=MODEL, donor=model.donor, variants=variants, dtype=recipe.output_dtype)
        merge(order, "out", RunOptions(batch_bytes=1), run=fleet.run)
    assert written == ["first", "mean"]
    assert sum(map(len, fleet.sent.values())) >= 3 * 10  # of each stage a batch for each tensor
    assert_same(Path("out"), by_hand(CHAINS["dare, linear, model stock"]))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyDisk]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TVMERGE_CACHE", "cache")  # below the folder that is merged in
        with faulty_disk(tmp_path_factory.mktemp("disk")) as disk:
            yield disk


@pytest.mark.slow
def test_a_merge_that_is_killed_in_any_stage_goes_on(disk: FaultyDisk, tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    killed = Killed(disk, tmp_path / "killed")
    done: dict[str, list[int]] = {}
    for part in ("computed", ".out.unfinished"):
        count = sum(call.startswith("write ") and part in call for call in killed.calls)
        assert count > 40
        done[part] = []
        for number in range(1, count, 1 + count // 12):
            rule = "torn" if number % 2 else "kill"
            done[part].append(killed.kill(f"write:{part}@{number}={rule}"))
            killed.finish()
    assert not any(done["computed"])
    assert max(done[".out.unfinished"]) > 20


def test_what_is_done_of_the_last_stage_stays_done(disk: FaultyDisk, tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    killed = Killed(disk, tmp_path / "killed")

    def of_last(calls: list[str]) -> int:
        return sum(call.startswith("write ") and ".safetensors.part" in call for call in calls)

    count = of_last(killed.calls)
    assert killed.kill(f"write:.safetensors.part@{count - 8}=kill") > 20
    again = killed.disk.calls(killed.command, killed.folder)
    assert of_last(again) < count / 2
    assert not any(call.startswith("write ") and "/computed/" in call for call in again)
    assert contents(killed.folder / "out") == killed.expected
