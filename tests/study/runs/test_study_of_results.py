"""The study whose findings docs/results.md tells, run on a tiny model: one seed, a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tvmerge.training.results.results_file import load_results
from tvmerge.training.settings.config import load_study
from tvmerge.training.study.recompute import recompute
from tvmerge.training.study.study import run_study

if TYPE_CHECKING:
    from tvmerge.training.cluster.cluster import Cluster

pytestmark = pytest.mark.slow

STUDY = Path(__file__).parents[3] / "docs" / "results" / "five_traits.yaml"


def test_the_published_study_runs_on_a_tiny_model(
    tiny_base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    study = load_study(STUDY, base=str(tiny_base))
    steps = study.train.model_copy(update={"steps": 3})
    short = study.model_copy(update={"seeds": (0,), "train": steps})
    results = run_study(short, tmp_path / "out", cluster=cluster)
    judged = {(v.kind, v.trait) for v in results.verdicts if v.scope == "trait"}
    assert judged == {(kind, trait) for kind in study.kinds for trait in study.traits}
    assert load_results(tmp_path / "out" / "results.json") == results
    assert recompute(tmp_path / "out") == []
