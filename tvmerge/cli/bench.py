"""`tvmerge bench [BASE TUNED...]`: what a merge takes on this machine, beside cat + cp."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tvmerge.algebra.operands import Checkpoint
from tvmerge.checkpoints.hub import resolve
from tvmerge.cli.options import RunFlags, run_options
from tvmerge.cli.printing import print_json, print_table, size
from tvmerge.engine.devices import gpudirect_problem, parse_device
from tvmerge.engine.gpudirect import library
from tvmerge.errors import OutputError, storage_errors
from tvmerge.merging.unfinished import check_space
from tvmerge.plans.plan import plan_checkpoint
from tvmerge.receipts.floor_memory import remember
from tvmerge.timing.contenders import (
    COLD,
    DIRECT,
    FLOOR,
    MERGEKIT,
    TVMERGE,
    Contest,
    Results,
    compete,
)
from tvmerge.timing.random_model import write_random_model

_TUNED = 3
_SCALE = 0.3
_BYTES_PER_PARAMETER = 2
_WORTH_IT = 0.95  # of the time: less is within the noise


@click.command()
@click.argument("models", nargs=-1, metavar="[BASE TUNED...]")
@click.option(
    "--parameters",
    type=click.FloatRange(min=1e5),
    default=2e8,
    show_default=True,
    metavar="N",
    help="Size of the models that are made where none are named; each takes 2 N bytes.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    default=Path(),
    help="Folder on the disk to measure; all that is written there is removed. Default: this one.",
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each."
)
@run_options
def bench(
    models: tuple[str, ...], parameters: float, folder: Path, rounds: int, flags: RunFlags
) -> None:
    """Time a merge on this machine: BASE minus 0.3 of what each TUNED adds.

    Measured in turn: reading the inputs with cat and copying the base with cp; the floor, which is
    the merge's own reading and writing without arithmetic; `tvmerge apply`; and mergekit-yaml,
    once, where it is on the PATH. Without models, a base and three tuned ones are made of random
    numbers. The inputs are read once before, so they are cached if they fit. Where a card computes,
    also with inputs that are not cached, read by the processor and by the card itself (GPUDirect
    Storage): whether TVMERGE_GPUDIRECT=1 is worth it on this machine.
    """
    if len(models) == 1:
        raise click.UsageError("Name a BASE and at least one TUNED, or no models at all.")
    direct_problem = None  # what is wrong with cards shows at once
    if parse_device(flags.device):
        direct_problem = gpudirect_problem(flags.device, flags.device_memory_mib)

    def told(what: str) -> None:
        if not flags.quiet and not flags.as_json:
            click.echo(what, err=True)

    with (
        storage_errors(folder),
        tempfile.TemporaryDirectory(prefix="tvmerge-bench-", dir=folder.resolve()) as scratch,
    ):
        place = Path(scratch)
        named = [resolve(model) for model in models] or _made(place, parameters, told)
        contest = _contest(
            named, place / "out", flags, cufile=library() if direct_problem == "" else ""
        )
        check_space(place, contest.plan.output_bytes, shutil.disk_usage(place).free)
        results = compete(contest, rounds, told)
    found = _found(contest, results) | {"gpudirect": _direct(results, direct_problem)}
    rate = (found["bytes_read"] + found["bytes_written"]) / results.timings[FLOOR].median
    remember(folder, contest.options.thread_count(), rate)
    if flags.as_json:
        print_json(found)
    elif not flags.quiet:
        _print(found)


def _made(place: Path, parameters: float, told: Callable[[str], None]) -> list[Path]:
    """Write a base and its fine-tunes, where the disk has room for them and an output."""
    needed = int((_TUNED + 2) * _BYTES_PER_PARAMETER * parameters)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OutputError(
            f"{place.parent}: the models and the output take {needed:,} bytes, the disk has "
            f"{free:,} free. Give fewer --parameters, or another --dir"
        )
    folders = [place / (f"tuned{number}" if number else "base") for number in range(_TUNED + 1)]
    for number, folder in enumerate(folders):
        told(f"writing a random model ({number + 1} of {len(folders)})")
        write_random_model(folder, parameters, tuned=number)
    return folders


def _contest(named: list[Path], out: Path, flags: RunFlags, *, cufile: str) -> Contest:
    base, *tuned = map(Checkpoint, named)
    merged = base
    for one in tuned:
        merged = merged - _SCALE * (one - base)
    return Contest(
        base=base.donor,
        tuned=tuple(one.donor for one in tuned),
        scale=_SCALE,
        plan=plan_checkpoint([merged.coefficients], merged.donor),
        out=out,
        options=flags.run_options(),
        cufile=cufile,
    )


def _direct(results: Results, problem: str | None) -> dict[str, Any] | None:
    """What came of reading by the card; None where no card computes."""
    if problem is None:
        return None
    if not problem and results.direct_ratio is None:
        problem = "GPUDirect Storage: the library took none of these files"
    return {"problem": problem or None, "ratio": results.direct_ratio}


def _found(contest: Contest, results: Results) -> dict[str, Any]:
    """Plain values, for JSON."""
    read = sum(job.bytes_read for job in contest.plan.jobs)
    written = contest.plan.output_bytes
    moved = read + written
    contenders = [
        {
            "name": name,
            "seconds": timings.seconds,
            "median_seconds": timings.median,
            "gb_per_second": moved / 1e9 / timings.median,
            "tvmerge_ratio": results.ratio(name),
            "peak_memory_mib": timings.peak_mib,
        }
        for name, timings in results.timings.items()
    ]
    return {
        "machine": {
            "processors": len(os.sched_getaffinity(0)),
            "architecture": platform.machine(),
            "kernel": platform.release(),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        },
        "inputs": [os.fspath(stored.source) for stored in (contest.base, *contest.tuned)],
        "bytes_read": read,
        "bytes_written": written,
        "threads": contest.options.thread_count(),
        "device": contest.options.device,
        "contenders": contenders,
        "engine_seconds": results.engine.seconds,
        "engine_median_seconds": results.engine.median,
        "share_of_floor": results.share_of_floor,
    }


def _print(found: dict[str, Any]) -> None:
    machine = found["machine"]
    click.echo(
        f"{machine['processors']} processors ({machine['architecture']}), "
        f"{size(machine['memory_bytes'])} of memory, Linux {machine['kernel']}, "
        f"{found['threads']} threads, device {found['device']}"
    )
    moved = f"{size(found['bytes_read'])} read, {size(found['bytes_written'])} written"
    rounds = len(found["contenders"][0]["seconds"])
    click.echo(f"base and {len(found['inputs']) - 1} tuned: {moved}; {rounds} rounds in turn\n")
    rows = [
        (
            one["name"] + (" (once)" if one["name"] == MERGEKIT else ""),
            f"{one['median_seconds']:.2f}",
            f"{min(one['seconds']):.2f}",
            f"{max(one['seconds']):.2f}",
            f"{one['gb_per_second']:.2f}",
            f"{one['tvmerge_ratio']:.2f}" if one["tvmerge_ratio"] else "",
            f"{one['peak_memory_mib']:.0f}" if one["peak_memory_mib"] else "",
        )
        for one in found["contenders"]
    ]
    head = ("", "median s", "min s", "max s", "GB/s", f"{TVMERGE} / it", "peak MiB")
    print_table(head, rows)
    click.echo(
        f"\n{TVMERGE} without the start of its process: {found['engine_median_seconds']:.2f} s, "
        f"{found['share_of_floor']:.0%} of the speed of the {FLOOR}"
    )
    if found["gpudirect"]:
        click.echo(_verdict(**found["gpudirect"]))


def _verdict(problem: str | None, ratio: float | None) -> str:
    if ratio is None:
        return str(problem)
    found = f"GPUDirect Storage: {DIRECT} takes {ratio:.2f} of the time of {COLD}"
    if ratio < _WORTH_IT:
        return f"{found}. Set TVMERGE_GPUDIRECT=1 on this machine"
    return f"{found}. Leave it off"
