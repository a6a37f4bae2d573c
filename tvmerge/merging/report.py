"""What a merge did: all of it, and the summary that a caller gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvmerge.engine.run_options import RunOptions
from tvmerge.merging.order import Order
from tvmerge.plans.outcome import COMBINED, Outcome
from tvmerge.plans.plan import Plan
from tvmerge.plans.sums import by_input, leaves
from tvmerge.receipts.receipt import FileRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a merge did in all: one Outcome for every variant of the order."""

    order: Order
    options: RunOptions
    plan: Plan
    # (size in bytes, time of the last change in ns) of every input file of the plan.
    input_stats: tuple[tuple[int, int], ...]
    # Of files that were read before, for stages: what they are.
    known: Mapping[Path, FileRecord]
    outcomes: tuple[Outcome, ...]
    bytes_read: int
    bytes_written: int
    direct_bytes: int  # of those read
    cloned_bytes: int  # of those written
    # Of both together: what an earlier, unfinished run had done.
    resumed_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did.

    A coefficient is None where every tensor has its own. `changed_elements` differ from the
    donor's (a vector's: from zero). `intended_elements` are those that the exact sum changes; of
    them `lost_elements` were rounded back to what they were. `edit_cosine` is that between the
    intended and the realised edit, None where it is undefined.
    """

    out: str
    coefficients: Mapping[str, float | None]
    combined_tensors: int
    copied_tensors: int
    elements: int
    changed_elements: int
    intended_elements: int
    lost_elements: int
    edit_cosine: float | None
    differing_tensors: tuple[str, ...]
    bytes_moved: int
    resumed_bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def report(result: Result, number: int, out: str | os.PathLike[str]) -> MergeReport:
    """The summary of one variant, by its number."""
    variant, outcome = result.order.variants[number], result.outcomes[number]
    edit = outcome.edit
    combined = sum(tensor.action == COMBINED for tensor in outcome.tensors)
    return MergeReport(
        out=os.path.join(out, variant.name) if variant.name else os.fspath(out),  # noqa: PTH118
        coefficients={
            os.fspath(stored.source): c for stored, c in leaves(by_input(variant.weighting)).items()
        },
        combined_tensors=combined,
        copied_tensors=len(outcome.tensors) - combined,
        elements=outcome.combined_elements,
        changed_elements=edit.changed,
        intended_elements=edit.intended,
        lost_elements=edit.lost,
        edit_cosine=edit.cosine,
        differing_tensors=tuple(tensor.name for tensor in outcome.tensors if tensor.differs),
        bytes_moved=result.bytes_read + result.bytes_written - result.resumed_bytes,
        resumed_bytes=result.resumed_bytes,
        seconds=result.seconds,
    )
