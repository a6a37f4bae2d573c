"""Shows a receipt to people: what went in, and layer by layer what rounding left of the edit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import click

from tvmerge.algebra.compare import layer_of
from tvmerge.cli.printing import (
    coefficient,
    in_order,
    or_dash,
    print_some,
    print_table,
    size,
)
from tvmerge.engine.edit import total
from tvmerge.files.untrusted import printable
from tvmerge.plans.outcome import COMBINED, TensorOutcome
from tvmerge.receipts.receipt import InputRecord, Receipt, relative_error

_HEAD = ("", "elements", "changed", "intended", "lost", "cosine", "relative error")


def print_receipt(receipt: Receipt) -> None:
    """The receipt's inputs, its edit in all and by layer, and how the run went."""
    source, form = receipt.recipe.source, receipt.recipe.form
    method = f" ({printable(source.method if source else form or '')})" if source or form else ""
    click.echo(f"Made with tvmerge {printable(receipt.version)}{method}:")
    for number, record in enumerate(receipt.inputs):
        click.echo(_input(record, is_donor=number == receipt.recipe.donor))
    layers: dict[str, list[TensorOutcome]] = defaultdict(list)
    for tensor in receipt.tensors:
        layers[layer_of(tensor.name)].append(tensor)
    rows = [_row("total", receipt.tensors)]
    rows += [_row(printable(layer), layers[layer]) for layer in sorted(layers, key=in_order)]
    print_table(_HEAD, rows)
    differing = [printable(tensor.name) for tensor in receipt.tensors if tensor.differs]
    print_some("integer tensors that differ between the inputs", differing)
    _print_run(receipt)


def _input(record: InputRecord, *, is_donor: bool) -> str:
    donor = ", which gives layout and companions" if is_donor else ""
    return f"  {coefficient(record.coefficient)} * {printable(record.path)}{donor}"


def _row(name: str, tensors: Iterable[TensorOutcome]) -> tuple[str, ...]:
    combined = [tensor for tensor in tensors if tensor.action == COMBINED]
    elements = sum(tensor.elements for tensor in combined)
    if not elements:
        return (name, "copied", *["-"] * (len(_HEAD) - 2))
    edit = total(tensor.edit for tensor in combined if tensor.edit is not None)
    error = relative_error(edit)
    return (
        name,
        f"{elements:,}",
        f"{edit.changed / elements:.2%}",
        f"{edit.intended / elements:.2%}",
        f"{edit.lost_share:.2%}" if edit.intended else "-",
        or_dash(edit.cosine, ".6f"),
        or_dash(error, ".2g"),
    )


def _print_run(receipt: Receipt) -> None:
    read, written, seconds = (
        receipt.run.get(key) for key in ("bytes_read", "bytes_written", "seconds")
    )
    if not isinstance(read, int) or not isinstance(written, int) or not isinstance(seconds, float):
        return  # this section may hold anything
    rate = f" ({(read + written) / 1e9 / seconds:.2f} GB/s)" if seconds else ""
    click.echo(f"  {size(read)} read, {size(written)} written in {seconds:.2f} s{rate}")
