"""`tvmerge vector BASE TUNED OUT`: store a task vector."""

from __future__ import annotations

import click

from tvmerge.algebra import Checkpoint
from tvmerge.cli.options import RunFlags, dtype_option, run_options
from tvmerge.cli.printing import print_report
from tvmerge.cli.progress import shown
from tvmerge.hub import resolve


@click.command()
@click.argument("base")
@click.argument("tuned")
@click.argument("out")
@dtype_option("float32")
@run_options
def vector(base: str, tuned: str, out: str, dtype: str | None, flags: RunFlags) -> None:
    """Store the task vector TUNED - BASE in the new folder OUT.

    float32 keeps what a fine-tune changed; half precision loses much of it.
    """
    tau = Checkpoint(resolve(tuned)) - Checkpoint(resolve(base))
    with shown("vector", quiet=flags.quiet) as progress:
        report = tau.save(
            out,
            dtype=dtype,
            memory_mib=flags.memory_mib,
            threads=flags.threads,
            progress=progress,
        )
    print_report(report, flags)
