"""`tvmerge plan CONFIG|BASE [OUT]`: what a merge will take, without doing it."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from tvmerge.algebra.assembled import Assembled
from tvmerge.algebra.operands import Checkpoint
from tvmerge.checkpoints.matching import check_match
from tvmerge.cli.apply import Term, edited, term_options
from tvmerge.cli.options import RunFlags, dtype_option, lenient_option, run_options
from tvmerge.cli.plan_stages import StageNeeds, print_stages, stage_needs
from tvmerge.cli.plan_tensors import print_tensors, tensor_dict
from tvmerge.cli.printing import coefficient, passes, print_json, size
from tvmerge.engine.devices import CPU
from tvmerge.engine.matrices import check_matrices
from tvmerge.engine.matrix_devices import asked_device
from tvmerge.engine.run_options import RunOptions, Workspace
from tvmerge.errors import OutputError
from tvmerge.files.dtype import TORCH_NAMES
from tvmerge.merging.output import check_destination
from tvmerge.merging.stages import with_stand_ins
from tvmerge.merging.unfinished import check_space, unfinished_bytes
from tvmerge.plans.assembly import Assembly
from tvmerge.plans.plan import Plan, plan_checkpoint
from tvmerge.plans.sums import by_input, inputs_of, leaves
from tvmerge.timing.estimate import (
    Needs,
    estimate_range,
    estimate_seconds,
    needs,
    room_in_memory_bytes,
)
from tvmerge.timing.probe import Probed, check_memory, probe

_MIB = 1024 * 1024


@click.command()
@click.argument("config")
@click.argument("out", required=False)
@term_options
@dtype_option("as in BASE, tensor by tensor")
@click.option(
    "--tensors", is_flag=True, help="List every tensor: its method, sources and parameters."
)
@click.option("--no-probe", is_flag=True, help="Measure nothing: no time is estimated.")
@lenient_option
@run_options
def plan(
    config: str,
    out: str | None,
    added: tuple[Term, ...],
    subtracted: tuple[Term, ...],
    dtype: str | None,
    tensors: bool,
    no_probe: bool,
    lenient: bool,
    flags: RunFlags,
) -> None:
    """Say what the merge of the recipe CONFIG into OUT would take, or why it cannot run.

    With --add or --subtract, CONFIG is a BASE as in `tvmerge apply`. Ends with the exit code that
    the merge would end with, as far as headers tell: whether anything changes shows only when it
    runs. One to three seconds are spent on doing a part of the merge, so that
    the time can be told; what that writes beside OUT (or here) is removed again.
    """
    if not (added or subtracted) and Path(config).is_dir():
        raise click.UsageError(
            f"{config} is a folder: expected a recipe, or --add or --subtract with it as the base."
        )
    started = time.monotonic()
    model, dtype, assembly = _merge(config, added, subtracted, dtype, lenient, flags.threads)
    inputs = tuple(leaves(dict.fromkeys((model.donor, *inputs_of(model.weighting)))))
    target = Path(out) if out is not None else None
    if target is not None:
        check_destination(target, inputs)
    if assembly is None:
        check_match(inputs, model.donor, listed=None)
    planned = plan_checkpoint([model.weighting], model.donor, dtype=dtype)
    options = flags.run_options()
    workspace = options.workspace()
    check_memory(with_stand_ins(planned), workspace)
    check_matrices(planned.jobs, options)
    stages = stage_needs(planned, workspace, options)
    place = _place(target)
    free = shutil.disk_usage(place).free
    begun = unfinished_bytes(target) if target is not None else None
    if target is not None:
        check_space(target, planned.output_bytes - (begun or 0), free)
    spent = time.monotonic() - started
    # What a stage has not written yet cannot be read to see how long that takes.
    probed = None if no_probe or stages else _probe(planned, place, options)
    found = _Found(
        model, planned, needs(planned), workspace, flags, free, begun, probed, spent, stages
    )
    _tell(config, out, found, assembly if tensors else None, flags)


def _tell(
    config: str, out: str | None, found: _Found, listed: Assembly | None, flags: RunFlags
) -> None:
    if flags.as_json:
        said = {"config": config, "out": out} | found.to_dict()
        tensors = {} if listed is None else {"tensors": list(map(tensor_dict, listed.tensors))}
        print_json(said | tensors)
    elif not flags.quiet:
        _print(config, out, found)
        if listed is not None:
            print_tensors(listed)


def _merge(
    config: str,
    added: tuple[Term, ...],
    subtracted: tuple[Term, ...],
    dtype: str | None,
    lenient: bool,
    threads: int | None,
) -> tuple[Checkpoint | Assembled, str | None, Assembly | None]:
    if added or subtracted:
        if lenient:
            raise click.UsageError("--lenient is for recipes: leave it out with --add, --subtract.")
        return edited(config, added, subtracted, threads=threads), dtype, None
    if dtype is not None:
        raise click.UsageError("--dtype goes with --add and --subtract; a recipe names its own.")
    # Not at the top: the form without a recipe starts without a YAML parser.
    from tvmerge.cli.recipes import assembled
    from tvmerge.recipe import fold

    _, assembly = assembled(Path(config), lenient=lenient, threads=threads, listed=None)
    return fold(assembly), assembly.dtype, assembly


def _place(target: Path | None) -> Path:
    """The folder that exists already below which the output would be written."""
    if target is None:
        return Path.cwd()
    place = next(parent for parent in target.resolve().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"{target}: cannot write there ({place}). Name another folder")
    return place


def _probe(planned: Plan, place: Path, options: RunOptions) -> Probed:
    write_back = _write_back_bytes(planned, options) > 0
    return probe(planned, place, options, write_back=write_back)


def _write_back_bytes(planned: Plan, options: RunOptions) -> int:
    """What has to reach the disk before the merge can end: what memory has no room for."""
    held = sum(job.bytes_held for job in planned.jobs)
    if options.flushes(planned.output_bytes) or options.workspace(held).drop_behind:
        return planned.output_bytes
    return max(0, planned.output_bytes - room_in_memory_bytes())


@dataclass(frozen=True, slots=True)
class _Found:
    model: Checkpoint | Assembled
    plan: Plan
    needs: Needs
    workspace: Workspace
    flags: RunFlags
    free_bytes: int
    unfinished_bytes: int | None  # of a run that was cut off
    probed: Probed | None
    planning_seconds: float
    stages: StageNeeds | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        terms = leaves(by_input(self.model.weighting)).items()
        return {
            "coefficients": {os.fspath(stored.source): c for stored, c in terms},
            **asdict(self.needs),
            "disk_needed_bytes": self.plan.output_bytes,
            "disk_free_bytes": self.free_bytes,
            "unfinished_bytes": self.unfinished_bytes,
            "device": self.flags.device,
            "cards": [card.name for card in self.workspace.cards],
            "threads": self.workspace.threads,
            "buffer_bytes": self.workspace.buffer_bytes,
            "memory_bytes": self._memory_bytes(),
            "memory_limit_bytes": self.flags.memory_mib * _MIB,
            "estimate": self._estimate(),
            **(self.stages.to_dict() if self.stages else {}),
        }

    def _memory_bytes(self) -> int:
        """That of a merge: as many matrices at once as threads have, within the limit."""
        held = _peak_bytes() + (0 if self.probed else self.workspace.buffer_bytes)
        before = [one for _, one in self.stages.by_name] if self.stages else []
        matrix_bytes = max(one.matrix_bytes for one in (*before, self.needs))
        matrices = self.workspace.threads * matrix_bytes
        return max(held, min(held + matrices, self.flags.memory_mib * _MIB))

    def _estimate(self) -> dict[str, Any] | None:
        if self.probed is None:
            return None
        load, rates = self.probed.load, self.probed.rates
        write_back = _write_back_bytes(self.plan, self.flags.run_options())
        fast, slow = estimate_range(load, rates, write_back)
        apart = self.planning_seconds + self.probed.matrix_seconds
        return {
            "seconds": apart + estimate_seconds(load, rates, write_back),
            "seconds_range": [apart + fast, apart + slow],
            "matrix_seconds": self.probed.matrix_seconds,
            "uncached_bytes": load.uncached_bytes,
            **asdict(rates),
        }


def _peak_bytes() -> int:
    """The most that this process has held; a probe makes that the merge's own."""
    with Path("/proc/self/status").open() as file:
        values = dict(line.split(":", 1) for line in file)
    return int(values["VmHWM"].split()[0]) * 1024


