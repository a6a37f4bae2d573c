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

from tvmerge.checkpoints.stored import Stored
from tvmerge.checkpoints.tokenizer_files import TokenizerFiles
from tvmerge.engine.devices import parse_device
from tvmerge.engine.garbage import uncollected
from tvmerge.engine.matrices import check_matrices, torch_version
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import NothingChangedError, storage_errors
from tvmerge.files.dtype import parse_dtype
from tvmerge.merging.card import model_card
from tvmerge.merging.judging import judge
from tvmerge.merging.order import MODEL, VECTOR, Order, Variant
from tvmerge.merging.output import (
    change_config,
    check_destination,
    config_to_change,
    copy_companions,
    declared_dtype,
    index_files,
)
from tvmerge.merging.report import MergeReport as MergeReport
from tvmerge.merging.report import Result as Result
from tvmerge.merging.report import report
from tvmerge.merging.running import Runner, input_stats, run_merge
from tvmerge.merging.stages import files_there, stages_before, write_stages
from tvmerge.merging.unfinished import Unfinished, claimed
from tvmerge.plans.outcome import outcomes
from tvmerge.plans.plan import Plan
from tvmerge.plans.sums import Coefficients, Weighting, by_input, leaves, to_json
from tvmerge.receipts.making import make_receipt
from tvmerge.receipts.receipt import RECEIPT_NAME, RecipeText
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
    tokenizer: TokenizerFiles | None = None,
) -> MergeReport:
    """Write a model to the folder `out` in Hugging Face layout; see Checkpoint.save."""
    order = Order(
        kind=MODEL,
        donor=donor,
        variants=(Variant(weighting=weighting),),
        dtype=dtype,
        recipe=recipe,
        config=config or {},
        tokenizer=tokenizer,
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
    _refuse_early(order, plan, options)
    merge = _identity(order, plan, options)
    with (
        _cluster(options) as there,
        claimed(
            target.resolve(), merge, size_bytes=plan.output_bytes, restart=options.restart
        ) as work,
    ):
        before = write_stages(plan, options, run or there, work=work)
        stats = input_stats(plan.inputs)
        batches, resumed = run_merge(order, plan, stats, work, options, run or there)
        with uncollected():
            found = tuple(outcomes(plan, batches, work.journal.records))
        result = Result(
            order=order,
            plan=plan,
            input_stats=stats,
            known=before.known,
            outcomes=found,
            bytes_read=before.bytes_read + sum(batch.bytes_read for batch in batches),
            bytes_written=before.bytes_written + sum(batch.bytes_written for batch in batches),
            direct_bytes=sum(record.direct_bytes for record in work.journal.records.values()),
            cloned_bytes=sum(record.cloned_bytes for record in work.journal.records.values()),
            resumed_bytes=resumed,
            seconds=time.monotonic() - started,
            options=options,
        )
        for variant, outcome in zip(order.variants, result.outcomes, strict=True):
            judge(target / variant.name, order, variant, outcome)
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
    from tvmerge.fleet.fleet import Fleet  # which loads Ray

    with Fleet(options.ray_address, options) as fleet:
        yield fleet.run


def _refuse_early(order: Order, plan: Plan, options: RunOptions) -> None:
    """What would be an error only after hours: before anything is made."""
    options.thread_count()
    parse_device(options.device)
    if options.ray_address is None:  # else the nodes open their own
        options.open_cards()
    for one in (*stages_before(plan).values(), plan):
        check_matrices(one.jobs, options)
    if order.kind == MODEL:
        companions = order.companions
        if order.dtype is not None or order.config:
            for folder in order.donor.config_folders:
                if (folder / "config.json").relative_to(order.donor.folder) in companions:
                    config_to_change(folder / "config.json")


def _identity(order: Order, plan: Plan, options: RunOptions) -> dict[str, Any]:
    """All that decides the bytes: only a run with the same may continue this one."""
    paths = files_there(plan)  # of stages those that they are made of: they may not be written yet
    return {
        "tvmerge": __version__,
        "kind": order.kind,
        "dtype": None if order.dtype is None else parse_dtype(order.dtype),
        "donor": os.fspath(order.donor.source),
        "variants": [[variant.name, to_json(variant.weighting)] for variant in order.variants],
        "inputs": [[os.fspath(p), *s] for p, s in zip(paths, input_stats(paths), strict=True)],
        "batch_bytes": options.batch_bytes,
        "torch": torch_version(plan.jobs),
    }


def _complete(result: Result, number: int, work: Unfinished, name: str) -> None:
    """Write all that lies beside the weights; the index last, since it makes them a model."""
    order, variant = result.order, result.order.variants[number]
    folder = work.folder / variant.name
    if order.kind == MODEL:
        copy_companions(order.donor, folder, order.companions)
        if order.tokenizer is not None:
            order.tokenizer.write(folder)
        for component in order.donor.components or ("",):
            config, changes = folder / component / "config.json", dict(order.config)
            if order.dtype is not None:
                changes |= declared_dtype(config, parse_dtype(order.dtype))
            change_config(config, changes)
        card = model_card(
            variant.name or name,
            leaves(by_input(variant.weighting)),
            order.donor,
            recipe=order.recipe,
            own_tokenizer=order.tokenizer is not None,
        )
        (folder / "README.md").write_text(card, encoding="utf-8", errors="replace")
    pending = index_files(result.plan.shards)
    receipt = make_receipt(result, number, folder, pending, ignored=work.own_files())
    (folder / RECEIPT_NAME).write_bytes(receipt.to_bytes())
    for file, content in pending.items():
        (folder / file).write_bytes(content)
