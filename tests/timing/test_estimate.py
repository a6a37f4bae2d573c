"""What a merge will take: facts from the plan, rates from a probe, seconds from both."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.small_checkpoints import tensors, write

from tvmerge import Checkpoint, MergeReport
from tvmerge.engine.run_options import RunOptions, Workspace
from tvmerge.errors import MemoryLimitError, StorageError
from tvmerge.files.page_cache import PageCache, forget
from tvmerge.plans.batches import cut
from tvmerge.plans.plan import Plan, plan_checkpoint
from tvmerge.timing.estimate import (
    Load,
    Rates,
    estimate_range,
    estimate_seconds,
    load_of,
    needs,
    page_caches,
    room_in_memory_bytes,
)
from tvmerge.timing.probe import check_memory, probe
from tvmerge.timing.random_model import write_random_model

MIB = 1024 * 1024
RATES = Rates(
    merge_rate=5e9,
    fetch_rate=2e9,
    fetch_rates=(4e9, 1e9),
    write_back_rate=1e9,
    arithmetic_share=0.3,
    fixed_seconds=0.5,
    sampled_bytes=0,
)


def planned(base: Checkpoint, tuned: Checkpoint, dtype: str | None = None) -> Plan:
    merged = base - 0.5 * (tuned - base)
    return plan_checkpoint([merged.coefficients], merged.donor, dtype=dtype)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Checkpoint, Checkpoint]:
    made = (write(tmp_path / name, tensors(seed)) for seed, name in enumerate(("base", "tuned")))
    base, tuned = map(Checkpoint, made)
    return base, tuned


def test_needs_are_what_the_merge_then_does(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    base, tuned = pair
    found = needs(planned(base, tuned))
    report: MergeReport = (base - 0.5 * (tuned - base)).save(tmp_path / "out")
    heads = found.bytes_written - (report.bytes_moved - found.bytes_read)
    assert 0 < heads < 4096
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")}
    assert found.shards == sizes
    assert found.bytes_written == sum(sizes.values())
    assert (found.combined, sum(found.copied.values())) == (
        report.combined_tensors,
        report.copied_tensors,
    )
    assert found.copied == {"not floating-point": 1}
    assert found.passes == 1


def test_needs_count_tensors_by_the_dtype_that_is_written(
    pair: tuple[Checkpoint, Checkpoint],
) -> None:
    assert needs(planned(*pair)).dtypes == {"F32": 3, "I64": 1}
    assert needs(planned(*pair, dtype="BF16")).dtypes == {"BF16": 3, "I64": 1}


def test_untouched_tensors_are_copied_for_that_reason(
    pair: tuple[Checkpoint, Checkpoint],
) -> None:
    base, _ = pair
    found = needs(plan_checkpoint([base.coefficients], base.donor))
    assert found.combined == 0
    assert found.copied == {"untouched": 3, "not floating-point": 1}


def test_estimate_is_bytes_by_rates() -> None:
    assert estimate_seconds(Load(10**10, 0), RATES) == pytest.approx(0.5 + 2)
    assert estimate_seconds(Load(10**10, 4 * 10**9), RATES) == pytest.approx(0.5 + 2 + 2)


def test_range_is_that_of_a_disk_that_is_as_fast_and_as_slow_as_at_times() -> None:
    load = Load(10**10, 4 * 10**9)
    assert estimate_range(load, RATES) == pytest.approx((0.5 + 2 + 1, 0.5 + 2 + 4))
    cached = replace(RATES, fetch_rate=None, fetch_rates=None)
    assert estimate_range(Load(10**10, 0), cached) == pytest.approx((0.5 + 2, 0.5 + 2))


def test_estimate_waits_for_the_disk_only_where_it_is_slower_than_the_merge() -> None:
    assert estimate_seconds(Load(10**10, 0), RATES, 10**9) == pytest.approx(0.5 + 2)
    assert estimate_seconds(Load(10**10, 0), RATES, 3 * 10**9) == pytest.approx(0.5 + 3)


def test_loads_tell_cached_ranges_from_others(tmp_path: Path) -> None:
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    for number, folder in enumerate((base, tuned)):
        write_random_model(folder, 1e6, tuned=number)
    plan = planned(Checkpoint(base), Checkpoint(tuned))
    (batch,) = cut(plan, [tmp_path / "out"])
    assert load_of(batch, page_caches(plan)) == Load(batch.bytes_to_move, 0)  # just written
    # A file that never had pages: the same header, and a hole.
    file = tuned / "model.safetensors"
    head = file.read_bytes()[: 64 * 1024]
    size = file.stat().st_size
    file.unlink()
    file.write_bytes(head)
    os.truncate(file, size)
    load = load_of(batch, page_caches(plan))
    assert load.bytes_to_move == batch.bytes_to_move
    assert size - len(head) - 4096 <= load.uncached_bytes <= size


def test_page_cache_counts_by_range(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as opened:
        opened.truncate(8 * MIB)
        opened.seek(4 * MIB)
        opened.write(b"x" * MIB)
    cache = PageCache(file)
    assert cache.cached_bytes(4 * MIB, MIB) == MIB
    assert cache.cached_bytes(0, MIB) == 0
    assert cache.cached_bytes(3 * MIB, 2 * MIB) == MIB
    assert cache.cached_bytes(4 * MIB, 0) == 0


def test_page_cache_of_an_empty_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert PageCache(tmp_path / "file").cached_bytes(0, 0) == 0


def test_probe_leaves_nothing_and_tells_the_whole_load(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    plan = planned(*pair)
    before = sorted(tmp_path.rglob("*"))
    probed = probe(plan, tmp_path, RunOptions(), write_back=True)
    assert sorted(tmp_path.rglob("*")) == before
    rates = probed.rates
    assert probed.load.bytes_to_move == sum(j.bytes_read + j.bytes_written for j in plan.jobs)
    assert rates.sampled_bytes == probed.load.bytes_to_move  # a small model is probed whole
    assert rates.merge_rate > 0
    assert rates.write_back_rate is not None
    assert rates.write_back_rate > 0
    assert 0 <= rates.arithmetic_share < 1


def test_probe_stops_when_its_time_is_up(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    plan = planned(*pair)
    options = RunOptions(batch_bytes=1024)
    whole = probe(plan, tmp_path, options, budget_seconds=1e9).rates.sampled_bytes
    one = probe(plan, tmp_path, options, budget_seconds=0).rates.sampled_bytes
    assert 0 < one < whole


def test_probe_leaves_the_page_cache_as_it_was(tmp_path: Path) -> None:
    for number, name in enumerate(("base", "tuned")):
        write_random_model(tmp_path / name, 1e7, tuned=number)
    files = list(tmp_path.rglob("*.safetensors"))
    for path in files:
        forget(path, flush=True)
    plan = planned(Checkpoint(tmp_path / "base"), Checkpoint(tmp_path / "tuned"))
    if any(PageCache(path).cached_bytes(MIB, MIB) for path in files):
        pytest.skip("this file system keeps its files in memory")
    probed = probe(plan, tmp_path, RunOptions())
    assert probed.load.uncached_bytes > 0.9 * sum(path.stat().st_size for path in files)
    assert not any(PageCache(path).cached_bytes(MIB, 8 * MIB) for path in files)


def test_memory_that_the_engine_cannot_do_with_is_refused(
    pair: tuple[Checkpoint, Checkpoint],
) -> None:
    with pytest.raises(MemoryLimitError, match="needs at least"):
        check_memory(planned(*pair), Workspace(threads=1, slice_bytes=MIB, buffer_bytes=1000))
    check_memory(planned(*pair), RunOptions().workspace())


def test_input_that_has_gone_is_refused(pair: tuple[Checkpoint, Checkpoint]) -> None:
    plan = planned(*pair)
    plan.inputs[1].unlink()
    with pytest.raises(StorageError, match="cannot open for reading"):
        check_memory(plan, RunOptions().workspace())


def test_room_in_memory_is_a_part_of_memory() -> None:
    assert 0 <= room_in_memory_bytes() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# In a process of its own: what it reads and writes is counted for it as a whole.
COUNTED = """
import sys
from pathlib import Path
from tvmerge import Checkpoint
from tvmerge.plans.batches import cut, run_batch
from tvmerge.timing.floor import floor_seconds, run_floor
from tvmerge.plans.plan import plan_checkpoint
from tvmerge.engine import run_options
from tvmerge.engine.run_options import RunOptions

