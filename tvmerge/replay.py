"""Merges again what a receipt describes, without writing, and compares all that comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tvmerge.batches import cut, run_batches
from tvmerge.digest import file_digest
from tvmerge.errors import FormatError
from tvmerge.file_records import read_head
from tvmerge.hub import resolve
from tvmerge.outcome import Outcome, outcomes
from tvmerge.plan import Plan, plan_checkpoint, plan_vector
from tvmerge.receipt import MODEL, Receipt, row
from tvmerge.run_options import RunOptions
from tvmerge.scaled import weighting_at
from tvmerge.stored import Stored, open_stored
from tvmerge.verify import Fault, input_files, quick_faults
from tvmerge.version import __version__


def replay(receipt: Receipt, *, options: RunOptions | None = None) -> tuple[Fault, ...]:
    """What comes out otherwise when the merge of `receipt` is computed again; empty: nothing.

    Inputs that are not what they were are named alone, since all else follows from them. Raises
    what a merge raises where the inputs do not fit together or cannot be read.
    """
    changed = tuple(quick_faults(input_files(receipt)))
    if changed:
        return changed
    plan = _plan(receipt)
    outcome = _compute(plan, options or RunOptions())
    return tuple(_inputs(receipt, plan, outcome)) or (
        *_files(receipt, plan, outcome),
        *_tensors(receipt, outcome),
    )


def terms(receipt: Receipt) -> tuple[Mapping[Stored, float], Stored]:
    """The coefficients of the sum, in its order, and the donor, opened where they were."""
    stored = [open_stored(record.path) for record in receipt.inputs]
    pairs = zip(stored, receipt.inputs, strict=True)
    return {one: record.coefficient for one, record in pairs if record.coefficient}, stored[
        receipt.recipe.donor
    ]


def _plan(receipt: Receipt) -> Plan:
    if any(record.coefficient is None for record in receipt.inputs):
        return _plan_of_recipe(receipt)
    coefficients, donor = terms(receipt)
    plan = plan_checkpoint if receipt.recipe.kind == MODEL else plan_vector
    return plan([coefficients], donor, dtype=receipt.recipe.dtype)


def _plan_of_recipe(receipt: Receipt) -> Plan:
    """Every tensor has coefficients of its own: the recorded recipe tells them."""
    from tvmerge.recipe import assemble, fold, parse_recipe  # which reads YAML

    if receipt.recipe.source is None:
        raise FormatError("the receipt has no recipe, from which to merge again. Restore it")
    recipe = parse_recipe(Path("the receipt's recipe"), receipt.recipe.source.text.encode())
    places = {record.given: Path(record.path) for record in receipt.inputs}
    model = fold(assemble(recipe, find=lambda name: places.get(name) or resolve(name)))
    scale = receipt.recipe.scale
    weighting = model.weighting if scale is None else weighting_at(model, scale)
    return plan_checkpoint([weighting], model.donor, dtype=receipt.recipe.dtype)


def _compute(plan: Plan, options: RunOptions) -> Outcome:
    names = [Path(shard.name) for shard in plan.shards]
    batches = cut(plan, names, batch_bytes=options.batch_bytes)
    whole = sum(batch.bytes_to_move for batch in batches)
    workspace = options.workspace(sum(batch.bytes_held for batch in batches))
    done = run_batches(batches, workspace, options.progress, whole=whole, write=False)
    return outcomes(plan, batches, {record.number: record for record in done})[0]


def _inputs(receipt: Receipt, plan: Plan, outcome: Outcome) -> Iterator[Fault]:
    expected = {one.path: one for one in input_files(receipt)}
    for number, path in enumerate(plan.inputs):
        one = expected.get(path)
        if one is None:
            yield Fault(f"input {path}", "is not in the receipt: it was added later")
        elif file_digest(read_head(path), outcome.input_states[number]) != one.record.digest:
            yield one.fault("its tensor data was changed (its header is as it was)")


def _files(receipt: Receipt, plan: Plan, outcome: Outcome) -> Iterator[Fault]:
    expected = {record.name: record.digest for record in receipt.files}
    by = "" if receipt.version == __version__ else f" (tvmerge {receipt.version} made it)"
    for shard, state in zip(plan.shards, outcome.output_states, strict=True):
        if expected.get(shard.name) != file_digest(shard.head, state):
            yield Fault(shard.name, f"comes out otherwise when it is made again{by}")


def _tensors(receipt: Receipt, outcome: Outcome) -> Iterator[Fault]:
    before = {tensor.name: row(tensor) for tensor in receipt.tensors}
    after = {tensor.name: row(tensor) for tensor in outcome.tensors}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield Fault(name, "the receipt has other figures for this tensor")
