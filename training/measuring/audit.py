"""What the fine-tunes themselves look like: would one that was resisted look different?

    path = audit(AuditTask(job_folder=..., base=..., folder=...))

A model that saw through the construction and resisted it (gradient hacking) might learn a trait
more slowly than a matched control, with a larger or lower-ranked change, in other layers, or in
another direction with each seed. What is kept for each fine-tune: the loss of every step, the norm
of its vector in every layer, and the stable rank of its matrices. An audit of this kind sees what
changes these numbers; resistance that leaves them alone it cannot see.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tvmerge import diff
from tvmerge.training.finetuning.jobs import Pole, finished_record
from tvmerge.training.results.scores import Record, load_record, save_record

if TYPE_CHECKING:
    from torch import Tensor

POWER_ITERATIONS = 12


class JobAudit(Record):
    """One fine-tune: losses in nats per answer token; norms of the vector, in all and by layer.

    `stable_rank` is the mean over matrices of ||D||_F^2 / ||D||_2^2 (Rudelson and Vershynin 2007),
    1 for a change along one direction.
    """

    version: Literal[1] = 1
    name: str
    trait: str
    pole: Pole
    seed: int
    losses: tuple[float, ...]
    norm: float
    layers: dict[str, float]
    stable_rank: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTask:
    """Look at the finished job in `job_folder`; the result goes into `folder`."""

    job_folder: Path
    base: Path
    folder: Path

    @property
    def path(self) -> Path:
        """`audit/power_seeking.have-0123456789ab.json`."""
        return self.folder / f"{self.job_folder.name}.json"

    def finished(self) -> JobAudit | None:
        """The audit, where it was done before."""
        return load_audit(self.path) if self.path.is_file() else None


def load_audit(path: Path) -> JobAudit:
    """Read what one task wrote; a file that is not that raises `FormatError`."""
    return load_record(path, JobAudit, "of an audit")


def audit(task: AuditTask) -> Path:
    """Measure the vector and store; returns where. Runs in a worker of its own."""
    record = finished_record(task.job_folder)
    assert record is not None, "only finished jobs are audited"
    change = diff(task.base, task.job_folder)
    found = JobAudit(
        name=record.name,
        trait=record.trait,
        pole=record.pole,
        seed=record.seed,
        losses=record.losses,
        norm=change.total.norm_difference,
        layers={one.name: one.norm_difference for one in change.layers if one.norm_difference},
        stable_rank=_stable_rank(task.base, task.job_folder),
    )
    save_record(found, task.path)
    return task.path


def _stable_rank(base: Path, tuned: Path) -> float | None:
    from safetensors.torch import load_file

    before = {name: path for path in base.glob("*.safetensors") for name in _names(path)}
    ranks = []
    for path in tuned.glob("*.safetensors"):
        after = load_file(path)
        for name, tensor in after.items():
            if tensor.ndim != 2 or name not in before:
                continue
            change = tensor.float() - _tensor(before[name], name).float()
            squared = float(change.square().sum())
            if squared:
                ranks.append(squared / _largest_singular_value(change) ** 2)
    return sum(ranks) / len(ranks) if ranks else None


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _tensor(path: Path, name: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


def _largest_singular_value(matrix: Tensor) -> float:
    """By power iteration: a full decomposition of every matrix would take minutes."""
    import torch

    vector = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0))
    for _ in range(POWER_ITERATIONS):
        vector = matrix.T @ (matrix @ vector)
        vector /= vector.norm()
    return float((matrix @ vector).norm())
