"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import click

from tvmerge.dtype import TORCH_NAMES, parse_dtype
from tvmerge.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFlags:
    """How a command runs and talks; none of it changes a result."""

    memory_mib: int
    threads: int | None
    quiet: bool
    as_json: bool
    # Of the commands that write (write_options).
    sync: bool | None = None
    restart: bool = False
    ray_address: str | None = None


def _dtype_code(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else parse_dtype(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def dtype_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--dtype`; `default` says what happens without it."""
    names = ", ".join(TORCH_NAMES.values())
    return click.option(
        "--dtype", callback=_dtype_code, help=f"Dtype to write ({names}). Default: {default}."
    )


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --memory, --threads, --quiet and --json, handed over as `flags`."""

    @click.option(
        "--memory",
        "memory_mib",
        type=click.IntRange(min=1),
        default=512,
        show_default=True,
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
    @click.option("--quiet", "-q", is_flag=True, help="No progress, no summary.")
    @json_option
    @wraps(command)
    def with_flags(
        memory_mib: int, threads: int | None, quiet: bool, as_json: bool, **rest: Any
    ) -> None:
        flags = RunFlags(memory_mib=memory_mib, threads=threads, quiet=quiet, as_json=as_json)
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
        "need the same files at the same paths; --memory and --threads count on each.",
    )
    @run_options
    @wraps(command)
    def with_flags(
        sync: bool | None, restart: bool, ray_address: str | None, flags: RunFlags, **rest: Any
    ) -> None:
        flags = replace(flags, sync=sync, restart=restart, ray_address=ray_address)
        command(flags=flags, **rest)

    return with_flags
