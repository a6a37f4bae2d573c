"""`tvmerge apply BASE OUT --add V=SCALE --subtract W`: task arithmetic without a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tvmerge.algebra.operands import Checkpoint, TaskVector
from tvmerge.checkpoints.hub import resolve
from tvmerge.checkpoints.stored import open_stored
from tvmerge.cli.options import RunFlags, dtype_option, write_options
from tvmerge.cli.saving import save
from tvmerge.errors import NothingChangedError
from tvmerge.inputs.adapter import adapter_folder


@dataclass(frozen=True, slots=True)
class Term:
    """A stored vector or a tuned checkpoint, and how much of it."""

    source: str
    scale: float


def _term(text: str) -> Term:
    source, equals, number = text.rpartition("=")
    if not equals or Path(text).exists():
        return Term(text, 1.0)
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if not source or not math.isfinite(scale):
        raise click.BadParameter(
            f"{text!r}: expected PATH or PATH=SCALE with a finite number, found the scale "
            f"{number!r} (and no file or folder has the whole name)."
        )
    return Term(source, scale)


def _terms(
    _ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[Term, ...]:
    return tuple(map(_term, values))


def term_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --add and --subtract, handed over as `added` and `subtracted`."""
    named: dict[str, Any] = {"callback": _terms, "multiple": True, "metavar": "V[=SCALE]"}
    add = click.option("--add", "added", help="Add SCALE * V.", **named)
    subtract = click.option("--subtract", "subtracted", help="Subtract SCALE * V.", **named)
    return add(subtract(command))


def edited(
    base: str, added: Iterable[Term], subtracted: Iterable[Term], *, threads: int | None
) -> Checkpoint:
    """BASE plus and minus the terms, which `threads` expand where they are not stored as they are.

    Raises NothingChangedError where they cancel out.
    """
    start = Checkpoint(resolve(base))
    terms = [(term.source, term.scale) for term in added]
    terms += [(term.source, -term.scale) for term in subtracted]
    model = start
    for source, scale in terms:
        model = model + scale * _vector(source, start, threads)
    if model.coefficients == start.coefficients and any(scale for _, scale in terms):
        raise NothingChangedError(
            f"{base}: the terms cancel out, or are the base itself: nothing would change. "
            "Check the paths and scales"
        )
    return model


@click.command()
@click.argument("base")
@click.argument("out")
@term_options
@dtype_option("as in BASE, tensor by tensor")
@write_options
def apply(
    base: str,
    out: str,
    added: tuple[Term, ...],
    subtracted: tuple[Term, ...],
    dtype: str | None,
    flags: RunFlags,
) -> None:
    """Write BASE plus and minus task vectors to the new folder OUT.

    V is a stored task vector, a LoRA adapter of peft, or a checkpoint tuned from BASE, which stands
    for V - BASE. SCALE is 1 unless given. Both options may be repeated; all terms are summed in
    one pass.
    """
    if not added and not subtracted:
        raise click.UsageError("Nothing to do: give at least one --add or --subtract.")
    model = edited(base, added, subtracted, threads=flags.threads)
    save(model, out, dtype=dtype, label="apply", flags=flags)


def _vector(source: str, base: Checkpoint, threads: int | None) -> TaskVector:
    path = resolve(source)
    if adapter_folder(path) is not None or open_stored(path).is_task_vector:
        return TaskVector(path, base=base, threads=threads)
    tau: TaskVector = Checkpoint(path) - base
    return tau
