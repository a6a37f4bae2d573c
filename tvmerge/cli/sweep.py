"""`tvmerge sweep CONFIG OUT --scale 0.1,0.2`: several scales of a recipe's edit at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import click

from tvmerge.algebra.sweep import sweep as write_scales
from tvmerge.cli.options import RunFlags, lenient_option, write_options
from tvmerge.cli.printing import print_json, print_table, size, warn_of_differing
from tvmerge.cli.progress import shown
from tvmerge.cli.recipes import assembled
from tvmerge.merging.report import MergeReport
from tvmerge.receipts.receipt import RecipeText
from tvmerge.recipe import fold


def _scales(
    _ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[float, ...]:
    return tuple(_scale(text) for value in values for text in value.split(","))


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise click.BadParameter(f"{text!r}: expected finite numbers, separated by commas")
    return scale


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("out")
@click.option(
    "--scale",
    "scales",
    callback=_scales,
    multiple=True,
    required=True,
    metavar="S[,S...]",
    help="Scales of the edit; may be repeated.",
)
@lenient_option
@write_options
def sweep(
    config: Path, out: str, scales: tuple[float, ...], lenient: bool, flags: RunFlags
) -> None:
    """Write the recipe CONFIG at several scales, reading every input once.

    The model in OUT/scale-S is base + S * (merged - base), where merged is what `tvmerge merge`
    makes of CONFIG: for task_arithmetic, S multiplies lambda.
    """
    recipe, assembly = assembled(config, lenient=lenient, threads=flags.threads)
    said = f"# tvmerge sweep at the scales {', '.join(map(str, scales))} of\n{recipe.text}"
    with shown("sweep", quiet=flags.quiet) as progress:
        reports = write_scales(
            fold(assembly),
            scales,
            out,
            dtype=recipe.output_dtype,
            options=flags.run_options(progress),
            recipe=RecipeText(recipe.method, said, lenient),
        )
    warn_of_differing(reports[0].differing_tensors)
    if flags.as_json:
        print_json({"out": out, "scales": scales, "models": [one.to_dict() for one in reports]})
    elif not flags.quiet:
        _print_summary(out, scales, reports)


def _print_summary(out: str, scales: Sequence[float], reports: Sequence[MergeReport]) -> None:
    click.echo(f"Wrote {len(reports)} models below {out}")
    rows = [
        (
            Path(report.out).name,
            f"{scale:g}",
            _share(report.changed_elements, report.elements),
            _share(report.lost_elements, report.intended_elements),
            "-" if report.edit_cosine is None else f"{report.edit_cosine:.4f}",
        )
        for scale, report in zip(scales, reports, strict=True)
    ]
    print_table(("folder", "scale", "changed", "lost to rounding", "edit cosine"), rows)
    first = reports[0]
    rate = first.bytes_moved / 1e9 / first.seconds if first.seconds else 0.0
    click.echo(f"{size(first.bytes_moved)} moved in {first.seconds:.2f} s ({rate:.2f} GB/s)")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "-"
