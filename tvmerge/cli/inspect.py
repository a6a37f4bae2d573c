"""`tvmerge inspect PATH`: what a checkpoint or task vector holds, from headers only."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from tvmerge.cli.options import json_option
from tvmerge.cli.printing import print_json, print_table, size
from tvmerge.cli.receipt_printing import print_receipt
from tvmerge.compare import layer_of
from tvmerge.errors import FormatError
from tvmerge.hub import resolve
from tvmerge.receipt import RECEIPT_NAME, Receipt
from tvmerge.receipt_parsing import read_receipt
from tvmerge.stored import Stored, open_stored, read_config
from tvmerge.untrusted import printable, shorten


@click.command()
@click.argument("path")
@click.option("--tensors", "with_tensors", is_flag=True, help="List every tensor.")
@json_option
def inspect(path: str, with_tensors: bool, as_json: bool) -> None:
    """Say what the checkpoint or task vector at PATH holds; only headers are read.

    For an output of tvmerge its receipt says how it was made, and layer by layer how many elements
    the edit changed, how many of the intended changes rounding lost, and the cosine between the
    intended edit and what is left of it.
    """
    stored = open_stored(resolve(path))
    found = _describe(stored)
    receipt = _receipt(stored)
    if as_json:
        print_json(found | {"receipt": None if receipt is None else receipt.to_dict()})
        return
    architecture = f" ({found['architecture']})" if found["architecture"] else ""
    click.echo(f"{stored.source}: {found['kind']}{printable(shorten(architecture))}")
    click.echo(f"  files       {len(found['files'])}, {size(found['bytes'])}")
    click.echo(f"  tensors     {len(found['tensors'])}")
    click.echo(f"  parameters  {found['parameters']:,}")
    for dtype, elements in found["dtypes"].items():
        click.echo(f"  {dtype:<10}  {elements:,} elements")
    for stack, layers in found["layers"].items():
        click.echo(f"  layers      {layers} in {printable(stack)}")
    if with_tensors:
        rows = [
            (t["name"], t["dtype"], "x".join(map(str, t["shape"])) or "scalar", f"{t['bytes']:,}")
            for t in found["tensors"]
        ]
        print_table(("tensor", "dtype", "shape", "bytes"), rows)
    if receipt is not None:
        print_receipt(receipt)


def _receipt(stored: Stored) -> Receipt | None:
    """The receipt that lies beside the weights; None where there is none that can be read."""
    if not stored.source.is_dir() or not (stored.source / RECEIPT_NAME).exists():
        return None
    try:
        return read_receipt(stored.source)
    except FormatError as error:
        click.echo(f"Warning: {printable(str(error))}", err=True)
        return None


def _describe(stored: Stored) -> dict[str, Any]:
    entries = [slot.entry for slot in stored.slots.values()]
    dtypes: Counter[str] = Counter()
    for entry in entries:
        dtypes[entry.dtype] += entry.elements
    layers = {layer_of(entry.name) for entry in entries} - {entry.name for entry in entries}
    return {
        "path": str(stored.source),
        "kind": "task vector" if stored.is_task_vector else "checkpoint",
        "architecture": _architecture(stored),
        "files": [{"name": file.name, "bytes": head.size_bytes} for file, head in stored.shards],
        "bytes": stored.size_bytes,
        "parameters": stored.parameters,
        "dtypes": dict(dtypes.most_common()),
        "layers": dict(Counter(layer.rpartition(".")[0] for layer in layers)),
        "tensors": [
            {
                "name": entry.name,
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "bytes": entry.size_bytes,
            }
            for entry in entries
        ],
    }


def _architecture(stored: Stored) -> str | None:
    """The class that config.json names; None without a readable config."""
    config = read_config(stored.folder)
    named = config.get("architectures") or [config.get("model_type")]
    return str(named[0]) if isinstance(named, list) and named[0] else None
