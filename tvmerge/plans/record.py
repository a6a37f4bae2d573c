"""What a batch did: the numbers that reports, receipts and an interrupted merge need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvmerge.engine.digest import EMPTY
from tvmerge.engine.edit import Edit

_COUNTS = 3  # of an edit's six numbers, the first ones that are whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The results of one batch, in the order of its jobs; files go by their number in the plan."""

    number: int
    edits: tuple[tuple[Edit, ...], ...]  # by combine job, by result
    different: tuple[int, ...]  # by copy job: bytes that differ from a range that should be alike
    input_states: Mapping[int, bytes]  # of tensor data (tvmerge.engine.digest)
    output_states: Mapping[int, bytes]
    bytes_read: int
    bytes_written: int
    direct_bytes: int  # of those read: what cards read by themselves (GPUDirect Storage)
    cloned_bytes: int  # of those written: what shares its blocks with an input
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, for JSON (with NaN and infinities, as Python writes them)."""
        return {
            "batch": self.number,
            "edits": self.edits,
            "different": list(self.different),
            "inputs": {str(file): state.hex() for file, state in self.input_states.items()},
            "outputs": {str(file): state.hex() for file, state in self.output_states.items()},
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "direct_bytes": self.direct_bytes,
            "cloned_bytes": self.cloned_bytes,
            "seconds": self.seconds,
        }

    @staticmethod
    def from_json(value: Any) -> Record:
        """The record again; raises ValueError for anything that `to_json` does not give."""
        try:
            return Record(
                number=_count(value["batch"]),
                edits=tuple(tuple(map(_edit, job)) for job in _list(value["edits"])),
                different=tuple(map(_count, _list(value["different"]))),
                input_states=_states(value["inputs"]),
                output_states=_states(value["outputs"]),
                bytes_read=_count(value["bytes_read"]),
                bytes_written=_count(value["bytes_written"]),
                direct_bytes=_count(value["direct_bytes"]),
                cloned_bytes=_count(value["cloned_bytes"]),
                seconds=_number(value["seconds"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the record of a batch: {error!r}") from error


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, found {type(value).__name__}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a count, found {type(value).__name__}")
    return value


def _number(value: Any) -> float:
    if type(value) is not float:
        raise ValueError(f"expected a number, found {type(value).__name__}")
    return value


def _edit(value: Any) -> Edit:
    counts, sums = _list(value)[:_COUNTS], value[_COUNTS:]
    return Edit(*map(_count, counts), *map(_number, sums))


def _states(value: Any) -> dict[int, bytes]:
    if not isinstance(value, dict):
        raise ValueError(f"expected digests by file, found {type(value).__name__}")
    states = {int(file): bytes.fromhex(state) for file, state in value.items()}
    if any(len(state) != len(EMPTY) for state in states.values()):
        raise ValueError(f"expected digests of {len(EMPTY)} bytes")
    return states
