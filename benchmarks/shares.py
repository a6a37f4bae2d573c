"""How near to its floor each kind of merge is: dtypes, commands, threads, inputs, tensors.

    python -m benchmarks.shares FOLDER --parameters 2e8 --rounds 5

For each case models are made in FOLDER (and removed), then the floor (the same reads and writes by
the same threads, without arithmetic, digests and receipt) and the engine take turns in one process,
files in the page cache. Prints medians and the median of their ratio as a markdown table.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tvmerge import Checkpoint, TaskVector, diff
from tvmerge.engine.jobs import Copy, Range
from tvmerge.engine.run_options import RunOptions
from tvmerge.plans.batches import Batch
from tvmerge.plans.plan import Plan, plan_checkpoint, plan_vector
from tvmerge.timing.floor import floor_seconds, run_floor

DTYPES = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
SCALE = 0.3


@dataclass(frozen=True, slots=True)
class Case:
    """One row: what is planned, and how the engine does it (into the folder that it is given)."""

    plan: Plan
    run: Callable[[Path], object]
    writes: bool = True


def write_models(
    folder: Path, dtype: str, parameters: float, count: int, tensors: int
) -> list[Path]:
    """Write `count` models of equal tensors; every one but the first differs from it a little."""
    generator = np.random.default_rng(0)
    elements = int(parameters) // tensors
    pool = generator.standard_normal(elements + 4096, dtype=np.float32) * 0.1
    move = generator.standard_normal(elements + 4096, dtype=np.float32) * 0.02
    paths = []
    for number in range(count):
        values = pool + number * move
        path = folder / f"m{number}"
        path.mkdir(parents=True)
        state = {
            f"layer.{t}.w": values[t % 4096 : t % 4096 + elements].astype(DTYPES[dtype])
            for t in range(tensors)
        }
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
        paths.append(path)
    return paths


def merging(paths: Sequence[Path], options: RunOptions) -> Case:
    """The base minus all task vectors."""
    base, *tuned = map(Checkpoint, paths)
    model = base
    for one in tuned:
        model = model - SCALE * (one - base)
    plan = plan_checkpoint([model.coefficients], model.donor)
    return Case(plan, lambda out: model.save(out, threads=options.threads))


def vector(paths: Sequence[Path], options: RunOptions) -> Case:
    """tuned - base, stored in float32."""
    tau = Checkpoint(paths[1]) - Checkpoint(paths[0])
    plan = plan_vector([tau.coefficients], tau.donor)
    return Case(plan, lambda out: tau.save(out, threads=options.threads))


def stored_vectors(paths: Sequence[Path], options: RunOptions) -> Case:
    """The base minus stored float32 vectors."""
    base = Checkpoint(paths[0])
    model = base
    for number, path in enumerate(paths[1:]):
        place = paths[0].parent / f"v{number}"
        (Checkpoint(path) - base).save(place)
        model = model - SCALE * TaskVector(place)
    plan = plan_checkpoint([model.coefficients], model.donor)
    return Case(plan, lambda out: model.save(out, threads=options.threads))


def differing(paths: Sequence[Path], options: RunOptions) -> Case:
    """`diff`: two models read, nothing written."""
    base, tuned = (Checkpoint(path).donor for path in paths[:2])
    read = [
        Copy(entry.name, Range(number, entry.begin, entry.dtype, False), entry.size_bytes, (), ())
        for number, stored in enumerate((base, tuned))
        for _, head in stored.shards
        for entry in head.entries
    ]
    files = tuple(file for stored in (base, tuned) for file, _ in stored.shards)
    plan = Plan(1, (), files, tuple(read))
    return Case(plan, lambda _out: diff(base, tuned, options=options), writes=False)


CASES: dict[str, tuple[Callable[[Sequence[Path], RunOptions], Case], str, int, int, int | None]] = {
    # name: (what, dtype, models, tensors, threads)
    "base + 3, bfloat16": (merging, "BF16", 4, 40, None),
    "one thread": (merging, "BF16", 4, 40, 1),
    "float16": (merging, "F16", 4, 40, None),
    "float32": (merging, "F32", 4, 40, None),
    "FP8 E4M3": (merging, "F8_E4M3", 4, 40, None),
    "FP8 E5M2": (merging, "F8_E5M2", 4, 40, None),
    "10 inputs, bfloat16": (merging, "BF16", 10, 40, None),
    "3,000 tensors, bfloat16": (merging, "BF16", 4, 3000, None),
    "vector: 2 bfloat16 in, float32 out": (vector, "BF16", 2, 40, None),
    "apply 3 stored float32 vectors": (stored_vectors, "BF16", 4, 40, None),
    "diff, bfloat16": (differing, "BF16", 2, 40, None),
}


def time_floor(case: Case, out: Path, options: RunOptions) -> float:
    """Seconds of the case's reads and writes alone."""
    if case.writes:
        out.mkdir()
        places = [out / shard.name for shard in case.plan.shards]
        return floor_seconds(case.plan, places, options)
    files = {number: str(file) for number, file in enumerate(case.plan.inputs)}
    return run_floor(Batch(0, files, {}, case.plan.jobs), options.workspace())


def time_engine(case: Case, out: Path) -> float:
    """Seconds of the whole call, planning and receipt included."""
    started = time.monotonic()
    case.run(out)
    return time.monotonic() - started


def _one_round(case: Case, out: Path, options: RunOptions) -> tuple[float, float]:
    floor = time_floor(case, out, options)
    shutil.rmtree(out, ignore_errors=True)
    engine = time_engine(case, out)
    shutil.rmtree(out, ignore_errors=True)
    return floor, engine


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--parameters", default=2e8, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", default="", help="Cases whose name contains this.")
def main(folder: Path, parameters: float, rounds: int, only: str) -> None:
    """Print the table."""
    click.echo("| case | floor s | tvmerge s | tvmerge / floor (min to max) |\n|---|---|---|---|")
    for name, (what, dtype, models, tensors, threads) in CASES.items():
        if only not in name:
            continue
        place = folder / "shares"
        shutil.rmtree(place, ignore_errors=True)
        options = RunOptions(threads=threads)
        case = what(write_models(place, dtype, parameters, models, tensors), options)
        pairs = [_one_round(case, place / "out", options) for _ in range(rounds + 1)]
        floors, engines = zip(*pairs[1:], strict=True)  # the first round warms up
        ratios = sorted(e / f for e, f in zip(engines, floors, strict=True))
        click.echo(
            f"| {name} | {median(floors):.3f} | {median(engines):.3f} | {median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
