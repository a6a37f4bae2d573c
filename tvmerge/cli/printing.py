"""What the commands print: JSON objects, tables, the summary of a merge."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from tvmerge.files.untrusted import printable

if TYPE_CHECKING:
    from tvmerge.cli.options import RunFlags
    from tvmerge.merging.merge import MergeReport

_LISTED = 10


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout; NaN and infinities become null, which JSON has."""
    click.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns, the first one left-aligned, the others right-aligned; never cut off."""
    lines = [tuple(head), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        click.echo("  ".join(cells).rstrip())


def in_order(name: str) -> list[str | int]:
    """A key that sorts names as people count: layer 9 before layer 10."""
    parts: list[str | int] = list(re.split(r"(\d+)", name))
    parts[1::2] = [int(number) for number in parts[1::2]]
    return parts


def print_some(label: str, items: Sequence[str]) -> None:
    """`label` and the first few of the items, a line each; nothing where there are none."""
    if not items:
        return
    click.echo(f"{label} ({len(items)}):")
    for item in items[:_LISTED]:
        click.echo(f"  {printable(item)}")
    if len(items) > _LISTED:
        click.echo(f"  ... and {len(items) - _LISTED} more (--json has all)")


def size(count_bytes: float) -> str:
    """Bytes as people read them, in powers of 1000: `1.08 GB`."""
    for unit in ("B", "kB", "MB"):
        if count_bytes < 1000:
            return f"{count_bytes:.3g} {unit}"
        count_bytes /= 1000
    return f"{count_bytes:,.2f} GB"


def passes(count: int) -> str:
    """How often something is read."""
    return "one pass" if count == 1 else f"{count} passes"


def or_dash(value: float | None, form: str) -> str:
    """A number in that form, or a dash where it is none."""
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def warn_of_differing(tensors: Sequence[str]) -> None:
    """Say on stderr which integer tensors the inputs disagree about, if any."""
    if not tensors:
        return
    names = ", ".join(tensors[:3])
    more = ", ..." if len(tensors) > 3 else ""
    click.echo(
        f"Warning: {len(tensors)} integer tensors differ between the inputs and were taken from "
        f"the base: {printable(names)}{more}",
        err=True,
    )


def warn_of_idle(passed_over: Sequence[str]) -> None:
    """Say on stderr what of a lenient recipe has no use, if anything."""
    for one in passed_over[:_LISTED]:
        click.echo(f"Warning: passed over: {printable(one)}", err=True)
    if len(passed_over) > _LISTED:
        click.echo(f"Warning: {len(passed_over) - _LISTED} more were passed over", err=True)


def warn_of_lost(report: MergeReport) -> None:
    """Say on stderr that rounding took back most of what the edit should change, if so."""
    if report.lost_elements * 2 <= report.intended_elements:
        return
    share = report.lost_elements / report.intended_elements
    click.echo(
        f"Warning: {report.out}: rounding to the output's dtype left {share:.1%} of the "
        f"{report.intended_elements:,} elements that the edit should change as they were. "
        "Raise the scale, or keep the result in float32 (--dtype float32; in a recipe "
        "dtype: float32)",
        err=True,
    )


def coefficient(number: float | None) -> str:
    """A coefficient of an input; None where each tensor has its own."""
    return "by tensor" if number is None else f"{number:+.6g}"


def print_report(report: MergeReport, flags: RunFlags) -> None:
    """What a merge did, for people or as JSON; a warning where inputs disagree."""
    warn_of_differing(report.differing_tensors)
    warn_of_lost(report)
    rate = report.bytes_moved / 1e9 / report.seconds if report.seconds else 0.0
    if flags.as_json:
        print_json(report.to_dict() | {"gb_per_second": rate})
    elif not flags.quiet:
        _print_summary(report, rate)


def _print_summary(report: MergeReport, rate: float) -> None:
    click.echo(f"Wrote {report.out}")
    for source, number in report.coefficients.items():
        click.echo(f"  {coefficient(number)} * {source}")
    combined = f"{report.combined_tensors} tensors combined ({report.elements:,} elements"
    if report.elements:
        combined += f", {report.changed_elements / report.elements:.2%} changed"
    click.echo(f"  {combined}), {report.copied_tensors} copied")
    moved = f"{size(report.bytes_moved)} moved in {report.seconds:.2f} s"
    resumed = f", {size(report.resumed_bytes)} by an earlier run" if report.resumed_bytes else ""
    click.echo(f"  {moved} ({rate:.2f} GB/s){resumed}")
