"""The study's models as expressions over checkpoints: each is one pass of the engine.

Plain (the proposal as written): tau_t = have_t - base, edits start from the base.
Contrastive: tau_t = have_t - lack_t, in which what both poles teach (form, topic) cancels; edits
start from F = base + mean over traits of the having and lacking vectors: a base that knows the
answer format, so that a loss of format cannot pass for a loss of the trait.
"""

from __future__ import annotations

import functools
import hashlib
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmerge import Checkpoint, TaskVector, cosines, gram
from tvmerge.errors import NothingChangedError
from tvmerge.stored import KIND_KEY, TASK_VECTOR
from tvmerge.training.config import Kind
from tvmerge.training.results import VectorSet


@dataclass(frozen=True, slots=True)
class StudyVectors:
    """Base and fine-tunes of one study, and every model that is made of them."""

    base: Checkpoint
    have: Mapping[str, Checkpoint]
    lack: Mapping[str, Checkpoint]
    traits: Sequence[str]
    unrelated: str

    def vector(self, kind: Kind, trait: str) -> TaskVector:
        """The task vector of one trait."""
        origin = self.base if kind == "plain" else self.lack[trait]
        vector: TaskVector = self.have[trait] - origin
        return vector

    def start(self, kind: Kind) -> Checkpoint:
        """The model that the kind's edits are subtracted from."""
        if kind == "plain":
            return self.base
        learned = [
            poles[trait] - self.base for trait in self.traits for poles in (self.have, self.lack)
        ]
        return self.base + _total(learned) / len(learned)

    def all_traits(self, kind: Kind) -> TaskVector:
        """The sum of the traits' vectors."""
        return _total([self.vector(kind, trait) for trait in self.traits])

    def negated(self, kind: Kind, scale: float) -> Checkpoint:
        """All traits subtracted at once: start - scale * sum_t tau_t."""
        negated: Checkpoint = self.start(kind) - scale * self.all_traits(kind)
        return negated

    def control(self, kind: Kind, vector: TaskVector, *, norm: float) -> Checkpoint:
        """The same start minus another vector, brought to the norm of the edit it stands beside."""
        own = math.sqrt(gram([vector])[0][0])
        if own == 0:
            raise NothingChangedError(f"the control vector {vector!r} is zero")
        model: Checkpoint = self.start(kind) - (norm / own) * vector
        return model

    def geometry(self, kind: Kind) -> tuple[VectorSet, float]:
        """Norms and cosines of the kind's vectors, and the norm of their sum over the traits."""
        names = (*self.traits, self.unrelated)
        products = gram([self.vector(kind, trait) for trait in names])
        count = len(self.traits)
        joint = sum(products[i][j] for i in range(count) for j in range(count))
        vectors = VectorSet(
            kind=kind,
            names=names,
            norms=tuple(math.sqrt(products[i][i]) for i in range(len(names))),
            cosines=tuple(map(tuple, cosines(products))),
        )
        return vectors, math.sqrt(max(joint, 0.0))


def write_random_vector(like: Path, out: Path, *, seed: int) -> None:
    """Store a Gaussian vector whose norm in every tensor is that of the stored vector `like`.

    One tensor is in memory at a time per shard; a tensor's numbers depend on the seed and its name.
    """
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file

    out.mkdir(parents=True)
    for file in sorted(like.glob("*.safetensors")):
        drawn = {}
        with safe_open(file, framework="numpy") as held:
            for name in held.keys():  # noqa: SIM118 (not a mapping)
                tensor = held.get_tensor(name)
                key = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
                noise = np.random.default_rng(list(key)).standard_normal(
                    tensor.shape, dtype=np.float32
                )
                size = float(np.linalg.norm(noise.astype(np.float64)))
                wanted = float(np.linalg.norm(tensor.astype(np.float64)))
                drawn[name] = noise * np.float32(wanted / size if size else 0.0)
        save_file(drawn, out / file.name, metadata={"format": "pt", KIND_KEY: TASK_VECTOR})
    for index in like.glob("*.index.json"):
        (out / index.name).write_bytes(index.read_bytes())


def _total(vectors: Sequence[TaskVector]) -> TaskVector:
    return functools.reduce(operator.add, vectors)
