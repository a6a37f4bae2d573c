"""What a receipt costs: merges with it and without it, in turn.

    python -m benchmarks.receipts models/base models/tuned1 models/tuned2 models/tuned3 --rounds 7

Base minus 0.3 times each task vector, in one process: `save`, which writes a receipt; the engine's
part of it; and the engine with the inputs' digests and the comparison with the base left out (the
digest of what is written, a fifth of all digests here, stays). Prints medians and the median of
each round's ratios as a markdown table.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import monotonic

import click

from tvmerge import Checkpoint, _core
from tvmerge.engine.jobs import Combine, Job
from tvmerge.engine.run_options import RunOptions
from tvmerge.plans.batches import Batch, cut, run_batch
from tvmerge.plans.plan import plan_checkpoint

SCALE = 0.3
NO_REFERENCE = -1  # csrc/engine/job.hpp


def without_receipt(job: Job) -> Job:
    """The job with nothing that only a receipt wants."""
    if not isinstance(job, Combine):
        return job
    return job._replace(
        sources=tuple(source._replace(digested=False) for source in job.sources),
        results=tuple(result._replace(reference=NO_REFERENCE) for result in job.results),
    )


def ways(models: tuple[Path, ...], out: Path) -> dict[str, Callable[[], float]]:
    """Name and call of all that takes turns; each returns its seconds and leaves `out` gone."""
    base, *tuned = map(Checkpoint, models)
    model = base
    for one in tuned:
        model = model - SCALE * (one - base)
    plan = plan_checkpoint([model.coefficients], model.donor)
    paths = [out / shard.name for shard in plan.shards]
    batches = cut(plan, paths)
    bare = [replace(one, jobs=tuple(without_receipt(job) for job in one.jobs)) for one in batches]
    workspace = RunOptions().workspace()

    def save() -> float:
        started = monotonic()
        model.save(out)
        seconds = monotonic() - started
        shutil.rmtree(out)
        return seconds

    def engine(what: list[Batch]) -> float:
        out.mkdir(parents=True)
        started = monotonic()
        for path, shard in zip(paths, plan.shards, strict=True):
            _core.allocate(os.fspath(path), shard.size_bytes)
        for batch in what:
            run_batch(batch, workspace)
        seconds = monotonic() - started
        shutil.rmtree(out)
        return seconds

    return {
        "engine without a receipt": lambda: engine(bare),
        "engine with it": lambda: engine(list(batches)),
        "`save`": save,
    }


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=7, show_default=True)
def main(models: tuple[Path, ...], rounds: int) -> None:
    """Print the table."""
    out = models[0].parent / "receipts-out"
    timed = ways(models, out)
    found = [{name: run() for name, run in timed.items()} for _ in range(rounds + 1)][1:]
    first = next(iter(timed))
    click.echo("| | median s | of the first (min to max) |\n|---|---|---|")
    for name in timed:
        ratios = sorted(one[name] / one[first] for one in found)
        click.echo(
            f"| {name} | {median(one[name] for one in found):.3f} | {median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )


if __name__ == "__main__":
    main()
