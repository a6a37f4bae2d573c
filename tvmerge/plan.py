"""Plans a merge: decides every output byte's place before any tensor is read.

From coefficients per input to flat lists of jobs. Several variants (other coefficients of the same
inputs) make one plan: it reads each input once, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmerge.dtype import parse_dtype
from tvmerge.errors import ConfigError
from tvmerge.jobs import ZERO, Combine, Copy, Job, Range, Result
from tvmerge.matching import check_match, refuse_quantised
from tvmerge.safetensors import FLOAT_DTYPES, Entry, layout
from tvmerge.stored import KIND_KEY, TASK_VECTOR, Slot, Stored

Coefficients = Mapping[Stored, float]


@dataclass(frozen=True, slots=True)
class OutShard:
    """One file to be written: its name, opening bytes (length and header), size, entries."""

    name: str
    head: bytes
    size_bytes: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The jobs of one merge.

    Every variant has the same shards: output file `variant * len(shards) + shard` of the jobs.
    `inputs` are all files of all inputs, each of which is read whole, so that it can be digested.
    """

    variants: int
    shards: tuple[OutShard, ...]
    inputs: tuple[Path, ...]
    jobs: tuple[Job, ...]

    @property
    def output_bytes(self) -> int:
        """The size of all files to be written."""
        return self.variants * sum(shard.size_bytes for shard in self.shards)

    def variant(self, output: int) -> int:
        """The variant that an output file belongs to."""
        return output // len(self.shards)


def plan_checkpoint(
    variants: Sequence[Coefficients], donor: Stored, *, dtype: str | None = None
) -> Plan:
    """Plan models: donor's shards and names, its dtypes unless `dtype` is given.

    Integer and boolean tensors are copied from the donor, as are tensors that nothing touches.
    Raises ConfigError where no weights would be left, MismatchError where inputs do not fit.
    """
    for coefficients in variants:
        if all(stored.is_task_vector for stored in coefficients):
            raise ConfigError("the checkpoints' coefficients cancel out: no weights would be left")
    _check(variants, donor)
    wanted = parse_dtype(dtype) if dtype is not None else None
    names = _shard_names(donor, stem="model")
    shards = tuple(
        _lay_out(name, header.entries, wanted, metadata={"format": "pt"})
        for name, (_, header) in zip(names, donor.shards, strict=True)
    )
    planner = _Planner(variants, donor, shards, also_read=(donor,))
    return planner.plan(planner.model_tensor)


def plan_vector(
    variants: Sequence[Coefficients], donor: Stored, *, dtype: str | None = None
) -> Plan:
    """Plan stored task vectors: every floating-point tensor of the donor, in float32."""
    _check(variants, donor)
    wanted = parse_dtype(dtype or "F32")
    metadata = {"format": "pt", KIND_KEY: TASK_VECTOR}
    shards = []
    for name, (_, header) in zip(_shard_names(donor, stem="vector"), donor.shards, strict=True):
        floats = tuple(entry for entry in header.entries if entry.dtype in FLOAT_DTYPES)
        shards.append(_lay_out(name, floats, wanted, metadata=metadata))
    # A donor that has cancelled out, as in (a - base) - (b - base), gives only the layout.
    planner = _Planner(variants, donor, tuple(shards), also_read=())
    return planner.plan(planner.vector_tensor)


def summing_order(variants: Sequence[Coefficients], donor: Stored) -> tuple[Stored, ...]:
    """The inputs of all variants, the donor first, in an order that keeps each variant's own.

    The order of a sum decides its last bits: so every variant has those of a merge of its own.
    Raises ConfigError where two variants name the same inputs in contrary orders.
    """
    orders = [sorted(terms, key=lambda stored: stored != donor) for terms in variants]
    left = list(dict.fromkeys(stored for order in orders for stored in order))
    placed: list[Stored] = []
    while left:
        # Of what nothing unplaced precedes in any variant, the first that was named.
        behind = {s for order in orders for s in [s for s in order if s in left][1:]}
        free = [stored for stored in left if stored not in behind]
        if not free:
            raise ConfigError("the variants name the same inputs in different orders: use one")
        placed.append(free[0])
        left.remove(free[0])
    return tuple(placed)