def _print(config: str, out: str | None, planned: _Found) -> None:
    found = planned.to_dict()
    click.echo(f"Plan of {config}" + (f" into {out}" if out else ""))
    if planned.stages:
        print_stages(planned.stages)
    for source, number in found["coefficients"].items():
        click.echo(f"  {coefficient(number)} * {source}")
    estimate = found["estimate"]
    fetched = f", {size(estimate['uncached_bytes'])} of it from the disk" if estimate else ""
    click.echo(f"  reads    {size(found['bytes_read'])} in {passes(found['passes'])}{fetched}")
    click.echo(f"  writes   {size(found['bytes_written'])} in {len(found['shards'])} files")
    copied = "".join(f", {count} copied ({why})" for why, count in found["copied"].items())
    click.echo(f"  tensors  {found['combined']} combined{copied}")
    if found["matrices"]:
        cost = f"{found['matrix_operations']:.2g} operations, {size(found['matrix_bytes'])} each"
        place = "" if asked_device() == CPU else f" on {asked_device()}"
        click.echo(f"  matrices {found['matrices']} of these by torch{place}: {cost} at most")
    names = (f"{TORCH_NAMES.get(code, code)} ({n})" for code, n in found["dtypes"].items())
    click.echo(f"  dtypes   {', '.join(names)}")
    free = size(found["disk_free_bytes"])
    click.echo(f"  disk     {size(found['disk_needed_bytes'])} needed, {free} free")
    if found["unfinished_bytes"] is not None:
        begun = f"{size(found['unfinished_bytes'])} of an unfinished merge lie there"
        click.echo(f"           {begun}: the same one goes on, another one needs --restart")
    cards = f" ({', '.join(found['cards'])})" if found["cards"] else ""
    click.echo(f"  device   {found['device']}{cards}")
    buffers = f"{found['threads']} threads with {found['buffer_bytes'] / _MIB:.0f} MiB of buffers"
    limit = f"limit {found['memory_limit_bytes'] / _MIB:.0f} MiB"
    click.echo(f"  memory   {found['memory_bytes'] / _MIB:.0f} MiB ({buffers}), {limit}")
    if estimate:
        click.echo(f"  time     about {_seconds(estimate)} s ({_rates(estimate)})")
    elif planned.stages:
        click.echo("  time     not estimated: what stages write would have to be read")


def _seconds(estimate: dict[str, Any]) -> str:
    fast, slow = (f"{seconds:.2g}" for seconds in estimate["seconds_range"])
    return fast if fast == slow else f"{fast} to {slow}"


def _rates(estimate: dict[str, Any]) -> str:
    apart = estimate["matrix_seconds"]
    text = f"matrices {apart:.2g} s; " if apart else ""
    text += f"{estimate['merge_rate'] / 1e9:.2g} GB/s"
    text += f", {estimate['arithmetic_share']:.0%} of it arithmetic"
    if estimate["fetch_rate"]:
        text += f"; the disk adds a second for every {size(estimate['fetch_rate'])}"
    return text
