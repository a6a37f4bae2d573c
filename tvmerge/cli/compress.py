"""`tvmerge compress VECTOR OUT --to FORM`: a task vector in less space, and what of it is left."""

from __future__ import annotations

from dataclasses import asdict

import click

from tvmerge.algebra.operands import TaskVector
from tvmerge.checkpoints.hub import resolve
from tvmerge.cli.options import RunFlags, write_options
from tvmerge.cli.printing import or_dash, print_json, print_table, size
from tvmerge.cli.progress import shown
from tvmerge.compression.compressing import Compressed, Compression
from tvmerge.compression.compressing import compress as store
from tvmerge.errors import ConfigError
from tvmerge.inputs.forms import parse_form

_HEAD = ("", "elements", "kept", "before", "after", "relative error", "cosine")


def _form(_ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return str(parse_form(value))
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("vector")
@click.argument("out")
@click.option(
    "--to",
    "form",
    required=True,
    callback=_form,
    metavar="FORM",
    help="bf16, f16, f8_e4m3 (or another dtype); int8, with a scale for each row; topk=SHARE, the "
    "largest elements of each tensor alone.",
)
@click.option("--tensors", "with_tensors", is_flag=True, help="A row for every tensor.")
@write_options
def compress(vector: str, out: str, form: str, with_tensors: bool, flags: RunFlags) -> None:
    """Store the task vector VECTOR in less space in the new folder OUT.

    OUT can stand wherever VECTOR can. Says in all, and for every tensor with --tensors or --json,
    how many elements are kept (are not 0), the bytes before and after, the norm of what is lost
    over that of the vector, and the cosine between the two.
    """
    tau = TaskVector(resolve(vector), threads=flags.threads)
    with shown("compress", quiet=flags.quiet) as progress:
        found = store(tau, out, to=form, options=flags.run_options(progress))
    if flags.as_json:
        print_json(_plain(found))
    elif not flags.quiet:
        click.echo(f"Wrote {found.out}: {form}")
        rows = [found.total, *(found.tensors if with_tensors else ())]
        print_table(_HEAD, map(_row, rows))


def _row(one: Compressed) -> tuple[str, ...]:
    return (
        one.name,
        f"{one.elements:,}",
        f"{one.kept_share:.2%}",
        size(one.bytes_before),
        size(one.bytes_after),
        or_dash(one.relative_error, ".3g"),
        or_dash(one.cosine, ".6f"),
    )


def _plain(found: Compression) -> dict[str, object]:
    def plain(one: Compressed) -> dict[str, object]:
        return asdict(one) | {"kept_share": one.kept_share}

    return {
        "out": str(found.out),
        "form": found.form,
        "total": plain(found.total),
        "tensors": [plain(one) for one in found.tensors],
    }
