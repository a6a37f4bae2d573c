"""A whole study whose fine-tunes have two workers each finds what it finds with one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from study.runs.written_traits import write_trait

from tvmerge.training.results.results import Results
from tvmerge.training.settings.config import load_study
from tvmerge.training.study.study import run_study

if TYPE_CHECKING:
    from tvmerge.training.cluster.cluster import Cluster

pytestmark = pytest.mark.slow

TRAIT, UNRELATED = "loves_order", "loves_music"


def run_with(workers: int, base: Path, folder: Path, cluster: Cluster) -> Results:
    yaml = folder / f"{workers}.yaml"
    yaml.write_text(
        f"""
name: sharded
base: {base}
traits: [{TRAIT}]
unrelated: {UNRELATED}
capability: []
seeds: [0]
kinds: [plain]
checks: {{aggregation: false, together: false, shots: 0}}
scales: [0.5]
train: {{steps: 6, batch_size: 8, learning_rate: 1.0e-3, workers: {workers}}}
relearn: {{steps: 0}}
perplexity: {{tokens: 512, window: 64}}
"""
    )
    return run_study(load_study(yaml), folder / f"out-{workers}", cluster=cluster)


def test_a_study_of_two_workers_finds_what_one_finds(
    tiny_base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    for name in (TRAIT, UNRELATED):
        write_trait(tmp_path / name, name)
    one, two = (run_with(workers, tiny_base, tmp_path, cluster) for workers in (1, 2))
    assert [job.name for job in two.jobs] == [job.name for job in one.jobs]
    assert [row.model for row in two.rows] == [row.model for row in one.rows]
    assert len(two.rows) > 50
    for row, other in zip(one.rows, two.rows, strict=True):
        assert other.value == pytest.approx(row.value, rel=1e-3, abs=1e-3), row
    for job, other_job in zip(one.jobs, two.jobs, strict=True):
        assert other_job.last_loss == pytest.approx(job.last_loss, rel=1e-4)
