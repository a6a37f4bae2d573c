"""`tvmerge inspect PATH`: what a checkpoint, vector or adapter holds, from headers only."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from tvmerge.algebra.compare import layer_of
from tvmerge.checkpoints.hub import resolve
from tvmerge.checkpoints.stored import Stored, open_stored, read_config
from tvmerge.cli.options import json_option
from tvmerge.cli.printing import in_order, print_json, print_some, print_table, size
from tvmerge.cli.receipt_printing import print_receipt
from tvmerge.errors import FormatError
from tvmerge.files.untrusted import printable, shorten
from tvmerge.inputs.adapter import Adapter, adapter_folder, read_adapter
from tvmerge.inputs.packed import Packed, is_packed, read_packed
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.receipt import RECEIPT_NAME, Receipt


@click.command()
@click.argument("path")
@click.option("--tensors", "with_tensors", is_flag=True, help="List every tensor.")
@json_option
def inspect(path: str, with_tensors: bool, as_json: bool) -> None:
    """Say what the checkpoint, task vector or LoRA adapter at PATH holds; only headers are read.

    For an output of tvmerge its receipt says how it was made, and layer by layer how many elements
    the edit changed, how many of the intended changes rounding lost, and the cosine between the
    intended edit and what is left of it.
    """
    place = resolve(path)
    folder = adapter_folder(place)
    adapter = None if folder is None else read_adapter(folder)
    if adapter is None:
        stored = open_stored(place)
        packed = read_packed(stored) if is_packed(stored) else []
        found = _describe(stored) | {"packed": _describe_packed(packed)}
    else:
        stored = Stored(adapter.folder, ((adapter.file, adapter.header),))
        found = _describe(stored) | {"kind": "LoRA adapter", "adapter": _describe_adapter(adapter)}
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
    if adapter is not None:
        _print_adapter(found["adapter"])
    elif found["packed"] is not None:
        packing = found["packed"]
        form, tensors, parameters = (packing[key] for key in ("form", "tensors", "parameters"))
        click.echo(f"  packed      {form}: {tensors} tensors of {parameters:,} parameters")
    if with_tensors:
        rows = [
            (t["name"], t["dtype"], "x".join(map(str, t["shape"])) or "scalar", f"{t['bytes']:,}")
            for t in sorted(found["tensors"], key=lambda tensor: in_order(tensor["name"]))
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


def _print_adapter(found: dict[str, Any]) -> None:
    click.echo(f"  base        {printable(shorten(found['base'] or 'not said'))}")
    for rank, scale, count in found["products"]:
        click.echo(f"  products    {count} of rank {rank}, times {scale:g}")
    print_some("saved whole", found["saved"])


def _describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """What it was trained on, (rank, scale, how many) of its products, what it saved whole."""
    targets = adapter.targets.values()
    products = Counter((one.rank, one.scale) for target in targets for one in target.products)
    return {
        "base": adapter.config.base,
        "products": [[*key, count] for key, count in products.most_common()],
        "saved": [target.name for target in targets if target.saved],
    }


def _describe_packed(tensors: list[Packed]) -> dict[str, Any] | None:
    """What a packed vector's parts stand for; None where it is not packed."""
    if not tensors:
        return None
    return {
        "form": ", ".join(dict.fromkeys(one.form for one in tensors)),
        "tensors": len(tensors),
        "parameters": sum(one.elements for one in tensors),
    }


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
        "files": [
            {"name": file.relative_to(stored.folder).as_posix(), "bytes": head.size_bytes}
            for file, head in stored.shards
        ],
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
    if stored.components:
        return "pipeline of " + ", ".join(stored.components)
    config = read_config(stored.folder)
    named = config.get("architectures") or [config.get("model_type")]
    return str(named[0]) if isinstance(named, list) and named[0] else None
