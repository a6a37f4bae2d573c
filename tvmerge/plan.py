"""Plans a merge: decides every output byte's place before any tensor is read.

From coefficients per input to the flat lists of jobs that the native engine runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tvmerge._core import CombineJob, CopyJob, Source
from tvmerge.dtype import parse_dtype
from tvmerge.errors import ConfigError, MismatchError, did_you_mean
from tvmerge.safetensors import FLOAT_DTYPES, Entry, layout
from tvmerge.stored import KIND_KEY, TASK_VECTOR, Slot, Stored

_LISTED = 5  # how many mismatches an error names
# What a combine job compares its output with, to count changed elements (csrc/job.hpp).
_NO_REFERENCE = -1
_ZERO = -2


@dataclass(frozen=True, slots=True)
class OutShard:
    """One file to be written: its name, opening bytes (length and header), size, entries."""

    name: str
    head: bytes
    size_bytes: int
    entries: tuple[Entry, ...]


@dataclass(slots=True)
class Plan:
    """The jobs of one merge; `combined` and `copied` name the tensors, in the jobs' order."""

    shards: tuple[OutShard, ...]
    inputs: list[Path] = field(default_factory=list)
    combines: list[CombineJob] = field(default_factory=list)
    copies: list[CopyJob] = field(default_factory=list)
    combined: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    counts_changes: bool = True
    bytes_to_move: int = 0

    @property
    def output_bytes(self) -> int:
        """The size of all files to be written."""
        return sum(shard.size_bytes for shard in self.shards)

    @property
    def elements(self) -> int:
        """The number of elements that are computed rather than copied."""
        names = set(self.combined)
        return sum(e.elements for s in self.shards for e in s.entries if e.name in names)

    def input_index(self, path: Path, known: dict[Path, int]) -> int:
        """The number under which the engine knows this file."""
        if path not in known:
            known[path] = len(self.inputs)
            self.inputs.append(path)
        return known[path]


def plan_checkpoint(
    coefficients: Mapping[Stored, float], donor: Stored, *, dtype: str | None = None
) -> Plan:
    """Plan a model: donor's shards and names, its dtypes unless `dtype` is given.

    Integer and boolean tensors are copied from the donor, as are tensors that nothing touches.
    """
    terms = _donor_first(coefficients, donor)
    if all(stored.is_task_vector for stored in terms):
        raise ConfigError("the checkpoints' coefficients cancel out: no weights would be left")
    _refuse_quantised([donor, *terms])
    check_match(terms, donor)
    wanted = parse_dtype(dtype) if dtype is not None else None
    names = _shard_names(donor, stem="model")
    shards = tuple(
        _lay_out(name, header.entries, wanted, metadata={"format": "pt"})
        for name, (_, header) in zip(names, donor.shards, strict=True)
    )
    plan = Plan(shards)
    known: dict[Path, int] = {}
    for number, entry in _placed(shards):
        _plan_tensor(plan, known, number, entry, terms, donor)
    return plan


def plan_vector(
    coefficients: Mapping[Stored, float], donor: Stored, *, dtype: str | None = None
) -> Plan:
    """Plan a stored task vector: every floating-point tensor of the donor, in float32."""
    terms = _donor_first(coefficients, donor)
    _refuse_quantised(list(terms))
    check_match(terms, donor)
    wanted = parse_dtype(dtype or "F32")
    metadata = {"format": "pt", KIND_KEY: TASK_VECTOR}
    shards = []
    for name, (_, header) in zip(_shard_names(donor, stem="vector"), donor.shards, strict=True):
        floats = tuple(entry for entry in header.entries if entry.dtype in FLOAT_DTYPES)
        shards.append(_lay_out(name, floats, wanted, metadata=metadata))
    plan = Plan(tuple(shards))
    known: dict[Path, int] = {}
    for number, entry in _placed(plan.shards):
        _combine(plan, known, number, entry, terms, _ZERO)
    return plan


def holders(terms: Mapping[Stored, float], name: str) -> list[tuple[Slot, float]]:
    """The places of tensor `name` in the inputs that have it, with their coefficients."""
    return [(stored.slots[name], c) for stored, c in terms.items() if name in stored.slots]


def _donor_first(coefficients: Mapping[Stored, float], donor: Stored) -> dict[Stored, float]:
    # The order of the sum is fixed, so that the same merge gives the same bits.
    ordered = {donor: coefficients[donor]} if donor in coefficients else {}
    return ordered | dict(coefficients)


def _refuse_quantised(inputs: list[Stored]) -> None:
    """Quantised codes are not weights: combining them without their scales gives noise."""
    for stored in inputs:
        config = stored.folder / "config.json"
        if not config.is_file():
            continue
        try:
            content = json.loads(config.read_bytes())
        except (OSError, ValueError):
            continue  # transformers will have its own say about a broken config
        if isinstance(content, dict) and content.get("quantization_config"):
            raise MismatchError(
                f"{config}: the model is quantised (quantization_config): its stored codes cannot "
                "be combined. Dequantise it first and save it in bfloat16"
            )


