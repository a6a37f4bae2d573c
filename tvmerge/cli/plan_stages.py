"""What the stages of a recipe will take that are written before the merge that reads them."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from tvmerge.cli.printing import passes, size
from tvmerge.engine.matrices import check_matrices
from tvmerge.engine.run_options import RunOptions, Workspace
from tvmerge.files.kept import place
from tvmerge.files.untrusted import printable
from tvmerge.merging.stages import peak_bytes, stages_before, with_stand_ins
from tvmerge.plans.plan import Plan
from tvmerge.timing.estimate import Needs, needs
from tvmerge.timing.probe import check_memory


@dataclass(frozen=True, slots=True)
class StageNeeds:
    """What each takes, in their order, and all of them of the disk while they are needed."""

    by_name: tuple[tuple[str, Needs], ...]
    folder: Path
    peak_bytes: int
    free_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "stages": [{"name": name, **asdict(one)} for name, one in self.by_name],
            "stages_folder": os.fspath(self.folder),
            "stages_disk_needed_bytes": self.peak_bytes,
            "stages_disk_free_bytes": self.free_bytes,
        }


def stage_needs(plan: Plan, workspace: Workspace, options: RunOptions) -> StageNeeds | None:
    """What the stages before a plan take; None where there are none. Nothing is written.

    Raises what a merge would raise before it writes one.
    """
    before = stages_before(plan)
    if not before:
        return None
    for own in before.values():
        check_memory(with_stand_ins(own), workspace)
        check_matrices(own.jobs, options)
    folder = place()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return StageNeeds(
        tuple((stage.name, needs(own)) for stage, own in before.items()),
        folder,
        peak_bytes(plan),
        shutil.disk_usage(there).free,
    )


def print_stages(found: StageNeeds) -> None:
    """A line for each stage, and one for their place on the disk."""
    for name, one in found.by_name:
        click.echo(
            f"  first the stage {printable(name)}: reads {size(one.bytes_read)} in "
            f"{passes(one.passes)}, writes {size(one.bytes_written)}"
        )
    needed, free = size(found.peak_bytes), size(found.free_bytes)
    click.echo(f"  stages   {needed} needed below {found.folder} while they are read, {free} free")
