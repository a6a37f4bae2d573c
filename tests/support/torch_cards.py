"""Tensors of cards that are none: they compute as the processor's and refuse to meet these.

`.to(cuda)` makes them, and `.cpu()` makes them what they were. So it shows where a tensor was left
behind or made on the wrong side; what a card's own linear algebra gives does not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for one in value:
            yield from tensors_in(one)


class OnCard(torch.Tensor):
    """A tensor of a card: with one of the processor it does nothing, but for single numbers."""

    here: torch.device

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        held = list(tensors_in((args, kwargs or {})))
        for one in held:
            with torch._C.DisableTorchFunctionSubclass():
                single = one.dim() == 0
            assert single or isinstance(one, cls), f"{func}: a tensor of the processor"
        places = {str(one.here) for one in held if hasattr(one, "here")}
        assert len(places) <= 1, f"{func}: {places}"
        result = super().__torch_function__(func, types, args, kwargs or {})
        for one in tensors_in(result):
            if isinstance(one, cls) and not hasattr(one, "here"):
                one.here = next(item.here for item in held if hasattr(item, "here"))
        return result


class Cards:
    """What was sent to which card, and how many of a card's matrices were merged at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, free_bytes: int) -> None:
        self.sent: list[str] = []
        self.fetched = 0
        self.together: list[str] = []  # cards that had a matrix of one thread, and got another's
        self._busy: dict[str, int] = {}
        self._free = free_bytes
        self._kept = 0  # as torch keeps what it has freed, until it is told
        to, cpu = torch.Tensor.to, torch.Tensor.cpu

        def sent(tensor: torch.Tensor, device: Any, *rest: Any) -> torch.Tensor:
            if not isinstance(device, torch.device) or device.type == "cpu":
                return to(tensor, device, *rest)
            card, thread = str(device), threading.get_ident()
            self.sent.append(card)
            if self._busy.setdefault(card, thread) != thread:
                self.together.append(card)
            made = tensor.clone().as_subclass(OnCard)
            made.here = device
            return made

        def fetched(tensor: torch.Tensor) -> torch.Tensor:
            if isinstance(tensor, OnCard):
                self.fetched += 1
                self._kept = self._free
                self._busy.pop(str(tensor.here), None)
                return tensor.as_subclass(torch.Tensor)
            return cpu(tensor)

        monkeypatch.setattr(torch.Tensor, "to", sent)
        monkeypatch.setattr(torch.Tensor, "cpu", fetched)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "empty_cache", self._give_back)
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda _device: (self._free - self._kept, 2**40)
        )

    def _give_back(self) -> None:
        self._kept = 0
