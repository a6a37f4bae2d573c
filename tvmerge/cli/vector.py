"""`tvmerge vector BASE TUNED OUT`: store a task vector, or its low-rank approximation."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING

import click

from tvmerge.algebra.operands import Checkpoint, TaskVector
from tvmerge.checkpoints.hub import resolve
from tvmerge.cli.options import RunFlags, dtype_option, write_options
from tvmerge.cli.printing import print_json, print_some
from tvmerge.cli.progress import shown
from tvmerge.cli.saving import save
from tvmerge.inputs.adapter import adapter_folder

if TYPE_CHECKING:
    from tvmerge.compression.extracting import Extraction


@click.command()
@click.argument("base")
@click.argument("tuned")
@click.argument("out")
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    metavar="R",
    help="Write a LoRA adapter of peft of this rank, and say what share of TUNED - BASE it is.",
)
@dtype_option("float32")
@write_options
def vector(
    base: str, tuned: str, out: str, rank: int | None, dtype: str | None, flags: RunFlags
) -> None:
    """Store the task vector TUNED - BASE in the new folder OUT.

    TUNED is a checkpoint, or a LoRA adapter of peft, which stands for what it adds to BASE.
    float32 keeps what a fine-tune changed; half precision loses much of it.
    """
    start, path = Checkpoint(resolve(base)), resolve(tuned)
    is_checkpoint = adapter_folder(path) is None
    tau = (
        Checkpoint(path) - start
        if is_checkpoint
        else TaskVector(path, base=start, threads=flags.threads)
    )
    if rank is None:
        save(tau, out, dtype=dtype, label="vector", flags=flags)
        return
    if dtype is not None:
        raise click.UsageError("--dtype has no meaning with --rank: factors are float32.")
    # By name: it needs numpy, without which all else here runs.
    extracting = import_module("tvmerge.compression.extracting")
    with shown("vector", quiet=flags.quiet) as progress:
        options = flags.run_options(progress)
        found = extracting.extract(tau, start, out, rank=rank, options=options)
    _print(found, flags)


def _print(found: Extraction, flags: RunFlags) -> None:
    if flags.as_json:
        tensors = [asdict(one) for one in found.tensors]
        said = {"out": str(found.out), "kept_share": found.kept_share, "tensors": tensors}
        print_json(said)
    elif not flags.quiet:
        counts = Counter(one.action for one in found.tensors)
        click.echo(f"Wrote {found.out}: {found.kept_share:.2%} of the squared norm is kept")
        click.echo("  " + ", ".join(f"{count} {action}" for action, count in counts.items()))
        print_some("left out", [one.name for one in found.tensors if one.action == "left out"])