class _Planner:
    """Numbers the input files, and sees to it that each of their tensors is digested once."""

    def __init__(
        self,
        variants: Sequence[Coefficients],
        donor: Stored,
        shards: tuple[OutShard, ...],
        *,
        also_read: Sequence[Stored],
    ) -> None:
        self.variants, self.donor, self.shards = variants, donor, shards
        self.terms = summing_order(variants, donor)
        self.inputs = tuple(dict.fromkeys((*also_read, *self.terms)))
        files = dict.fromkeys(file for stored in self.inputs for file, _ in stored.shards)
        self.files = {file: number for number, file in enumerate(files)}
        self.digested: set[tuple[int, Entry]] = set()

    def plan(self, tensor: Callable[[int, Entry], Iterator[Job]]) -> Plan:
        """The jobs that `tensor` gives for every entry of every shard."""
        jobs = [
            job
            for number, shard in enumerate(self.shards)
            for entry in shard.entries
            for job in tensor(number, entry)
        ]
        jobs += self._unread()
        return Plan(len(self.variants), self.shards, tuple(self.files), tuple(jobs))

    def _holders(self, name: str) -> list[Stored]:
        """The inputs that have tensor `name`, in the order of the sum."""
        return [stored for stored in self.terms if name in stored.slots]

    def model_tensor(self, shard: int, entry: Entry) -> Iterator[Job]:
        """A tensor of a model: copied for the variants that leave it alone, combined for others."""
        own = self.donor.slots[entry.name]
        everywhere = range(len(self.variants))
        if entry.dtype not in FLOAT_DTYPES:
            others = [s.slots[entry.name] for s in self._holders(entry.name) if s != self.donor]
            yield self._copy(shard, entry, everywhere, own, others)
            return
        alone = [v for v in everywhere if self._leaves_alone(self.variants[v], entry, own)]
        if alone:
            yield self._copy(shard, entry, alone, own, [])
        touched = [v for v in everywhere if v not in alone]
        if touched:
            seen = [
                s for s in self._holders(entry.name) if any(s in self.variants[v] for v in touched)
            ]
            # The donor may have cancelled out, as in base + (tuned - base): it is then read all
            # the same, with coefficient 0, to see what changed.
            sources = [self.donor, *(stored for stored in seen if stored != self.donor)]
            yield self._combine(shard, entry, touched, sources, reference=0)

    def vector_tensor(self, shard: int, entry: Entry) -> Iterator[Job]:
        """A tensor of a task vector: what it changes is counted from zero."""
        everywhere = range(len(self.variants))
        yield self._combine(shard, entry, everywhere, self._holders(entry.name), ZERO)

    def _combine(
        self,
        shard: int,
        entry: Entry,
        variants: Sequence[int],
        inputs: Sequence[Stored],
        reference: int,
    ) -> Combine:
        results = tuple(
            Result(
                variant * len(self.shards) + shard,
                entry.begin,
                entry.dtype,
                reference,
                tuple(self.variants[variant].get(stored, 0.0) for stored in inputs),
            )
            for variant in variants
        )
        sources = tuple(self._range(stored.slots[entry.name]) for stored in inputs)
        return Combine(entry.name, sources, entry.elements, results)

    def _unread(self) -> Iterator[Copy]:
        """What no job has read (integers, when a vector is made) is read for the digests alone."""
        for stored in self.inputs:
            for slot in stored.slots.values():
                if (self.files[slot.file], slot.entry) not in self.digested:
                    whole = self._range(slot)
                    yield Copy(slot.entry.name, whole, slot.entry.size_bytes, (), ())

    def _leaves_alone(self, terms: Coefficients, entry: Entry, own: Slot) -> bool:
        touching = [stored for stored in terms if entry.name in stored.slots]
        return (
            touching == [self.donor] and terms[self.donor] == 1 and entry.dtype == own.entry.dtype
        )

    def _copy(
        self, shard: int, entry: Entry, variants: Sequence[int], own: Slot, others: Sequence[Slot]
    ) -> Copy:
        targets = tuple((variant * len(self.shards) + shard, entry.begin) for variant in variants)
        same_as = tuple(map(self._range, others))
        return Copy(entry.name, self._range(own), entry.size_bytes, targets, same_as)

    def _range(self, slot: Slot) -> Range:
        place = (self.files[slot.file], slot.entry)
        first = place not in self.digested
        self.digested.add(place)
        return Range(place[0], slot.entry.begin, slot.entry.dtype, digested=first)


def _check(variants: Sequence[Coefficients], donor: Stored) -> None:
    inputs = dict.fromkeys(stored for terms in variants for stored in terms)
    refuse_quantised([donor, *inputs])
    check_match(inputs, donor)


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
