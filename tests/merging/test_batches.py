"""Cutting a merge into batches: nothing is lost, doubled, or shows in a result."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from oracles.arithmetic import random_array
from support.checkpoints import DTYPES, read_model, same_bits, write_model

from tvmerge import Checkpoint
from tvmerge.engine.digest import EMPTY
from tvmerge.engine.edit import Edit, fold
from tvmerge.engine.jobs import Combine, Copy
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError
from tvmerge.merging.merge import save
from tvmerge.merging.order import MODEL, Order, Variant
from tvmerge.plans.batches import Batch, cut, run_batch
from tvmerge.plans.outcome import Outcome, outcomes
from tvmerge.plans.plan import Plan, plan_checkpoint, plan_vector
from tvmerge.plans.record import Record
from tvmerge.plans.rows import summing_order

ELEMENTS = 200_003
OPTIONS = RunOptions(threads=2)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """Three models with a tensor of several parts, a small one, an empty one and integers."""
    generator = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("models")
    made = []
    for k, dtype in enumerate(("BF16", "F32", "F16")):
        held = {
            "large": random_array(generator, dtype, (ELEMENTS,), wild=False),
            "small": random_array(generator, dtype, (7, 5), wild=False),
            "none": np.zeros((0, 4), DTYPES[dtype]),
            "ids": np.arange(30_001) + (k == 2),
        }
        made.append(Checkpoint(write_model(folder / str(k), held, shards=2)))
    return made


@pytest.fixture(scope="module")
def variants(models: list[Checkpoint]) -> list[Checkpoint]:
    base, a, b = models
    return [base + s * (a - base) - 0.3 * s * (b - base) for s in (0.5, 0.0, 1.0)]


def planned(variants: list[Checkpoint]) -> Plan:
    return plan_checkpoint([v.coefficients for v in variants], variants[0].donor)


def outputs(plan: Plan, folder: Path) -> list[Path]:
    """The output files of a plan, in full size, with their headers."""
    made = []
    for variant in range(plan.variants):
        for shard in plan.shards:
            made.append(folder / f"{variant}-{shard.name}")
            made[-1].write_bytes(shard.head.ljust(shard.size_bytes, b"\0"))
    return made


def run_all(plan: Plan, folder: Path, **cut_at: int) -> tuple[list[Outcome], list[bytes]]:
    """Cut, run the batches backwards, add up; also the bytes of the files."""
    folder.mkdir()
    files = outputs(plan, folder)
    batches = cut(plan, files, **cut_at)
    records = {b.number: run_batch(b, OPTIONS.workspace()) for b in reversed(batches)}
    return outcomes(plan, batches, records), [file.read_bytes() for file in files]


def test_where_a_merge_is_cut_shows_in_no_byte_sum_or_digest(
    variants: list[Checkpoint], tmp_path: Path
) -> None:
    plan = planned(variants)
    whole = run_all(plan, tmp_path / "whole")
    for number, sizes in enumerate(
        ({"batch_bytes": 1}, {"batch_bytes": 300_000, "part_elements": 2**16, "part_bytes": 2**12},
         {"batch_bytes": 1, "part_elements": 2**14, "part_bytes": 64})
    ):  # fmt: skip
        assert run_all(plan, tmp_path / str(number), **sizes) == whole
    assert whole[0][0].edit.intended > 0
    assert whole[0][0].tensors[-1].differs or any(t.differs for t in whole[0][0].tensors)


def test_every_variant_has_the_bytes_of_its_own_merge(
    variants: list[Checkpoint], tmp_path: Path
) -> None:
    named = tuple(Variant(weighting=v.coefficients, name=f"v{n}") for n, v in enumerate(variants))
    order = Order(kind=MODEL, donor=variants[0].donor, variants=named)
    reports = save(order, tmp_path / "sweep", RunOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep"]
    for number, model in enumerate(variants):
        own = model.save(tmp_path / f"own{number}")
        together = read_model(tmp_path / "sweep" / f"v{number}")
        alone = read_model(tmp_path / f"own{number}")
        assert together.keys() == alone.keys()
        assert all(same_bits(together[name], alone[name]) for name in alone)
        assert reports[number].changed_elements == own.changed_elements
        assert reports[number].edit_cosine == own.edit_cosine
    assert reports[1].copied_tensors == 4  # scale 0: the base, byte for byte


def test_every_byte_of_every_input_is_digested_once(
    models: list[Checkpoint], variants: list[Checkpoint]
) -> None:
    base, a, _ = models
    same_file = Checkpoint(base.donor.source) - 0.5 * (a - base) + 0.25 * (a - base)
    for plan in (
        planned(variants),
        planned([same_file]),
        plan_vector([(a - base).coefficients], base.donor),
    ):
        ranges: dict[Path, list[tuple[int, int]]] = {path: [] for path in plan.inputs}
        for batch in cut(plan, [Path("x")] * plan.variants * 2, batch_bytes=1, part_elements=2**14):
            for file, begin, size in digested(batch):
                ranges[plan.inputs[file]].append((begin, begin + size))
        for path, found in ranges.items():
            content = path.read_bytes()
            position = 8 + int.from_bytes(content[:8], "little")
            for begin, end in sorted(found):
                assert begin == position
                position = end
            assert position == len(content)


def digested(batch: Batch) -> list[tuple[int, int, int]]:
    found = []
    for job in batch.jobs:
        places = job.sources if isinstance(job, Combine) else (job.source, *job.same_as)
        for place in places:
            size = (
                job.size_bytes
                if isinstance(job, Copy)
                else job.elements * DTYPES[place.dtype].itemsize
            )
            if place.digested and size:
                found.append((place.file, place.offset_bytes, size))
    return found


def test_batches_move_about_the_same_and_name_only_their_own_files(
    variants: list[Checkpoint],
) -> None:
    plan = planned(variants)
    files = [Path(str(n)) for n in range(plan.variants * len(plan.shards))]
    whole = sum(job.bytes_read + job.bytes_written for job in plan.jobs)
    batches = cut(plan, files, batch_bytes=whole // 8, part_elements=2**13, part_bytes=2**13)
    moved = [batch.bytes_to_move for batch in batches]
    assert sum(moved) == whole
    assert len(batches) in (8, 9)
    assert max(moved) < 2 * min(moved)
    assert [batch.number for batch in batches] == list(range(len(batches)))
    assert any(len(batch.inputs) < len(plan.inputs) for batch in batches)
    assert pickle.loads(pickle.dumps(batches)) == batches


def test_the_order_of_a_sum_is_that_of_each_variant(models: list[Checkpoint]) -> None:
    base, a, b = (model.donor for model in models)
    assert summing_order([{base: 1, b: 1}, {a: 2, base: 1, b: 1}], base) == (base, a, b)
    assert summing_order([{b: 1}, {a: 1, b: 1}], base) == (a, b)
    with pytest.raises(ConfigError, match="in different orders"):
        summing_order([{a: 1, b: 1}, {b: 1, a: 1}], base)


def test_parts_fold_as_a_tree_and_the_rest_from_its_end() -> None:
    parts = [Edit(1, 1, 0, x, x, x) for x in (1e16, 1.0, 1.0, -1e16, 3.0, 1e16, -1e16)]
    tree = ((1e16 + 1.0) + (1.0 + -1e16)) + ((3.0 + 1e16) + -1e16)
    assert fold(parts) == Edit(7, 7, 0, tree, tree, tree)
    assert fold([]) == Edit()


def test_a_record_survives_json_and_anything_else_is_refused() -> None:
    record = Record(
        number=3, edits=((Edit(1, 2, 1, 0.1, float("inf"), 1 / 3),), ()), different=(0, 5),
        input_states={2: EMPTY}, output_states={0: bytes(range(64))}, bytes_read=7,
        bytes_written=9, direct_bytes=4, cloned_bytes=3, seconds=0.25,
    )  # fmt: skip
    plain = json.loads(json.dumps(record.to_json()))
    assert Record.from_json(plain) == record
    for key in plain:
        for wrong in (None, -1, "x", [None], {"1": "zz"}, {"x": ""}, True):
            with pytest.raises(ValueError):
                Record.from_json(plain | {key: wrong})
        with pytest.raises(ValueError):
            Record.from_json({k: v for k, v in plain.items() if k != key})
