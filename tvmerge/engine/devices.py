"""The device that computes: the processor, or NVIDIA cards, which a process opens once and keeps.

    cpu    cuda (the first card)    cuda:1    cuda:0,1    cuda:all

Which one it is changes no byte of a result.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from tvmerge import _core
from tvmerge.engine.gpudirect import asked_library, library, log_elsewhere
from tvmerge.errors import ConfigError, DeviceError

CPU = "cpu"
ALL: Literal["all"] = "all"
_DEVICE = re.compile(r"cuda(?::(?:(all)|([0-9]{1,4}(?:,[0-9]{1,4})*)))?")
_MIB = 1024 * 1024
# Of what a card has free: other programs come and go, and a driver keeps some for itself.
_SHARE_OF_FREE = 0.75
# A batch moves about 1 GiB: more would hold a batch of very large tensors, or nothing.
_MOST_BYTES = 8 * 1024 * _MIB


@dataclass(frozen=True, slots=True)
class CardFound:
    """A card of this machine; `problem` says why it cannot be used, empty if it can."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    free_bytes: int
    total_bytes: int
    problem: str

    def __str__(self) -> str:
        return f"cuda:{self.index} {self.name}"


@dataclass(slots=True)
class _Opened:
    """What a process has opened, all in the same way."""

    process: int
    memory_mib: int | None
    cufile: str  # the library by which they read files themselves, if they do
    cards: dict[int, _core.Card] = field(default_factory=dict)
    devices: dict[str, tuple[_core.Card, ...]] = field(default_factory=dict)


_opened: _Opened | None = None
_opening = threading.Lock()
_lending = threading.Lock()


def parse_device(text: str) -> tuple[int, ...] | Literal["all"]:
    """The numbers of the cards that a device names: none for `cpu`, ALL for `cuda:all`.

    Raises ConfigError for what is no device; whether there are such cards is not looked at.
    """
    if text == CPU:
        return ()
    match = _DEVICE.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"device {text!r}: expected cpu, cuda, cuda:1, cuda:0,1 or cuda:all. `tvmerge devices` "
            "lists what is here"
        )
    every, numbers = match.groups()
    if every:
        return ALL
    indices = tuple(int(number) for number in numbers.split(",")) if numbers else (0,)
    for index in indices:
        if indices.count(index) > 1:
            raise ConfigError(f"device {text!r}: card {index} is named twice. Name every card once")
    return indices


def find_cards() -> tuple[CardFound, ...]:
    """All cards of this machine, usable or not; none where `_core.cuda_problem()` says why."""
    return tuple(CardFound(*card) for card in _core.cards())


def open_cards(device: str, memory_mib: int | None = None) -> tuple[_core.Card, ...]:
    """The cards of a device, opened by the first call and kept for the next; none for `cpu`.

    Each takes `memory_mib` of its memory at most; None: three quarters of what is free, at most
    8 GiB. With TVMERGE_GPUDIRECT they read files themselves (gpudirect.py). Raises ConfigError for
    what is no device, DeviceError where a card is not there or cannot be used, MemoryLimitError
    where it has no memory left.
    """
    return _open_all(device, memory_mib, asked_library)


def _open_all(
    device: str, memory_mib: int | None, find_library: Callable[[], str]
) -> tuple[_core.Card, ...]:
    global _opened
    if memory_mib is not None and memory_mib < 1:
        raise ConfigError(f"device memory {memory_mib} MiB: expected at least 1")
    wanted = parse_device(device)
    if not wanted:
        return ()
    cufile = find_library()
    if cufile:
        log_elsewhere()
    with _opening:
        # A fork has its parent's cards in name only. With another limit the old ones go first.
        asked = (os.getpid(), memory_mib, cufile)
        if _opened is None or (_opened.process, _opened.memory_mib, _opened.cufile) != asked:
            _opened = None
            _opened = _Opened(*asked)
        if device not in _opened.devices:
            for card in _chosen(device, wanted):
                if card.index not in _opened.cards:
                    _opened.cards[card.index] = _open(card, memory_mib, _opened.cufile)
            named = _opened.cards if wanted == ALL else wanted
            _opened.devices[device] = tuple(_opened.cards[index] for index in sorted(named))
        return _opened.devices[device]


def gpudirect_problem(device: str, memory_mib: int | None = None) -> str:
    """Why the cards of a device cannot read files by themselves; empty if they can.

    Raises as `open_cards` does of cards that cannot be used at all.
    """
    open_cards(device, memory_mib)
    try:
        _open_all(device, memory_mib, library)
    except DeviceError as error:
        return str(error)
    return ""


def close_cards() -> None:
    """Give back what `open_cards` holds, once no merge uses it any more."""
    global _opened
    with _opening:
        _opened = None


@contextmanager
def lent(cards: Sequence[_core.Card]) -> Iterator[None]:
    """Use the cards for one batch: nobody else does meanwhile, and then they forget its files.

    A card keeps what it has read of a batch; what the next one reads may have changed.
    """
    if not cards:
        yield
        return
    with _lending:
        try:
            yield
        finally:
            for card in cards:
                card.forget()


def direct_bytes(cards: Sequence[_core.Card]) -> int:
    """How much the cards have read by themselves since they were opened."""
    return sum(card.direct_bytes for card in cards)


def _open(card: CardFound, memory_mib: int | None, cufile: str) -> _core.Card:
    free = int(card.free_bytes * _SHARE_OF_FREE)
    given = min(free, _MOST_BYTES) if memory_mib is None else memory_mib * _MIB
    return _core.Card(card.index, memory_bytes=max(1, given), cufile=cufile)


def _chosen(device: str, wanted: Sequence[int] | Literal["all"]) -> list[CardFound]:
    """The usable cards that are wanted; raises DeviceError where one is not there."""
    here = find_cards()
    problem = _core.cuda_problem()
    if not here:
        _refuse(device, problem or "no card was found")
    if wanted == ALL:
        usable = [card for card in here if not card.problem]
        if not usable:
            _refuse(device, problem or "; ".join(f"{card}: {card.problem}" for card in here))
        return usable
    by_index = {card.index: card for card in here}
    for index in wanted:
        if index not in by_index:
            _refuse(device, f"there is no card {index}, but {', '.join(map(str, here))}")
        if by_index[index].problem:
            _refuse(device, f"{by_index[index]}: {by_index[index].problem}")
    return [by_index[index] for index in wanted]


def _refuse(device: str, why: str) -> NoReturn:
    raise DeviceError(
        f"device {device!r}: {why.rstrip('.')}. The device cpu computes the same bytes; "
        "`tvmerge devices` lists the cards"
    )
