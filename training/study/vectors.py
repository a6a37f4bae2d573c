"""The study's models as expressions over checkpoints: each is one pass of the engine.

Plain (the proposal as written): tau_t = have_t - base, edits start from the base.
Contrastive: tau_t = have_t - lack_t, in which what both poles teach (form, topic) cancels; edits
start from F = base + mean over traits of the having and lacking vectors: a base that knows the
answer format, so that a loss of format cannot pass for a loss of the trait. Orthogonal: without
their projections on the control traits' contrastive vectors. Searched: each times a scale of its
own. Layerwise: each times a scale that grows with the depth of the layer. NegMerge: what the merge
method of this name makes of the contrastive vectors of several fine-tunes of a trait. Trimmed and
TIES: the same of those of all traits. Each of these is stored once. Replayed: contrastive, from
fine-tunes of their own in which both poles saw the same control items.
Direct kinds: one fine-tune away from all traits; what is removed is base - tuned.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import operator
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvmerge import Checkpoint, TaskVector, cosines, gram
from tvmerge.errors import NothingChangedError
from tvmerge.recipe import build, parse_recipe
from tvmerge.training.results.results import VectorSet
from tvmerge.training.settings.kind_sections import LayersConfig
from tvmerge.training.settings.kinds import BASE, KINDS, Kind, start_of

# The kinds whose sum over the traits is a merge method's work, as recipes say it.
METHODS: Mapping[Kind, Mapping[str, object]] = {
    "trimmed": {"merge_method": "breadcrumbs", "parameters": {"density": 0.2, "gamma": 0.0}},
    "ties": {"merge_method": "ties", "parameters": {"density": 0.2, "normalize": False}},
}
NEGMERGE: Mapping[str, object] = {"merge_method": "negmerge"}
# The kinds whose unrelated vector is made as theirs are; of the others it is contrastive.
OWN_UNRELATED: tuple[Kind, ...] = ("plain", "negmerge", "layerwise", "replayed")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyVectors:
    """Base and fine-tunes of one seed of a study, and every model that is made of them.

    `variants` are the fine-tunes, having and lacking, whose vectors NegMerge merges; `direct` holds
    those of the direct kinds; `folder` keeps what is no sum of vectors.
    """

    base: Checkpoint
    have: Mapping[str, Checkpoint]
    lack: Mapping[str, Checkpoint]
    direct: Mapping[Kind, Checkpoint]
    traits: Sequence[str]
    controls: Sequence[str]
    unrelated: str
    folder: Path
    variants: Mapping[str, Sequence[tuple[Checkpoint, Checkpoint]]] = field(default_factory=dict)
    # The fine-tunes to have and to lack each trait that saw control items too.
    replayed: Mapping[str, tuple[Checkpoint, Checkpoint]] = field(default_factory=dict)
    # The scales that a search found, for each trait.
    searched: Mapping[str, float] = field(default_factory=dict)
    layers: LayersConfig = field(default_factory=LayersConfig)

    def vector(self, kind: Kind, trait: str) -> TaskVector:
        """The task vector of one trait; a kind that has none for each trait raises KeyError."""
        if kind == "plain":
            return self._difference(self.have[trait], self.base)
        if kind == "replayed":
            return self._difference(*self.replayed[trait])
        contrast = self._difference(self.have[trait], self.lack[trait])
        if kind == "contrastive":
            return contrast
        if kind == "searched":
            weighted: TaskVector = self.searched[trait] * contrast
            return weighted
        if kind == "orthogonal":
            return self._orthogonalised(contrast)
        if kind == "negmerge":
            contrasts = [self._difference(have, lack) for have, lack in self.variants[trait]]
            return self._merged(f"negmerge.{trait}", NEGMERGE, contrasts)
        if kind == "layerwise":
            return self._layerwise(trait)
        raise KeyError(f"{kind} vectors are made of all traits at once")

    def start(self, kind: Kind) -> Checkpoint:
        """The model that the kind's edits are subtracted from."""
        if start_of(kind) == BASE:
            return self.base
        learned = [
            poles[trait] - self.base for trait in self.traits for poles in (self.have, self.lack)
        ]
        return self.base + _total(learned) / len(learned)

    def removed(self, kind: Kind, traits: Sequence[str] | None = None) -> TaskVector:
        """What is subtracted at scale 1: the sum of the traits' vectors, of all unless told."""
        if KINDS[kind].direct:
            return self._difference(self.base, self.direct[kind])
        if kind in METHODS:
            contrasts = [self.vector("contrastive", trait) for trait in self.traits]
            return self._merged(kind, METHODS[kind], contrasts)
        return _total([self.vector(kind, trait) for trait in traits or self.traits])

    def negated(self, kind: Kind, scale: float, traits: Sequence[str] | None = None) -> Checkpoint:
        """The traits subtracted at once: start - scale * sum_t tau_t."""
        negated: Checkpoint = self.start(kind) - scale * self.removed(kind, traits)
        return negated

    def together(self, traits: Sequence[str]) -> Checkpoint:
        """All the traits at once in one model: base + sum_t (have_t - base)."""
        together: Checkpoint = self.base + _total([self.vector("plain", t) for t in traits])
        return together

    def unrelated_vector(self, kind: Kind) -> TaskVector:
        """The unrelated trait's vector of the same make."""
        if KINDS[kind].direct:
            return self._difference(self.base, self.lack[self.unrelated])
        return self.vector(kind if kind in OWN_UNRELATED else "contrastive", self.unrelated)

    def control(self, kind: Kind, vector: TaskVector, *, norm: float) -> Checkpoint:
        """The same start minus another vector, brought to the norm of the edit it stands beside."""
        own = norm_of(vector)
        if own == 0:
            raise NothingChangedError(f"the control vector {vector!r} is zero")
        model: Checkpoint = self.start(kind) - (norm / own) * vector
        return model

    def geometry(self, kind: Kind) -> VectorSet | None:
        """Norms and cosines of the kind's vectors; None where they are not one for each trait."""
        if not KINDS[kind].by_trait:
            return None
        names = (*self.traits, self.unrelated)
        vectors = [self.vector(kind, trait) for trait in self.traits]
        products = gram([*vectors, self.unrelated_vector(kind)])
        return VectorSet(
            kind=kind,
            names=names,
            norms=tuple(math.sqrt(products[i][i]) for i in range(len(names))),
            cosines=tuple(map(tuple, cosines(products))),
        )

    @staticmethod
    def _difference(one: Checkpoint, other: Checkpoint) -> TaskVector:
        vector: TaskVector = one - other
        return vector

    def _orthogonalised(self, vector: TaskVector) -> TaskVector:
        """Without its least-squares projection on the span of the controls' vectors."""
        import numpy as np

        against = [self.vector("contrastive", name) for name in (*self.controls, self.unrelated)]
        products = np.array(gram([vector, *against]))
        shares = np.linalg.lstsq(products[1:, 1:], products[1:, 0], rcond=None)[0].tolist()
        rest: TaskVector = vector - _total(
            [share * one for share, one in zip(shares, against, strict=True)]
        )
        return rest

    def _layerwise(self, trait: str) -> TaskVector:
        """The contrastive vector as LiNeS scales it, stored under a hash of its inputs."""
        first, last = self.layers.first, self.layers.last
        said = {"merge_method": "lines", "parameters": {"alpha": first, "beta": last - first}}
        contrast = self.vector("contrastive", trait)
        out = self.folder / f"layerwise.{trait}-{inputs_key([contrast], said)}"
        if not out.exists():
            poles = {self.have[trait].donor.folder: 1, self.lack[trait].donor.folder: -1}
            self._build(out, said, poles)
        return self._difference(Checkpoint(out), self.base)

    def _merged(
        self, name: str, method: Mapping[str, object], vectors: Sequence[TaskVector]
    ) -> TaskVector:
        """The merge method's sum, stored as a float32 checkpoint under a hash of its inputs."""
        out = self.folder / f"{name}.merged-{inputs_key(vectors, method)}"
        # The methods take vectors of one base: each is put on it for as long as they run.
        moved = [self.folder / f".{out.name}.{number}" for number in range(len(vectors))]
        if not out.exists():
            for vector, path in zip(vectors, moved, strict=True):
                if not path.exists():  # whole, left by a run that was killed
                    (self.base + vector).save(path, dtype="F32", restart=True)
            self._build(out, method, dict.fromkeys(moved, 1))
        for path in moved:  # a run that was killed may have left them
            shutil.rmtree(path, ignore_errors=True)
        return self._difference(Checkpoint(out), self.base)

    def _build(self, out: Path, said: Mapping[str, object], weights: Mapping[Path, int]) -> None:
        """Store what a merge method makes of models on the base, as float32."""
        base = str(self.base.donor.folder)
        models = [{"model": str(m), "parameters": {"weight": w}} for m, w in weights.items()]
        text = json.dumps({**said, "base_model": base, "models": models})
        build(parse_recipe(out, text.encode())).save(out, dtype="F32", restart=True)


def norm_of(vector: TaskVector) -> float:
    """The vector's Euclidean norm over all tensors."""
    return math.sqrt(max(gram([vector])[0][0], 0.0))


def inputs_key(vectors: Sequence[TaskVector], *more: object) -> str:
    """A short hash of what the vectors are made of; fine-tunes carry their own hash in their name.

    `more` is anything else that decides the result.
    """
    said = [
        sorted((s.source.name, c.hex()) for s, c in one.coefficients.items()) for one in vectors
    ]
    text = json.dumps([said, *more], default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _total(vectors: Sequence[TaskVector]) -> TaskVector:
    return functools.reduce(operator.add, vectors)
