"""Plans a merge: decides every output byte's place before any tensor is read.

From coefficients per input to flat lists of jobs. Several variants (other coefficients of the same
inputs) make one plan: it reads each input once, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tvmerge.dtype import parse_dtype
from tvmerge.errors import ConfigError
from tvmerge.jobs import ZERO, Combine, Copy, Job, Range, Result
from tvmerge.matching import check_match, refuse_quantised
from tvmerge.safetensors import FLOAT_DTYPES, Entry, layout
from tvmerge.stored import KIND_KEY, TASK_VECTOR, Stored

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
    return planner.plan(partial(planner.model_tensor, planner.inputs[donor]))


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


@dataclass(frozen=True, slots=True, eq=False)
class _Input:
    """An input as the planner sees it."""

    places: Mapping[str, tuple[int, Entry]]  # by tensor: the number of its file, and its entry
    coefficients: tuple[float | None, ...]  # by variant; None: it is no term of it


@dataclass(frozen=True, slots=True)
class _Sums:
    """What becomes of a tensor, as of all others that the same inputs hold."""

    alone: Sequence[int]  # the variants that leave it as it is
    touched: Sequence[int]  # all other variants
    sources: Sequence[_Input]
    coefficients: Sequence[tuple[float, ...]]  # by touched variant, by source


class _Planner:
    """Numbers the input files, and sees to it that each of their tensors is digested once.

    What does not differ from tensor to tensor is decided once: models have many small ones.
    """

    def __init__(
        self,
        variants: Sequence[Coefficients],
        donor: Stored,
        shards: tuple[OutShard, ...],
        *,
        also_read: Sequence[Stored],
    ) -> None:
        self.everywhere, self.shards = range(len(variants)), shards
        terms = summing_order(variants, donor)
        self.stored = tuple(dict.fromkeys((*also_read, *terms)))
        files = dict.fromkeys(file for stored in self.stored for file, _ in stored.shards)
        self.files = {file: number for number, file in enumerate(files)}
        self.digested: list[set[str]] = [set() for _ in files]  # names of tensors, by file
        self.inputs = {stored: self._input(stored, variants) for stored in self.stored}
        self.terms = [self.inputs[stored] for stored in terms]
        self._sums: dict[tuple[object, ...], _Sums] = {}

    def plan(self, tensor: Callable[[int, Entry], Iterator[Job]]) -> Plan:
        """The jobs that `tensor` gives for every entry of every shard."""
        jobs = [
            job
            for number, shard in enumerate(self.shards)
            for entry in shard.entries
            for job in tensor(number, entry)
        ]
        jobs += self._unread()
        return Plan(len(self.everywhere), self.shards, tuple(self.files), tuple(jobs))

    def model_tensor(self, donor: _Input, shard: int, entry: Entry) -> Iterator[Job]:
        """A tensor of a model: copied for the variants that leave it alone, combined for others."""
        holders = [term for term in self.terms if entry.name in term.places]
        if entry.dtype not in FLOAT_DTYPES:
            others = [term for term in holders if term is not donor]
            yield self._copy(shard, entry, self.everywhere, donor, others)
            return
        same_dtype = entry.dtype == donor.places[entry.name][1].dtype
        key = (same_dtype, *holders)
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = self._model_sums(donor, holders, same_dtype)
        if sums.alone:
            yield self._copy(shard, entry, sums.alone, donor, [])
        if sums.touched:
            yield self._combine(shard, entry, sums, reference=0)

    def vector_tensor(self, shard: int, entry: Entry) -> Iterator[Job]:
        """A tensor of a task vector: what it changes is counted from zero."""
        holders = [term for term in self.terms if entry.name in term.places]
        sums = self._sums.get(tuple(holders))
        if sums is None:
            sums = self._sums[tuple(holders)] = _sums([], self.everywhere, holders)
        yield self._combine(shard, entry, sums, ZERO)

    def _input(self, stored: Stored, variants: Sequence[Coefficients]) -> _Input:
        places = {
            entry.name: (number, entry)
            for number, header in ((self.files[file], header) for file, header in stored.shards)
            for entry in header.entries
        }
        return _Input(places, tuple(terms.get(stored) for terms in variants))

    def _model_sums(self, donor: _Input, holders: Sequence[_Input], same_dtype: bool) -> _Sums:
        alone = [v for v in self.everywhere if same_dtype and _leaves_alone(v, donor, holders)]
        touched = [v for v in self.everywhere if v not in alone]
        seen = [h for h in holders if any(h.coefficients[v] is not None for v in touched)]
        # The donor may have cancelled out, as in base + (tuned - base): it is then read all
        # the same, with coefficient 0, to see what changed.
        return _sums(alone, touched, [donor, *(one for one in seen if one is not donor)])

    def _combine(self, shard: int, entry: Entry, sums: _Sums, reference: int) -> Combine:
        shards = len(self.shards)
        results = tuple(
            [
                Result(variant * shards + shard, entry.begin, entry.dtype, reference, coefficients)
                for variant, coefficients in zip(sums.touched, sums.coefficients, strict=True)
            ]
        )
        sources = tuple([self._range(source.places[entry.name]) for source in sums.sources])
        return Combine(entry.name, sources, entry.elements, results)

    def _unread(self) -> Iterator[Copy]:
        """What no job has read (integers, when a vector is made) is read for the digests alone."""
        for stored in self.stored:
            for file, header in stored.shards:
                number = self.files[file]
                if len(self.digested[number]) == len(header.entries):
                    continue
                for entry in header.entries:
                    if entry.name not in self.digested[number]:
                        whole = self._range((number, entry))
                        yield Copy(entry.name, whole, entry.size_bytes, (), ())

    def _copy(
        self,
        shard: int,
        entry: Entry,
        variants: Sequence[int],
        donor: _Input,
        others: Sequence[_Input],
    ) -> Copy:
        targets = tuple((variant * len(self.shards) + shard, entry.begin) for variant in variants)
        own = self._range(donor.places[entry.name])
        same_as = tuple(self._range(other.places[entry.name]) for other in others)
        return Copy(entry.name, own, entry.size_bytes, targets, same_as)

    def _range(self, place: tuple[int, Entry]) -> Range:
        number, entry = place
        digested = self.digested[number]
        first = entry.name not in digested
        digested.add(entry.name)
        return Range(number, entry.begin, entry.dtype, first)


def _leaves_alone(variant: int, donor: _Input, holders: Sequence[_Input]) -> bool:
    touching = [holder for holder in holders if holder.coefficients[variant] is not None]
    return touching == [donor] and donor.coefficients[variant] == 1


def _sums(alone: Sequence[int], touched: Sequence[int], sources: Sequence[_Input]) -> _Sums:
    coefficients = [tuple(source.coefficients[v] or 0.0 for source in sources) for v in touched]
    return _Sums(alone, touched, sources, coefficients)


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
    # Data that keeps its dtypes lies in blocks as the donor's does: what is only copied can then
    # share them. That depends on the donor alone: the same bytes on every file system.
    kept = all(new == entry.dtype for entry, (_, new, _) in zip(entries, wanted, strict=True))
    start = entries[0].begin if entries and kept else None
    head, placed, size = layout(wanted, metadata, like_start=start)
    return OutShard(name, head, size, tuple(placed))
