"""`tvmerge devices`: what can compute on this machine."""

from __future__ import annotations

import platform
from typing import Any

import click

from tvmerge import _core
from tvmerge.cli.options import json_option
from tvmerge.cli.printing import print_json, print_table, size
from tvmerge.engine.devices import CardFound, find_cards
from tvmerge.engine.gpudirect import asked_library

_HEAD = ("device", "name", "compute capability", "free", "memory", "usable")


@click.command()
@json_option
def devices(as_json: bool) -> None:
    """List the NVIDIA cards that --device can name, and the processor's instruction sets.

    Where no card can be used it says why; the exit code is 0 all the same.
    """
    cards, problem, isas = find_cards(), _core.cuda_problem(), _core.available_isas()
    if as_json:
        print_json(
            {
                "cards": list(map(_plain, cards)),
                "problem": problem or None,
                "gpudirect": asked_library() or None,
                "processor": {"architecture": platform.machine(), "isas": isas},
            }
        )
        return
    if cards:
        print_table(_HEAD, map(_row, cards))
        click.echo(f"GPUDirect Storage: {_direct()}")
    if problem:
        click.echo(f"no card can be used: {problem}")
    click.echo(f"cpu: {platform.machine()} with {', '.join(isas)}")


def _direct() -> str:
    asked = asked_library()
    if asked:
        return f"files that are not cached are read by {asked}"
    return "off. `tvmerge bench --device cuda` says whether TVMERGE_GPUDIRECT=1 is worth it"


def _plain(card: CardFound) -> dict[str, Any]:
    return {
        "device": f"cuda:{card.index}",
        "index": card.index,
        "name": card.name,
        "compute_capability": _capability(card),
        "free_bytes": card.free_bytes,
        "total_bytes": card.total_bytes,
        "usable": not card.problem,
        "problem": card.problem or None,
    }


def _row(card: CardFound) -> tuple[str, ...]:
    return (
        f"cuda:{card.index}",
        card.name,
        _capability(card),
        size(card.free_bytes),
        size(card.total_bytes),
        f"no: {card.problem}" if card.problem else "yes",
    )


def _capability(card: CardFound) -> str:
    major, minor = card.compute_capability
    return f"{major}.{minor}"
