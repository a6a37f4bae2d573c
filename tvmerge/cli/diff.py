"""`tvmerge diff A B`: how far apart two checkpoints are, in all and layer by layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from tvmerge.algebra.compare import Difference, TensorDifference
from tvmerge.algebra.compare import diff as compare
from tvmerge.checkpoints.hub import resolve
from tvmerge.cli.options import RunFlags, run_options
from tvmerge.cli.printing import in_order, or_dash, print_json, print_some, print_table
from tvmerge.cli.progress import shown

_HEAD = ("", "elements", "changed", "|A|", "|B|", "|B-A|", "relative", "cosine")


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--tensors", "with_tensors", is_flag=True, help="A row for every tensor.")
@run_options
def diff(a: str, b: str, with_tensors: bool, flags: RunFlags) -> None:
    """Measure the move from checkpoint A to checkpoint B; or between two task vectors.

    Shows norms, the change relative to A, the cosine between the weights and the share of
    elements that differ, in all and for every layer. The exit code is 0 whenever the two could
    be compared, same or not; `same` in the JSON says which.
    """
    with shown("diff", quiet=flags.quiet) as progress:
        found = compare(resolve(a), resolve(b), options=flags.run_options(progress))
    if flags.as_json:
        print_json(_plain(found))
        return
    click.echo(f"A: {a}\nB: {b}")
    parts = sorted(
        found.tensors if with_tensors else found.layers, key=lambda part: in_order(part.name)
    )
    print_table(_HEAD, [_row(found.total), *map(_row, parts)])
    print_some("only in A", found.only_in_a)
    print_some("only in B", found.only_in_b)
    print_some("not comparable", found.not_comparable)
    print_some("integer tensors that differ", found.differing_bytes)
    if found.same:
        click.echo("The two hold the same tensors with the same values.")


def _row(part: TensorDifference) -> tuple[str, ...]:
    return (
        part.name,
        f"{part.elements:,}",
        f"{part.changed_share:.2%}",
        f"{part.norm_a:.5g}",
        f"{part.norm_b:.5g}",
        f"{part.norm_difference:.5g}",
        or_dash(part.relative_change, ".3g"),
        or_dash(part.cosine, ".6f"),
    )


def _plain(found: Difference) -> dict[str, Any]:
    def part(one: TensorDifference) -> dict[str, Any]:
        shares = {"changed_share": one.changed_share, "relative_change": one.relative_change}
        return asdict(one) | shares

    return asdict(found) | {
        "same": found.same,
        "total": part(found.total),
        "layers": [part(layer) for layer in found.layers],
        "tensors": [part(tensor) for tensor in found.tensors],
    }
