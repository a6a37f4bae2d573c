"""Shows what a recipe comes to: every tensor with its method, sources and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from tvmerge.files.untrusted import printable
from tvmerge.plans.assembly import AssembledInput, AssembledTensor, Assembly


def tensor_dict(tensor: AssembledTensor) -> dict[str, Any]:
    """Plain values, for JSON; `base` is the number of the base among the inputs."""
    return {
        "name": tensor.name,
        "method": tensor.method,
        "parameters": dict(tensor.parameters),
        "base": tensor.base,
        "inputs": [
            {
                "model": one.model.reference,
                "tensor": one.tensor,
                "parameters": dict(one.parameters),
                **({"statistics": one.statistics.stored.given} if one.statistics else {}),
            }
            for one in tensor.inputs
        ],
    }


def print_tensors(assembly: Assembly) -> None:
    """A line for every tensor, and one for each of its inputs."""
    for tensor in assembly.tensors:
        shared = _told(tensor.parameters)
        click.echo(f"{printable(tensor.name)}: {tensor.method}{shared}")
        for number, one in enumerate(tensor.inputs):
            click.echo(f"  {_input(one, tensor.name)}{' (base)' if number == tensor.base else ''}")


def _input(one: AssembledInput, name: str) -> str:
    other = "" if one.tensor == name else f": {printable(one.tensor)}"
    return f"{printable(one.model.reference)}{other}{_told(one.parameters)}"


def _told(parameters: Mapping[str, float | bool]) -> str:
    pairs = (f"{key} {_value(value)}" for key, value in parameters.items())
    return "".join(f", {pair}" for pair in pairs)


def _value(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}"
