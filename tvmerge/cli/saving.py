"""Saves an expression as a command does: with progress, then a summary of what was done.

Apart from `merge`, so that the commands without a recipe start without a YAML parser.
"""

from __future__ import annotations

from tvmerge.algebra.assembled import Assembled
from tvmerge.algebra.operands import Checkpoint, TaskVector
from tvmerge.cli.options import RunFlags
from tvmerge.cli.printing import print_report
from tvmerge.cli.progress import shown
from tvmerge.receipts.receipt import RecipeText


def save(
    model: Checkpoint | Assembled | TaskVector,
    out: str,
    *,
    dtype: str | None,
    label: str,
    flags: RunFlags,
    recipe: RecipeText | None = None,
) -> None:
    """Write the model or vector with progress, then print what was done."""
    with shown(label, quiet=flags.quiet) as progress:
        report = model.save(
            out,
            dtype=dtype,
            memory_mib=flags.memory_mib,
            threads=flags.threads,
            device=flags.device,
            device_memory_mib=flags.device_memory_mib,
            progress=progress,
            recipe=recipe,
            sync=flags.sync,
            restart=flags.restart,
            ray_address=flags.ray_address,
        )
    print_report(report, flags)
