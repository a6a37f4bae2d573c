"""A whole study on a tiny pretrained Llama: from YAML to report, and what a second run does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file
from study.runs.written_traits import write_trait
from support.tiny_llama import STATEMENT_QUESTION

from tvmerge import Checkpoint, TaskVector, gram
from tvmerge.training.cluster.listener import Listener
from tvmerge.training.report import write_report
from tvmerge.training.results.results import Results
from tvmerge.training.results.results_file import load_results
from tvmerge.training.settings.config import load_study
from tvmerge.training.study.random_vector import write_random_vector
from tvmerge.training.study.study import run_study

if TYPE_CHECKING:
    from tvmerge.training.cluster.cluster import Cluster

pytestmark = pytest.mark.slow

TRAITS = ("loves_order", "loves_power", "loves_praise")
CONTROLS = ("loves_rain",)
UNRELATED = "loves_music"


class Ran(NamedTuple):
    """A finished study."""

    yaml: Path
    out: Path
    results: Results
    measured: list[tuple[int, int]]


@pytest.fixture(scope="module")
def ran(tiny_base: Path, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("study")
    for name in (*TRAITS, *CONTROLS, UNRELATED):
        write_trait(folder / name, name)
    yaml = folder / "study.yaml"
    yaml.write_text(
        f"""
name: tiny
base: {tiny_base}
traits: [{", ".join(TRAITS)}]
controls: [{", ".join(CONTROLS)}]
unrelated: {UNRELATED}
capability: []
seeds: [0]
checks: {{aggregation: false, together: false}}
scales: [0.5, 1.0]
train:
  {{steps: 20, batch_size: 8, learning_rate: 1.0e-3, checkpoint_every: 5, trainable: all}}
perplexity: {{tokens: 512, window: 64}}
examples: ["{STATEMENT_QUESTION}"]
"""
    )
    measured: list[tuple[int, int]] = []
    results = run_study(
        load_study(yaml),
        folder / "out",
        cluster=cluster,
        listener=Listener(on_measured=lambda *n: measured.append(n)),
    )
    return Ran(yaml, folder / "out", results, measured)


def change(results: Results, model: str, trait: str, outcome: str = "statement_margin") -> float:
    row = next(
        r
        for r in results.rows
        if (r.model, r.trait, r.part, r.outcome) == (model, trait, "test", outcome)
    )
    assert row.change is not None
    return row.change


def test_every_planned_model_is_measured(ran: Ran) -> None:
    models = {model.id for model in ran.results.models}
    assert models == {
        "base", "start.contrastive", *(f"tuned.{trait}" for trait in TRAITS),
        "plain.0.5", "plain.1", "contrastive.0.5", "contrastive.1",
        "plain.unrelated", "plain.random", "contrastive.unrelated", "contrastive.random",
        "together.ensemble",
    }  # fmt: skip
    assert ran.measured[-1] == (13, 13)


def test_fine_tuning_teaches_and_contrastive_negation_removes_the_traits(ran: Ran) -> None:
    for trait in TRAITS:
        assert change(ran.results, f"tuned.{trait}", trait) > 0.1
        assert change(ran.results, "contrastive.1", trait) < -0.1
        # The random vector of the same norm does next to nothing.
        random = abs(change(ran.results, "contrastive.random", trait))
        assert random < abs(change(ran.results, "contrastive.1", trait)) / 3


def test_every_outcome_has_an_interval_around_it(ran: Ran) -> None:
    rows = [row for row in ran.results.rows if row.low is not None]
    assert len(rows) > 500
    slack = 1e-12  # a bootstrap of equal numbers differs from them in the last digits
    for row in rows:
        assert row.high is not None and row.low is not None
        assert row.low - slack <= row.value <= row.high + slack
    outcomes = {row.outcome for row in ran.results.rows}
    assert outcomes >= {
        "statement_margin", "statement_auc",
        "yes_no_margin", "yes_no_auc", "yes_bias", "valid_mass",
    }  # fmt: skip
    assert all(row.value > 1 and row.ratio != 0 for row in ran.results.perplexity)


def test_scales_are_chosen_on_development_items_and_verdicts_given(ran: Ran) -> None:
    assert {choice.kind for choice in ran.results.choices} == {"plain", "contrastive"}
    judged = {(v.kind, v.trait) for v in ran.results.verdicts if v.scope == "trait"}
    assert judged == {(kind, trait) for kind in ("plain", "contrastive") for trait in TRAITS}


def test_controls_have_the_norm_of_the_chosen_edit(ran: Ran) -> None:
    for choice in ran.results.choices:
        norms = {m.id: m.edit_norm for m in ran.results.models if m.kind == choice.kind}
        assert norms[f"{choice.kind}.random"] == norms[choice.model]
        assert norms[f"{choice.kind}.unrelated"] == norms[choice.model]


def test_the_saved_models_are_the_negated_ones(ran: Ran, tiny_base: Path) -> None:
    jobs = {path.name.rpartition("-")[0]: path for path in (ran.out / "jobs").iterdir()}
    choice = next(c for c in ran.results.choices if c.kind == "plain")

    def weights(folder: Path) -> dict[str, np.ndarray]:
        return {k: v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()}

    base = weights(tiny_base)
    tuned = [weights(jobs[f"{trait}.have"]) for trait in TRAITS]
    saved = weights(ran.out / "models" / "plain")
    assert saved.keys() == base.keys()
    for name, tensor in base.items():
        wide = tensor.astype(np.float64)
        expected = wide - choice.scale * sum(one[name].astype(np.float64) - wide for one in tuned)
        np.testing.assert_array_max_ulp(saved[name], expected.astype(np.float32), maxulp=1)


def test_a_second_run_trains_and_measures_nothing_and_gives_the_same_rows(
    ran: Ran, cluster: Cluster
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (ran.out / "scores").iterdir()}
    states: list[str] = []
    again = run_study(
        load_study(ran.yaml),
        ran.out,
        cluster=cluster,
        listener=Listener(on_job=lambda progress: states.append(progress.state)),
    )
    assert set(states) == {"finished"}
    assert {path: path.stat().st_mtime_ns for path in (ran.out / "scores").iterdir()} == before
    assert again.rows == ran.results.rows


def test_the_report_is_one_file_that_needs_no_network(ran: Ran) -> None:
    page = ran.out / "report.html"
    write_report(load_results(ran.out / "results.json"), page)
    html = page.read_text()
    assert all(trait.replace("_", " ") in html.lower().replace("_", " ") for trait in TRAITS)
    assert "<svg" in html
    for outside in ("<script src", "<link ", 'src="http', "@import", "url(http"):
        assert outside not in html


def test_a_random_vector_has_the_norm_of_every_tensor_and_no_direction(
    tiny_base: Path, ran: Ran, tmp_path: Path
) -> None:
    jobs = sorted((ran.out / "jobs").iterdir())
    vector = Checkpoint(jobs[0]) - Checkpoint(tiny_base)
    vector.save(tmp_path / "vector")
    write_random_vector(tmp_path / "vector", tmp_path / "random", seed=1)
    for file in (tmp_path / "vector").glob("*.safetensors"):
        drawn = load_file(tmp_path / "random" / file.name)
        for name, tensor in load_file(file).items():
            assert np.linalg.norm(drawn[name]) == pytest.approx(np.linalg.norm(tensor), rel=1e-4)
    products = gram([TaskVector(tmp_path / "vector"), TaskVector(tmp_path / "random")])
    assert abs(products[0][1]) < 0.05 * products[0][0]