def check_match(terms: Mapping[Stored, float], donor: Stored) -> None:
    """Every checkpoint has the donor's tensors, no others, in the same shapes."""
    problems: list[str] = []
    for stored in terms:
        if stored == donor:
            continue
        if stored.is_task_vector and not donor.slots.keys() & stored.slots.keys():
            problems.append(f"{stored.source} and {donor.source} have no tensor in common")
        problems += _mismatches(stored, donor)
    if problems:
        more = f"\n  ... and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise MismatchError(
            "the inputs do not fit together:\n  "
            + "\n  ".join(problems[:_LISTED])
            + more
            + "\nUse checkpoints of one architecture and vocabulary (see `tvmerge inspect`)"
        )


def _mismatches(stored: Stored, donor: Stored) -> Iterator[str]:
    # A stored vector may hold fewer tensors than the model: it adds nothing to the others.
    if not stored.is_task_vector:
        unmatched = stored.slots.keys() - donor.slots.keys()
        for name in sorted(donor.slots.keys() - stored.slots.keys()):
            near = did_you_mean(name, unmatched)
            yield f"{name}: in {donor.source}, missing in {stored.source}.{near}"
    for name, slot in sorted(stored.slots.items()):
        if name not in donor.slots:
            yield f"{name}: in {stored.source}, missing in {donor.source}"
            continue
        mine, other = slot.entry, donor.slots[name].entry
        if mine.shape != other.shape:
            yield (
                f"{name}: shape {list(mine.shape)} in {stored.source}, "
                f"expected {list(other.shape)} as in {donor.source}"
            )
        elif mine.dtype != other.dtype and not {mine.dtype, other.dtype} <= FLOAT_DTYPES:
            yield (
                f"{name}: {mine.dtype} in {stored.source}, expected {other.dtype} "
                f"as in {donor.source}"
            )


def _shard_names(donor: Stored, *, stem: str) -> list[str]:
    count = len(donor.shards)
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def _lay_out(
    name: str, entries: tuple[Entry, ...], dtype: str | None, metadata: Mapping[str, str]
) -> OutShard:
    wanted = [
        (e.name, dtype if dtype and e.dtype in FLOAT_DTYPES else e.dtype, e.shape) for e in entries
    ]
    head, placed, size = layout(wanted, metadata)
    return OutShard(name, head, size, tuple(placed))


def _placed(shards: tuple[OutShard, ...]) -> Iterator[tuple[int, Entry]]:
    for number, shard in enumerate(shards):
        for entry in shard.entries:
            yield number, entry


def _plan_tensor(
    plan: Plan,
    known: dict[Path, int],
    number: int,
    entry: Entry,
    terms: Mapping[Stored, float],
    donor: Stored,
) -> None:
    own = donor.slots[entry.name]
    touching = [stored for stored in terms if entry.name in stored.slots]
    untouched = touching == [donor] and terms[donor] == 1 and entry.dtype == own.entry.dtype
    if entry.dtype not in FLOAT_DTYPES or untouched:
        others = [s.slots[entry.name] for s in touching if s != donor]
        _copy(plan, known, number, entry, own, others)
        return
    comparable = entry.dtype == own.entry.dtype
    plan.counts_changes &= comparable
    # The donor may have cancelled out, as in base + (tuned - base): it is then read all the same,
    # with coefficient 0, only to see whether anything changed.
    seen = terms if donor in terms or not comparable else {**terms, donor: 0.0}
    last = len(holders(seen, entry.name)) - 1
    reference = _NO_REFERENCE if not comparable else 0 if donor in terms else last
    _combine(plan, known, number, entry, seen, reference)


def _combine(
    plan: Plan,
    known: dict[Path, int],
    number: int,
    entry: Entry,
    terms: Mapping[Stored, float],
    reference: int,
) -> None:
    sources = [
        Source(plan.input_index(slot.file, known), slot.entry.begin, slot.entry.dtype, coefficient)
        for slot, coefficient in holders(terms, entry.name)
    ]
    plan.combines.append(
        CombineJob(
            sources=sources,
            elements=entry.elements,
            out_file=number,
            out_offset_bytes=entry.begin,
            out_dtype=entry.dtype,
            reference=reference,
        )
    )
    plan.combined.append(entry.name)
    read = sum(slot.entry.size_bytes for slot, _ in holders(terms, entry.name))
    plan.bytes_to_move += read + entry.size_bytes


def _copy(
    plan: Plan, known: dict[Path, int], number: int, entry: Entry, own: Slot, others: list[Slot]
) -> None:
    plan.copies.append(
        CopyJob(
            file=plan.input_index(own.file, known),
            offset_bytes=own.entry.begin,
            size_bytes=own.entry.size_bytes,
            out_file=number,
            out_offset_bytes=entry.begin,
            same_as=[(plan.input_index(s.file, known), s.entry.begin) for s in others],
        )
    )
    plan.copied.append(entry.name)
    plan.bytes_to_move += entry.size_bytes * (2 + len(others))