def moved():
    with open("/proc/self/io") as file:
        text = file.read()
    values = dict(line.split(": ") for line in text.splitlines())
    return [int(values[key]) for key in ("rchar", "wchar", "syscr", "syscw")], len(text)

def counted(call):
    before, own = moved()  # reading the counters counts too
    call()
    after, _ = moved()
    before[0] += own
    return [now - then for now, then in zip(after, before)]

folder = Path(sys.argv[1])
base, tuned = Checkpoint(folder / "base"), Checkpoint(folder / "tuned")
merged = base - 0.5 * (tuned - base)
plan = plan_checkpoint([merged.coefficients], merged.donor)
floor_seconds(plan, [folder / "floor"], RunOptions())
(batch,) = cut(plan, [folder / "floor"])
workspace = RunOptions(threads=1).workspace()
run_options._MAPPED_BYTES = 0  # all is read
print(counted(lambda: run_floor(batch, workspace)))
print(counted(lambda: run_batch(batch, workspace)))
"""


def test_floor_reads_and_writes_what_the_merge_does(tmp_path: Path) -> None:
    for number, name in enumerate(("base", "tuned")):
        write_random_model(tmp_path / name, 3e6, tuned=number)
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    floor, merge = done.stdout.splitlines()
    assert floor == merge
    size = (tmp_path / "base/model.safetensors").stat().st_size
    assert (tmp_path / "floor").stat().st_size == size
    read, written, *_ = map(int, floor.strip("[]").split(", "))
    assert read > 2 * 0.99 * size
    assert written > 0.99 * size
