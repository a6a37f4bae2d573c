"""Plans a merge: decides every output byte's place before any tensor is read.

From the sum that each tensor is (rows.py) to flat lists of jobs. Several variants (other
coefficients of the same inputs) make one plan: it reads each input once, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmerge.checkpoints.matching import check_match, refuse_quantised
from tvmerge.checkpoints.stored import KIND_KEY, TASK_VECTOR, Stored
from tvmerge.engine.jobs import ZERO, Beside, Combine, Copy, Job, Range, Result
from tvmerge.errors import ConfigError
from tvmerge.files.dtype import parse_dtype
from tvmerge.files.safetensors import FLOAT_DTYPES, Entry
from tvmerge.plans.rows import Place, Row, Rows, Weights, model_rows, summing_order, vector_rows
from tvmerge.plans.shards import OutFile, as_in, cut_anew, lay_out, model_stem
from tvmerge.plans.shards import OutShard as OutShard
from tvmerge.plans.sums import Coefficients, TensorSums, Weighting, inputs_of


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
    # Whose files they are: what an adapter adds is kept for as long as somebody refers to it.
    stored: tuple[Stored, ...] = ()

    @property
    def output_bytes(self) -> int:
        """The size of all files to be written."""
        return self.variants * sum(shard.size_bytes for shard in self.shards)

    def variant(self, output: int) -> int:
        """The variant that an output file belongs to."""
        return output // len(self.shards)


def plan_checkpoint(
    variants: Sequence[Weighting], donor: Stored, *, dtype: str | None = None
) -> Plan:
    """Plan models: donor's shards and names, its dtypes unless `dtype` is given.

    A sum for each tensor brings its own names, shapes and dtypes; where they are not the donor's,
    shards are cut anew. Integer and boolean tensors are copied, as are tensors that nothing
    touches. Raises ConfigError where no weights would be left, MismatchError where inputs do not
    fit.
    """
    for weighting in variants:
        if all(stored.is_task_vector for stored in inputs_of(weighting)):
            raise ConfigError("the checkpoints' coefficients cancel out: no weights would be left")
    _check(variants, donor)
    code = parse_dtype(dtype) if dtype is not None else None
    shards = lay_out(_model_files(variants[0], donor, code), {"format": "pt"})
    # Read for its digests, unless it is a stage's donor, and has been read for that one.
    inputs = (stored for weighting in variants for stored in inputs_of(weighting))
    unread = () if any(donor in one.leaves and donor != one for one in inputs) else (donor,)
    planner = _Planner(variants, donor, shards, also_read=unread)
    return planner.plan(planner.model_tensor, model_rows(variants, donor, planner.places))


def plan_vector(
    variants: Sequence[Coefficients], donor: Stored, *, dtype: str | None = None
) -> Plan:
    """Plan stored task vectors: every floating-point tensor of the donor, in float32."""
    _check(variants, donor)
    code = parse_dtype(dtype or "F32")
    files = [
        as_in("vector", [entry for entry in header.entries if entry.dtype in FLOAT_DTYPES], code)
        for _, header in donor.shards
    ]
    metadata = {"format": "pt", KIND_KEY: TASK_VECTOR}
    # A donor that has cancelled out, as in (a - base) - (b - base), gives only the layout, and is
    # read for its digests.
    shards = lay_out(files, metadata)
    planner = _Planner(variants, donor, shards, also_read=(donor,))
    return planner.plan(planner.vector_tensor, vector_rows(variants, donor, planner.places))


def _model_files(weighting: Weighting, donor: Stored, dtype: str | None) -> list[OutFile]:
    """What lies in each of a model's files."""
    own = [(model_stem(donor, file), header.entries) for file, header in donor.shards]
    if not isinstance(weighting, TensorSums):
        return [as_in(stem, entries, dtype) for stem, entries in own]
    like = {
        tensor.name: tensor.like.slot.entry._replace(name=tensor.name)
        for tensor in weighting.tensors
    }
    if like.keys() == donor.slots.keys():
        return [as_in(stem, held, dtype, like=[like[e.name] for e in held]) for stem, held in own]
    return cut_anew(like.values(), dtype, donor)


@dataclass(frozen=True, slots=True)
class _Share:
    """What becomes of a tensor, as of all others whose sources have the same weights."""

    alone: Sequence[int]  # the variants that leave it as it is
    touched: Sequence[int]  # all other variants
    sources: Sequence[int]  # the numbers of those that are read for them
    coefficients: Sequence[tuple[float, ...]]  # by touched variant, by source


