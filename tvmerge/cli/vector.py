"""`tvmerge vector BASE TUNED OUT`: store a task vector."""

from __future__ import annotations

import click

from tvmerge.algebra import Checkpoint
from tvmerge.cli.options import RunFlags, dtype_option, write_options
from tvmerge.cli.saving import save
from tvmerge.hub import resolve


@click.command()
@click.argument("base")
@click.argument("tuned")
@click.argument("out")
@dtype_option("float32")
@write_options
def vector(base: str, tuned: str, out: str, dtype: str | None, flags: RunFlags) -> None:
    """Store the task vector TUNED - BASE in the new folder OUT.

    float32 keeps what a fine-tune changed; half precision loses much of it.
    """
    tau = Checkpoint(resolve(tuned)) - Checkpoint(resolve(base))
    save(tau, out, dtype=dtype, label="vector", flags=flags)
