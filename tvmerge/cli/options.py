"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import click

from tvmerge.engine.devices import CPU, parse_device
from tvmerge.engine.run_options import Progress, RunOptions
from tvmerge.errors import ConfigError
from tvmerge.files.dtype import TORCH_NAMES, parse_dtype

_MEMORY_MIB = 512
# A card's driver takes some hundred MiB of the process, its pinned buffers more.
_MEMORY_WITH_CARDS_MIB = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFlags:
    """How a command runs and talks; none of it changes a result."""

    memory_mib: int
    threads: int | None
    quiet: bool
    as_json: bool
    device: str = CPU
    device_memory_mib: int | None = None
    # Of the commands that write (write_options).
    sync: bool | None = None
    restart: bool = False
    ray_address: str | None = None

    def run_options(self, progress: Progress | None = None) -> RunOptions:
        """What the engine is told of them."""
        return RunOptions(
            memory_mib=self.memory_mib,
            threads=self.threads,
            device=self.device,
            device_memory_mib=self.device_memory_mib,
            progress=progress,
            sync=self.sync,
            restart=self.restart,
            ray_address=self.ray_address,
        )


def _device(_ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        parse_device(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _dtype_code(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else parse_dtype(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


lenient_option = click.option(
    "--lenient",
    is_flag=True,
    help="Pass over what mergekit passes over in CONFIG: unknown keys, parameters that the method "
    "does not take, gradients of one value, filters that match nothing. Each is told.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def dtype_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--dtype`; `default` says what happens without it."""
    names = ", ".join(TORCH_NAMES.values())
    return click.option(
        "--dtype", callback=_dtype_code, help=f"Dtype to write ({names}). Default: {default}."
    )


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what says how a command runs (device, threads, memory) and talks, as `flags`."""

    @click.option(
        "--memory",
        "memory_mib",
        type=click.IntRange(min=1),
        show_default=f"{_MEMORY_MIB}, or {_MEMORY_WITH_CARDS_MIB} where a card computes",
        envvar="TVMERGE_MEMORY",
        show_envvar=True,
        metavar="MIB",
        help="Memory that the process may take, in MiB.",
    )
    @click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="Default: one for each processor.",
    )
    @click.option(
        "--device",
        default=CPU,
        show_default=True,
        envvar="TVMERGE_DEVICE",
        show_envvar=True,
        callback=_device,
        metavar="DEVICE",
        help="What computes: cpu, or NVIDIA cards: cuda, cuda:1, cuda:0,1, cuda:all. The bytes are "
        "the same. `tvmerge devices` lists the cards. Methods of whole matrices (tsv, ...) are "
        "torch's, which TVMERGE_MATRIX_DEVICE gives cards.",
    )
    @click.option(
        "--memory-device",
        "device_memory_mib",
        type=click.IntRange(min=1),
        metavar="MIB",
        help="Memory that may be taken of each card, in MiB. Default: three quarters of what is "
        "free, at most 8 GiB.",
    )
    @click.option("--quiet", "-q", is_flag=True, help="No progress, no summary.")
    @json_option
    @wraps(command)
    def with_flags(
        memory_mib: int | None,
        threads: int | None,
        device: str,
        device_memory_mib: int | None,
        quiet: bool,
        as_json: bool,
        **rest: Any,
    ) -> None:
        if device_memory_mib is not None and device == CPU:
            raise click.UsageError(
                "--memory-device is for cards, and the processor computes. Add --device cuda."
            )
        usual = _MEMORY_MIB if device == CPU else _MEMORY_WITH_CARDS_MIB
        flags = RunFlags(
            memory_mib=memory_mib or usual,
            threads=threads,
            device=device,
            device_memory_mib=device_memory_mib,
            quiet=quiet,
            as_json=as_json,
        )
        command(flags=flags, **rest)

    return with_flags


def write_options(command: Callable[..., None]) -> Callable[..., None]:
    """As `run_options`, and --sync, --restart and --ray-address, for the commands that write."""

    @click.option(
        "--sync/--no-sync",
        default=None,
        show_default="--sync for outputs of 4 GiB or more",
        help="Return when the result is on the disk, whatever happens to the power then.",
    )
    @click.option(
        "--restart",
        is_flag=True,
        help="Discard what an unfinished merge into OUT has left, and begin anew.",
    )
    @click.option(
        "--ray-address",
        metavar="ADDR",
        help="Share the work among the nodes of the Ray cluster at HOST:PORT, or `auto`. They "
        "need the same files at the same paths; --memory, --threads and --device count on each.",
    )
    @run_options
    @wraps(command)
    def with_flags(
        sync: bool | None, restart: bool, ray_address: str | None, flags: RunFlags, **rest: Any
    ) -> None:
        flags = replace(flags, sync=sync, restart=restart, ray_address=ray_address)
        command(flags=flags, **rest)

    return with_flags