class _Planner:
    """Numbers the input files, and sees to it that each of their tensors is digested once.

    What does not differ from tensor to tensor is decided once: models have many small ones.
    """

    def __init__(
        self,
        variants: Sequence[Weighting],
        donor: Stored,
        shards: tuple[OutShard, ...],
        *,
        also_read: Sequence[Stored],
    ) -> None:
        self.everywhere, self.shards = range(len(variants)), shards
        self.stored = tuple(dict.fromkeys((*also_read, *summing_order(variants, donor))))
        files = dict.fromkeys(file for stored in self.stored for file, _ in stored.shards)
        self.files = {file: number for number, file in enumerate(files)}
        # Places of tensors, by file: in a file of torch several may be one.
        self.digested: list[set[tuple[int, int]]] = [set() for _ in files]
        self.places = {stored: self._places(stored) for stored in self.stored}
        self._shares: dict[tuple[Weights, bool], _Share] = {}

    def plan(self, tensor: Callable[[int, Entry, Row], Iterator[Job]], rows: Rows) -> Plan:
        """The jobs that `tensor` gives for every entry of every shard."""
        jobs = [
            job
            for number, shard in enumerate(self.shards)
            for entry in shard.entries
            for job in tensor(number, entry, rows(entry.name))
        ]
        jobs += self._unread()
        files = tuple(self.files)
        return Plan(len(self.everywhere), self.shards, files, tuple(jobs), self.stored)

    def model_tensor(self, shard: int, entry: Entry, row: Row) -> Iterator[Job]:
        """A tensor of a model: copied for the variants that leave it alone, combined for others."""
        sources = row.sources
        if entry.dtype not in FLOAT_DTYPES:
            yield self._copy(shard, entry, self.everywhere, sources[0], sources[1:])
            return
        # A decision's sources all have weights: none is left out, none is copied.
        key = (row.weights, entry.dtype == sources[0][1].dtype)
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = self._share(*key)
        if share.alone:
            yield self._copy(shard, entry, share.alone, sources[0], ())
        if share.touched:
            yield self._combine(shard, entry, row, share, reference=0)

    def vector_tensor(self, shard: int, entry: Entry, row: Row) -> Iterator[Job]:
        """A tensor of a task vector: what it changes is counted from zero."""
        share = _Share((), self.everywhere, range(len(row.sources)), row.weights)
        yield self._combine(shard, entry, row, share, ZERO)

    def _places(self, stored: Stored) -> dict[str, Place]:
        return {
            entry.name: (number, entry)
            for number, header in ((self.files[file], header) for file, header in stored.shards)
            for entry in header.entries
        }

    def _share(self, weights: Weights, same_dtype: bool) -> _Share:
        alone = [v for v in self.everywhere if same_dtype and _is_first_alone(weights[v])]
        touched = [v for v in self.everywhere if v not in alone]
        # The first may have cancelled out, as in base + (tuned - base): it is then read all
        # the same, with coefficient 0, to see what changed.
        seen = [
            number
            for number in range(len(weights[0]))
            if number == 0 or any(weights[v][number] for v in touched)
        ]
        return _Share(alone, touched, seen, [tuple(weights[v][n] for n in seen) for v in touched])

    def _combine(
        self, shard: int, entry: Entry, row: Row, share: _Share, reference: int
    ) -> Combine:
        shards = len(self.shards)
        results = tuple(
            [
                Result(
                    variant * shards + shard,
                    entry.begin,
                    entry.dtype,
                    reference,
                    coefficients,
                    row.decisions[variant] if row.decisions else None,
                )
                for variant, coefficients in zip(share.touched, share.coefficients, strict=True)
            ]
        )
        sources = tuple([self._range(row.sources[number]) for number in share.sources])
        # Measured, not summed: no job of the engine's would digest it.
        beside = tuple(
            [
                Beside(Range(number, one.begin, one.dtype, digested=False), one.elements)
                for number, one in row.beside
            ]
        )
        return Combine(entry.name, sources, entry.elements, results, beside)

    def _unread(self) -> Iterator[Copy]:
        """What no job has digested (of a vector, integers) is read for the digests alone."""
        for stored in self.stored:
            for file, header in stored.shards:
                number = self.files[file]
                if len(self.digested[number]) == len(header.entries):
                    continue
                for entry in header.entries:
                    if (entry.begin, entry.end) not in self.digested[number]:
                        whole = self._range((number, entry))
                        yield Copy(entry.name, whole, entry.size_bytes, (), ())

    def _copy(
        self,
        shard: int,
        entry: Entry,
        variants: Sequence[int],
        own: Place,
        others: Sequence[Place],
    ) -> Copy:
        targets = tuple((variant * len(self.shards) + shard, entry.begin) for variant in variants)
        source = self._range(own)
        same_as = tuple(map(self._range, others))
        return Copy(entry.name, source, entry.size_bytes, targets, same_as)

    def _range(self, place: Place) -> Range:
        number, entry = place
        digested = self.digested[number]
        first = (entry.begin, entry.end) not in digested
        digested.add((entry.begin, entry.end))
        return Range(number, entry.begin, entry.dtype, first)


def _is_first_alone(weights: Sequence[float]) -> bool:
    return weights[0] == 1 and not any(weights[1:])


def _check(variants: Sequence[Weighting], donor: Stored) -> None:
    inputs = dict.fromkeys(stored for terms in variants for stored in inputs_of(terms))
    refuse_quantised([donor, *inputs])
    if not isinstance(variants[0], TensorSums):  # whose tensors were found one by one
        check_match(inputs, donor)
