"""Approximates a task vector by a LoRA adapter: of every matrix its largest singular values.

    delta ~ B @ A,  B = U sqrt(S), A = sqrt(S) V^T       U, S, V: the first `rank` of the SVD

The best approximation of that rank in the Frobenius norm (Eckart and Young, 1936). Matrices much
larger than the rank are first projected onto the range of delta times a random matrix, refined by
power iterations (Halko et al., arXiv 0909.4061, algorithm 4.4); what is then reported as kept is
what is kept. Loaded when it is asked for: it needs numpy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmerge import _core
from tvmerge.algebra.operands import Checkpoint, TaskVector
from tvmerge.checkpoints.matching import check_match, refuse_quantised
from tvmerge.checkpoints.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TURNED, Slot, read_config
from tvmerge.engine.edit import total
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import (
    ConfigError,
    MismatchError,
    NothingChangedError,
    storage_errors,
)
from tvmerge.files.safetensors import FLOAT_DTYPES, Entry, layout
from tvmerge.files.untrusted import open_regular_file, read_exactly
from tvmerge.inputs.adapter import PREFIX
from tvmerge.inputs.packing import edit_of
from tvmerge.merging.output import check_destination
from tvmerge.merging.unbatched import save_unbatched
from tvmerge.merging.unfinished import Unfinished
from tvmerge.plans.outcome import COMBINED, TensorOutcome
from tvmerge.plans.shards import OutShard
from tvmerge.receipts.receipt import VECTOR, Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

_WEIGHT = ".weight"
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "wpe")
_OVERSAMPLED = 16
_POWER_ITERATIONS = 4
_MUCH_LARGER = 4
_SEED = 0
_BLOCK_ELEMENTS = 2**16


@dataclass(frozen=True, slots=True)
class Extracted:
    """What became of one tensor's delta: `norm_sq` its squared norm, `kept_sq` what is kept."""

    name: str
    action: str  # "product", "saved whole" or "left out"
    rank: int
    norm_sq: float
    kept_sq: float


@dataclass(frozen=True, slots=True)
class Extraction:
    """What an adapter holds of a task vector; tensors that did not change are not listed."""

    out: Path
    tensors: tuple[Extracted, ...]

    @property
    def kept_share(self) -> float:
        """The share of the squared norm that is kept, 0 to 1."""
        whole = sum(one.norm_sq for one in self.tensors)
        return sum(one.kept_sq for one in self.tensors) / whole


def extract(
    vector: TaskVector,
    base: Checkpoint,
    out: str | os.PathLike[str],
    *,
    rank: int,
    options: RunOptions | None = None,
) -> Extraction:
    """Write the new folder `out`: an adapter of `base`, of `rank` or less for each matrix.

    Its receipt says of every tensor that changed how near the adapter comes to it.

    Matrices called `*.weight` become products, vectors called so (norms) are saved whole, anything
    else that changed is left out and listed. Raises NothingChangedError where nothing changed,
    OutputError where `out` is not free, MismatchError where the inputs do not fit or `base` keeps
    its linear layers transposed (GPT-2), StorageError where the disk fails.
    """
    if rank < 1:
        raise ConfigError(f"rank {rank}: expected at least 1")
    # A matrix and all factors are in memory: no limit could be kept.
    target, options = Path(out), replace(options or RunOptions(), memory_mib=None)
    inputs = (base.donor, *vector.coefficients)
    check_destination(target, inputs)
    refuse_quantised(inputs)
    check_match(inputs, base.donor)
    kind = read_config(base.donor.folder).get("model_type")
    if kind in TURNED:
        raise MismatchError(
            f"{base.donor.source}: {kind} keeps its linear layers as (inputs, outputs), of which "
            "adapters are not written. Store the whole vector"
        )
    made = _Adapter(vector, base, rank, options)
    entries = [slot.entry for slot in base.donor.slots.values()]
    whole, done = sum(entry.elements for entry in entries), 0
    for entry in entries:
        made.add(entry)
        done += entry.elements
        if options.progress is not None:
            options.progress(4 * done, 4 * whole)  # bytes of float32
    if not made.found:
        raise NothingChangedError(
            f"{out}: the task vector is zero everywhere: the checkpoints are the same. "
            "Was the fine-tune saved under another name?"
        )
    made.save(target)
    return Extraction(target, tuple(made.found))


