"""Merges again what a receipt describes, without writing, and compares all that comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tvmerge.algebra.scaled import weighting_at
from tvmerge.checkpoints.hub import resolve
from tvmerge.checkpoints.stored import Stored
from tvmerge.engine.digest import file_digest
from tvmerge.engine.matrices import check_matrices, torch_here
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError, FormatError
from tvmerge.files.kept import place
from tvmerge.files.weights import read_rest
from tvmerge.inputs.forms import parse_form
from tvmerge.inputs.opening import open_input
from tvmerge.merging.stages import write_stages
from tvmerge.plans.batches import cut, run_batches
from tvmerge.plans.outcome import Outcome, outcomes
from tvmerge.plans.plan import Plan, plan_checkpoint, plan_vector
from tvmerge.receipts.receipt import MODEL, Receipt, row
from tvmerge.receipts.verify import Fault, faults, input_files, quick_faults
from tvmerge.version import __version__


def replay(receipt: Receipt, *, options: RunOptions | None = None) -> tuple[Fault, ...]:
    """What comes out otherwise when the merge of `receipt` is computed again; empty: nothing.

    Inputs that are not what they were are named alone, since all else follows from them. Raises
    what a merge raises where the inputs do not fit together or cannot be read.
    """
    changed = tuple(quick_faults(input_files(receipt)))
    if changed:
        return changed
    options = options or RunOptions()
    if receipt.recipe.form is not None:
        return _form_again(receipt, receipt.recipe.form, options)
    plan = _plan(receipt, options.threads)
    # Of what was computed from files that the plan does not read: an adapter's.
    others = [one for one in input_files(receipt) if one.path not in plan.inputs]
    changed = tuple(faults(others, options))
    if changed:
        return changed
    outcome = _compute(plan, options)
    return tuple(_inputs(receipt, plan, outcome)) or (
        *_files(receipt, plan, outcome),
        *_tensors(receipt, outcome),
    )


def _form_again(receipt: Receipt, form: str, options: RunOptions) -> tuple[Fault, ...]:
    """Packs the vector again, into a folder that is removed, and compares the files."""
    if form.startswith("rank="):
        raise ConfigError(
            "the receipt is that of a low-rank adapter, which is not made again: how singular "
            "vectors are rounded depends on the machine. Verify it without --replay"
        )
    changed = tuple(faults(input_files(receipt), options))
    if changed:
        return changed
    from tvmerge.compression.packer import save_packed

    (stored, _), *_ = terms(receipt, threads=options.threads)[0].items()
    with TemporaryDirectory() as folder:
        again = save_packed(stored, parse_form(form), Path(folder) / "again", options)
    return tuple(_compared(receipt, {file.name: file.digest for file in again.files}))


def terms(receipt: Receipt, *, threads: int | None = None) -> tuple[Mapping[Stored, float], Stored]:
    """The coefficients of the sum, in its order, and the donor, opened where they were.

    `threads` expand what is not stored as it is read (None: all).
    """
    number = receipt.recipe.donor
    donor = open_input(receipt.inputs[number].path, threads=threads)
    stored = [
        donor if n == number else open_input(record.path, donor, threads=threads)
        for n, record in enumerate(receipt.inputs)
    ]
    pairs = zip(stored, receipt.inputs, strict=True)
    return {one: record.coefficient for one, record in pairs if record.coefficient}, donor


def _plan(receipt: Receipt, threads: int | None) -> Plan:
    if any(record.coefficient is None for record in receipt.inputs):
        return _plan_of_recipe(receipt, threads)
    coefficients, donor = terms(receipt, threads=threads)
    plan = plan_checkpoint if receipt.recipe.kind == MODEL else plan_vector
    return plan([coefficients], donor, dtype=receipt.recipe.dtype)


def _plan_of_recipe(receipt: Receipt, threads: int | None) -> Plan:
    """Every tensor has coefficients of its own: the recorded recipe tells them."""
    from tvmerge.recipe import assemble, fold, parse_recipe  # which reads YAML

    if receipt.recipe.source is None:
        raise FormatError("the receipt has no recipe, from which to merge again. Restore it")
    held = receipt.recipe.source
    place = Path("the receipt's recipe")
    recipe = parse_recipe(place, held.text.encode(), lenient=held.lenient)
    places = {record.given: Path(record.path) for record in receipt.inputs}
    assembly = assemble(
        recipe, find=lambda name: places.get(name) or resolve(name), threads=threads
    )
    model = fold(assembly)
    scale = receipt.recipe.scale
    weighting = model.weighting if scale is None else weighting_at(model, scale)
    return plan_checkpoint([weighting], model.donor, dtype=receipt.recipe.dtype)


def _compute(plan: Plan, options: RunOptions) -> Outcome:
    names = [Path(shard.name) for shard in plan.shards]
    batches = cut(plan, names, batch_bytes=options.batch_bytes)
    whole = sum(batch.bytes_to_move for batch in batches)
    check_matrices(plan.jobs, options)
    write_stages(plan, options)
    workspace = options.workspace(sum(batch.bytes_held for batch in batches))
    done = run_batches(batches, workspace, options.progress, whole=whole, write=False)
    return outcomes(plan, batches, {record.number: record for record in done})[0]


def _inputs(receipt: Receipt, plan: Plan, outcome: Outcome) -> Iterator[Fault]:
    expected = {one.path: one for one in input_files(receipt)}
    for number, path in enumerate(plan.inputs):
        one = expected.get(path)
        if one is None and path.is_relative_to(place()):
            continue
        if one is None:
            yield Fault(f"input {path}", "is not in the receipt: it was added later")
        elif file_digest(read_rest(path), outcome.input_states[number]) != one.record.digest:
            yield one.fault("its tensor data was changed (its header is as it was)")


def _files(receipt: Receipt, plan: Plan, outcome: Outcome) -> Iterator[Fault]:
    pairs = zip(plan.shards, outcome.output_states, strict=True)
    found = {shard.name: file_digest(shard.head, state) for shard, state in pairs}
    return _compared(receipt, found)


def _compared(receipt: Receipt, found: Mapping[str, str]) -> Iterator[Fault]:
    """`found` are the digests of files that were made again, by name."""
    expected = {record.name: record.digest for record in receipt.files}
    by = "" if receipt.version == __version__ else f" (tvmerge {receipt.version} made it)"
    torch = receipt.run.get("torch")
    if torch is not None and torch != (here := torch_here(f"torch {torch}")):
        by += f" (by torch {torch}, now by torch {here}: last bits may be others)"
    for name, digest in found.items():
        if expected.get(name) != digest:
            yield Fault(name, f"comes out otherwise when it is made again{by}")


def _tensors(receipt: Receipt, outcome: Outcome) -> Iterator[Fault]:
    before = {tensor.name: row(tensor) for tensor in receipt.tensors}
    after = {tensor.name: row(tensor) for tensor in outcome.tensors}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield Fault(name, "the receipt has other figures for this tensor")
