"""What a merge did, added up from the records of its batches: per tensor, per file, in all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tvmerge.engine.digest import EMPTY, add
from tvmerge.engine.edit import Edit, fold, total
from tvmerge.files.safetensors import FLOAT_DTYPES
from tvmerge.plans.batches import Batch
from tvmerge.plans.plan import Plan
from tvmerge.plans.record import Record

COMBINED = "combined"
COPIED = "copied"


class TensorOutcome(NamedTuple):
    """One tensor of an output, what was done to it and why; `edit` is None where it was copied."""

    name: str
    dtype: str
    elements: int
    action: str  # COMBINED or COPIED
    reason: str
    edit: Edit | None
    # Copied, although an input has other bytes there (an integer tensor).
    differs: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One variant of a merge: its tensors in the order of the files, and the files' digest states.

    The states are those of tensor data (digest.py), by input file number and by shard number.
    """

    tensors: tuple[TensorOutcome, ...]
    input_states: Mapping[int, bytes]
    output_states: Sequence[bytes]

    @property
    def edit(self) -> Edit:
        """The edit of all tensors together."""
        return total(tensor.edit for tensor in self.tensors if tensor.edit is not None)

    @property
    def combined_elements(self) -> int:
        """The number of elements that were computed rather than copied."""
        return sum(tensor.elements for tensor in self.tensors if tensor.action == COMBINED)


def outcomes(plan: Plan, batches: Sequence[Batch], records: Mapping[int, Record]) -> list[Outcome]:
    """One Outcome for every variant; `records` holds that of every batch by its number."""
    edits: dict[tuple[int, str], list[Edit]] = defaultdict(list)
    copied: dict[tuple[int, str], int] = defaultdict(int)
    for batch in batches:
        record = records[batch.number]
        for combine, parts in zip(batch.combines, record.edits, strict=True):
            for result, edit in zip(combine.results, parts, strict=True):
                edits[plan.variant(result.file), combine.tensor].append(edit)
        for copy, different in zip(batch.copies, record.different, strict=True):
            for file, _ in copy.targets:
                copied[plan.variant(file), copy.tensor] += different
    inputs = dict.fromkeys(range(len(plan.inputs)), EMPTY)  # of files without tensors too
    inputs |= _summed(record.input_states for record in records.values())
    outputs = _summed(record.output_states for record in records.values())
    shards = len(plan.shards)
    return [
        Outcome(
            tensors=tuple(_tensors(plan, variant, edits, copied)),
            input_states=inputs,
            output_states=[outputs.get(variant * shards + n, EMPTY) for n in range(shards)],
        )
        for variant in range(plan.variants)
    ]


def _tensors(
    plan: Plan,
    variant: int,
    edits: Mapping[tuple[int, str], list[Edit]],
    copied: Mapping[tuple[int, str], int],
) -> Iterable[TensorOutcome]:
    for shard in plan.shards:
        for entry in shard.entries:
            key = (variant, entry.name)
            if key in edits:
                edit = fold(edits[key])
                yield TensorOutcome(
                    entry.name, entry.dtype, entry.elements, COMBINED, "in the sum", edit
                )
                continue
            reason = copy_reason(entry.dtype)
            differs = copied[key] > 0
            yield TensorOutcome(
                entry.name, entry.dtype, entry.elements, COPIED, reason, None, differs
            )


def copy_reason(dtype: str) -> str:
    """Why a tensor of this dtype is copied."""
    return "untouched" if dtype in FLOAT_DTYPES else "not floating-point"


def _summed(states: Iterable[Mapping[int, bytes]]) -> dict[int, bytes]:
    found: dict[int, list[bytes]] = defaultdict(list)
    for one in states:
        for file, state in one.items():
            found[file].append(state)
    return {file: add(*parts) for file, parts in found.items()}