class _Adapter:
    """The adapter as it grows: its tensors by name, the modules in its config."""

    def __init__(
        self, vector: TaskVector, base: Checkpoint, rank: int, options: RunOptions
    ) -> None:
        self.vector, self.base, self.rank, self.options = vector, base, rank, options
        self.tensors: dict[str, Matrix] = {}
        self.found: list[Extracted] = []
        self.outcomes: list[TensorOutcome] = []
        self.ranks: dict[str, int] = {}
        self.saved: list[str] = []

    def add(self, entry: Entry) -> None:
        if entry.dtype not in FLOAT_DTYPES:
            return
        delta = self._sum(entry, dict(self.vector.coefficients))
        norm_sq = float(np.vdot(delta, delta))
        if norm_sq == 0:
            return
        module = entry.name.removesuffix(_WEIGHT)
        action, rank, kept_sq = "left out", 0, 0.0
        held = np.zeros_like(delta)
        if module != entry.name and len(entry.shape) == 2:
            action = "product"
            rank = self.ranks[module] = min(self.rank, *entry.shape)
            held, kept_sq = self._factorise(module, delta, rank)
        elif module != entry.name and len(entry.shape) == 1:
            action, held, kept_sq = "saved whole", delta, norm_sq
            terms = dict(self.vector.coefficients)
            terms[self.base.donor] = terms.get(self.base.donor, 0.0) + 1
            self.tensors[PREFIX + entry.name] = self._sum(entry, terms)
            self.saved.append(module)
        self.found.append(Extracted(entry.name, action, rank, norm_sq, kept_sq))
        edit = total(
            edit_of(exact, kept)
            for exact, kept in zip(_in_blocks(delta), _in_blocks(held), strict=True)
        )
        self.outcomes.append(
            TensorOutcome(entry.name, "F32", entry.elements, COMBINED, action, edit)
        )

    def _factorise(self, module: str, delta: Matrix, rank: int) -> tuple[Matrix, float]:
        """B @ A, which become tensors, and its squared norm."""
        embedding = module.rpartition(".")[2] in _EMBEDDINGS
        b, a, kept_sq = low_rank(delta.T if embedding else delta, rank)
        for factor, matrix in (("A", a), ("B", b)):
            name = f"lora_embedding_{factor}" if embedding else f"lora_{factor}{_WEIGHT}"
            self.tensors[f"{PREFIX}{module}.{name}"] = matrix
        return ((b @ a).T if embedding else b @ a), kept_sq

    def _sum(self, entry: Entry, terms: dict[Any, float]) -> Matrix:
        """A tensor as a sum of the inputs', in float32."""
        out = np.zeros(entry.shape, np.float32)
        held = [(stored.slots.get(entry.name), c) for stored, c in terms.items() if c]
        read = [(_bytes(slot), slot.entry.dtype, c) for slot, c in held if slot is not None]
        _core.combine_tensors(
            [(data.ctypes.data, dtype, c) for data, dtype, c in read],
            (out.ctypes.data, "F32"),
            entry.elements,
            threads=self.options.thread_count(),
        )
        return out

    def save(self, target: Path) -> None:
        """Write the adapter's folder."""
        shapes: Sequence[tuple[str, str, tuple[int, ...]]] = [
            (name, "F32", tensor.shape) for name, tensor in self.tensors.items()
        ]
        head, entries, size_bytes = layout(shapes, {"format": "pt"})

        def write(work: Unfinished) -> Sequence[TensorOutcome]:
            with storage_errors(target):
                with work.part(ADAPTER_WEIGHTS[0]).open("wb") as file:
                    file.seek(len(head))
                    for tensor in self.tensors.values():
                        file.write(np.ascontiguousarray(tensor).data)
                config = json.dumps(self.config(), indent=2, sort_keys=True) + "\n"
                (work.folder / ADAPTER_CONFIG).write_text(config)
            return self.outcomes

        donor = self.base.donor
        terms = dict(self.vector.coefficients)
        terms.setdefault(donor, 0.0)
        save_unbatched(
            target,
            Recipe(kind=VECTOR, donor=list(terms).index(donor), form=f"rank={self.rank}"),
            terms,
            [OutShard(ADAPTER_WEIGHTS[0], head, size_bytes, tuple(entries))],
            write,
            self.options,
        )

    def config(self) -> dict[str, Any]:
        """What adapter_config.json says; every scale is 1."""
        smaller = {module: rank for module, rank in self.ranks.items() if rank < self.rank}
        return {
            "peft_type": "LORA",
            "base_model_name_or_path": os.fspath(self.base.donor.given),
            "r": self.rank,
            "lora_alpha": self.rank,
            "rank_pattern": smaller,
            "alpha_pattern": smaller,
            "target_modules": list(self.ranks),
            "modules_to_save": self.saved or None,
            "bias": "none",
            "lora_dropout": 0.0,
            "inference_mode": True,
            "task_type": "CAUSAL_LM",
        }


def low_rank(matrix: Matrix, rank: int) -> tuple[Matrix, Matrix, float]:
    """B (rows, rank), A (rank, columns) and the squared norm of B @ A, nearest to `matrix`."""
    wide = np.ascontiguousarray(matrix)
    width = rank + _OVERSAMPLED
    basis = None
    if _MUCH_LARGER * width < min(wide.shape):
        generator = np.random.default_rng(_SEED)
        basis = wide @ generator.standard_normal((wide.shape[1], width)).astype(np.float32)
        for _ in range(_POWER_ITERATIONS):
            basis = np.linalg.qr(basis)[0]
            basis = wide @ np.linalg.qr(wide.T @ basis)[0]
        basis = np.linalg.qr(basis)[0]
    left, values, right = np.linalg.svd(
        wide if basis is None else basis.T @ wide, full_matrices=False
    )
    if basis is not None:
        left = basis @ left
    roots = np.sqrt(values[:rank])
    b = (left[:, :rank] * roots).astype(np.float32)
    a = (roots[:, None] * right[:rank]).astype(np.float32)
    return b, a, float(np.sum(values[:rank].astype(np.float64) ** 2))


def _bytes(slot: Slot) -> NDArray[np.uint8]:
    with storage_errors(slot.file, doing="read"), open_regular_file(slot.file) as file:
        file.seek(slot.entry.begin)
        return np.frombuffer(read_exactly(file, slot.entry.size_bytes), np.uint8)


def _in_blocks(tensor: Matrix) -> list[Matrix]:
    """Its elements, some at a time: sums of squares are in float64."""
    flat = tensor.reshape(-1)
    return [flat[start : start + _BLOCK_ELEMENTS] for start in range(0, len(flat), _BLOCK_ELEMENTS)]
