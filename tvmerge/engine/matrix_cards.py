"""The devices on which torch merges whole matrices, and how many of these at once on cards."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tvmerge.engine.devices import ALL, CPU, parse_device
from tvmerge.engine.matrix_devices import VARIABLE, asked_device
from tvmerge.errors import DeviceError, MemoryLimitError

_MIB = 1024 * 1024
# One is read from the files and sent there while another is merged.
_AT_ONCE = 2


def find_devices() -> list[torch.device]:
    """The devices that are asked for. Raises DeviceError where torch does not see one of them."""
    asked = asked_device()
    wanted = parse_device(asked)
    if not wanted:
        return [torch.device(CPU)]
    count = torch.cuda.device_count()
    missing = [] if wanted == ALL else [number for number in wanted if number >= count]
    if not count or missing:
        raise DeviceError(
            f"{VARIABLE}={asked}: torch {torch.__version__} sees {count} cards. Set it to cpu, or "
            "install a torch for this machine's cards"
        )
    return [torch.device("cuda", n) for n in (range(count) if wanted == ALL else wanted)]


def at_once(devices: Sequence[torch.device], held_bytes: int, method: str) -> int | None:
    """How many matrices the cards merge at once, each card as many; None for the processor.

    Raises MemoryLimitError where a card has no room for one.
    """
    if devices[0].type == CPU:
        return None
    free, device = min((torch.cuda.mem_get_info(one)[0], str(one)) for one in devices)
    if free < held_bytes:
        raise MemoryLimitError(
            f"{VARIABLE}: {method} takes {held_bytes // _MIB} MiB of a card for the largest "
            f"matrix, and {device} has {free // _MIB} MiB free. Set it to cpu, or take less by "
            "--memory-device"
        )
    return min(_AT_ONCE, free // held_bytes) * len(devices)
