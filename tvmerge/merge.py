"""Runs a merge: plans it, has its batches run, records them, judges and publishes the result.

A merge that was cut off is found again by the same command and goes on where it stopped; several
variants of one merge (a scale sweep) are written from one reading and appear together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tvmerge.card import model_card
from tvmerge.devices import parse_device
from tvmerge.dtype import parse_dtype
from tvmerge.edit import is_swallowed
from tvmerge.errors import NothingChangedError, storage_errors
from tvmerge.garbage import uncollected
from tvmerge.order import MODEL, VECTOR, Order, Variant
from tvmerge.outcome import Outcome, outcomes
from tvmerge.output import (
    change_config,
    check_destination,
    config_to_change,
    copy_companions,
    declared_dtype,
    find_companions,
    index_file,
)
from tvmerge.plan import Plan
from tvmerge.receipt import RECEIPT_NAME, RecipeText
from tvmerge.receipt_making import make_receipt
from tvmerge.report import MergeReport as MergeReport
from tvmerge.report import Result as Result
from tvmerge.report import report
from tvmerge.run_options import RunOptions
from tvmerge.running import Runner, Stats, input_stats, run_merge
from tvmerge.stored import Stored
from tvmerge.sums import Coefficients, TensorSums, Weighting, by_input, to_json
from tvmerge.unfinished import Unfinished, claimed
from tvmerge.version import __version__


def save_checkpoint(
    weighting: Weighting,
    donor: Stored,
    out: str | os.PathLike[str],
    *,
    dtype: str | None,
    options: RunOptions,
    recipe: RecipeText | None = None,
    config: Mapping[tuple[str, ...], Any] | None = None,
) -> MergeReport:
    """Write a model to the folder `out` in Hugging Face layout; see Checkpoint.save."""
    order = Order(
        kind=MODEL,
        donor=donor,
        variants=(Variant(weighting=weighting),),
        dtype=dtype,
        recipe=recipe,
        config=config or {},
    )
    return save(order, out, options)[0]


def save_vector(
    coefficients: Coefficients,
    donor: Stored,
    out: str | os.PathLike[str],
    *,
    dtype: str | None,
    options: RunOptions,
    recipe: RecipeText | None = None,
) -> MergeReport:
    """Store a task vector in the folder `out`; see TaskVector.save."""
    variants = (Variant(weighting=coefficients),)
    order = Order(kind=VECTOR, donor=donor, variants=variants, dtype=dtype, recipe=recipe)
    return save(order, out, options)[0]


def save(
    order: Order,
    out: str | os.PathLike[str],
    options: RunOptions,
    *,
    run: Runner | None = None,
) -> tuple[MergeReport, ...]:
    """Write every variant of `order` below the folder `out`, which appears whole or not at all.

    `run` is how batches are run: by default here, one after the other, or on the cluster that the
    options name. Returns a report for every variant; raises as Checkpoint.save does.
    """
    started = time.monotonic()
    target = Path(out)
    check_destination(target, order.inputs)
    for variant in order.variants:
        if order.kind == VECTOR and not variant.weighting:
            raise NothingChangedError(f"{out}: the task vector is zero: its terms cancel out")
    with uncollected():
        plan = order.plan()
    _refuse_early(order, options)
    stats = input_stats(plan)
    merge = _identity(order, plan, stats, options)
    with (
        _cluster(options) as there,
        claimed(
            target.resolve(), merge, size_bytes=plan.output_bytes, restart=options.restart
        ) as work,
    ):
        batches, resumed = run_merge(order, plan, stats, work, options, run or there)
        with uncollected():
            found = tuple(outcomes(plan, batches, work.journal.records))
        result = Result(
            order=order,
            plan=plan,
            input_stats=stats,
            outcomes=found,
            bytes_read=sum(batch.bytes_read for batch in batches),
            bytes_written=sum(batch.bytes_written for batch in batches),
            cloned_bytes=sum(record.cloned_bytes for record in work.journal.records.values()),
            resumed_bytes=resumed,
            seconds=time.monotonic() - started,
            options=options,
        )
        for variant, outcome in zip(order.variants, result.outcomes, strict=True):
            _judge(target / variant.name, order, variant, outcome)
        with storage_errors(out), uncollected():
            heads = [shard.head for shard in plan.shards] * plan.variants
            work.name_parts(dict(zip(order.files(plan), heads, strict=True)))
            for number in range(len(order.variants)):
                _complete(result, number, work, target.name)
            work.publish(sync=options.flushes(plan.output_bytes))
    return tuple(report(result, number, out) for number in range(len(order.variants)))


@contextmanager
def _cluster(options: RunOptions) -> Iterator[Runner | None]:
    if options.ray_address is None:
        yield None
        return
    from tvmerge.fleet import Fleet  # which loads Ray

    with Fleet(options.ray_address, options) as fleet:
        yield fleet.run


def _refuse_early(order: Order, options: RunOptions) -> None:
    """What would be an error only after hours: before anything is made."""
    options.thread_count()
    parse_device(options.device)
    if options.ray_address is None:  # else the nodes open their own
        options.open_cards()
    if order.kind == MODEL:
        companions = find_companions(order.donor)
        changed = order.dtype is not None or order.config
        if changed and Path("config.json") in companions:
            config_to_change(order.donor.folder / "config.json")


def _identity(order: Order, plan: Plan, stats: Stats, options: RunOptions) -> dict[str, Any]:
    """All that decides the bytes: only a run with the same may continue this one."""
    return {
        "tvmerge": __version__,
        "kind": order.kind,
        "dtype": None if order.dtype is None else parse_dtype(order.dtype),
        "donor": os.fspath(order.donor.source),
        "variants": [[variant.name, to_json(variant.weighting)] for variant in order.variants],
        "inputs": [[os.fspath(p), *stat] for p, stat in zip(plan.inputs, stats, strict=True)],
        "batch_bytes": options.batch_bytes,
    }


def _judge(out: Path, order: Order, variant: Variant, outcome: Outcome) -> None:
    """Raise NothingChangedError where an edit was asked for and next to nothing came of it."""
    if variant.weighting == {order.donor: 1.0} or not outcome.combined_elements:
        return
    sums = variant.weighting
    if isinstance(sums, TensorSums) and not sums.keeps_layout_of(order.donor):
        return  # other layers are a change, whatever became of the edit
    edit = outcome.edit
    if order.kind == VECTOR:
        if edit.changed == 0:
            raise NothingChangedError(
                f"{out}: the task vector is zero everywhere: the checkpoints are the same. "
                "Was the fine-tune saved under another name?"
            )
        return
    advice = (
        "raise the scale, or keep the result in float32 (--dtype float32; in a recipe "
        "dtype: float32)"
    )
    if edit.changed == 0:
        raise NothingChangedError(
            f"{out}: the result is {order.donor.source} again, bit for bit: the edit is zero, or "
            f"too small for the dtype. Compare the inputs with `tvmerge diff`, {advice}"
        )
    if is_swallowed(edit):
        raise NothingChangedError(
            f"{out}: rounding swallows the edit: of {edit.intended:,} elements that it should "
            f"change, {edit.lost:,} ({edit.lost_share:.2%}) stay as they are in "
            f"{order.donor.source}. The edit is too small for the dtype: {advice}"
        )


def _complete(result: Result, number: int, work: Unfinished, name: str) -> None:
    """Write all that lies beside the weights; the index last, since it makes them a model."""
    order, variant = result.order, result.order.variants[number]
    folder = work.folder / variant.name
    if order.kind == MODEL:
        copy_companions(order.donor, folder, find_companions(order.donor))
        changes = dict(order.config)
        if order.dtype is not None:
            changes |= declared_dtype(folder / "config.json", parse_dtype(order.dtype))
        change_config(folder / "config.json", changes)
        card = model_card(variant.name or name, by_input(variant.weighting), order.donor)
        (folder / "README.md").write_text(card, encoding="utf-8", errors="replace")
    index = index_file(result.plan.shards, stem=order.kind)
    pending = dict([index]) if index else {}
    receipt = make_receipt(result, number, folder, pending, ignored=work.own_files())
    (folder / RECEIPT_NAME).write_bytes(receipt.to_bytes())
    for file, content in pending.items():
        (folder / file).write_bytes(content)
