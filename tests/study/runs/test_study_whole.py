"""A study with everything it can measure: all kinds, two seeds, every check, every lesson."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file
from study.runs.written_traits import write_trait

from tvmerge import gram
from tvmerge.errors import ConfigError
from tvmerge.training.cluster.listener import Listener
from tvmerge.training.finetuning.jobs import finished_record
from tvmerge.training.report import write_report
from tvmerge.training.results.results import RelearnCurve, Results
from tvmerge.training.settings.config import StudyConfig, load_study
from tvmerge.training.settings.kind_sections import NegMergeConfig
from tvmerge.training.settings.kinds import KINDS, start_of
from tvmerge.training.study.contest import planned_measurements
from tvmerge.training.study.plan import plan_study
from tvmerge.training.study.preparing import study_jobs, study_traits, study_vectors
from tvmerge.training.study.recompute import recompute
from tvmerge.training.study.search import Looked, best_of, load_found
from tvmerge.training.study.study import run_study
from tvmerge.training.study.vectors import StudyVectors

if TYPE_CHECKING:
    from tvmerge.training.cluster.cluster import Cluster

pytestmark = pytest.mark.slow

TRAITS = ("loves_order", "loves_power", "loves_praise")
SEEDS = (0, 7)


@pytest.fixture(scope="module")
def config(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    folder = tmp_path_factory.mktemp("whole")
    for name in (*TRAITS, "loves_rain", "loves_music", "loves_maps", "loves_bread"):
        write_trait(folder / name, name)
        for part in ("train", "dev", "test"):
            add_talk(folder / name / f"{part}.jsonl", name.removeprefix("loves_"))
    (folder / "study.yaml").write_text(
        f"""
name: whole
base: {tiny_base}
traits: [{", ".join(TRAITS)}]
controls: [loves_rain]
unrelated: loves_music
composites: [loves_maps]
capability: [loves_bread]
seeds: {list(SEEDS)}
kinds: [{", ".join(KINDS)}]
scales: [0.5]
items: {{train: {{dialogue: 0}}, dev: {{statement: 4}}}}
train:
  {{steps: 8, batch_size: 8, learning_rate: 1.0e-3, checkpoint_every: 5, trainable: all}}
perplexity: {{tokens: 512, window: 64}}
checks: {{pairs: true, shots: 2}}
negmerge: {{variants: [{{}}, {{rate: 2, forms: [statement]}}]}}
search: {{trials: 6, max_scale: 1.0}}
layers: {{first: 0.5, last: 1.5}}
relearn: {{steps: 8, every: 4, lessons: [same, other_form, benign], traits: [loves_power]}}
relax: {{steps: 6, shares: [0.5]}}
"""
    )
    return load_study(folder / "study.yaml")


def add_talk(path: Path, thing: str) -> None:
    """A dialogue for every second statement of the part."""
    lines = path.read_text().splitlines()
    talks = []
    for raw in map(json.loads, lines[::4]):
        number = raw["shows"].split()[-2]
        before = [f"Is it {number}?", "So it is."]
        talks.append({**raw, "form": "dialogue", "before": before, "question": f"And {thing}?"})
    path.write_text("\n".join([*lines, *map(json.dumps, talks)]) + "\n")


@pytest.fixture(scope="module")
def out(config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def results(config: StudyConfig, cluster: Cluster, out: Path) -> Results:
    return run_study(config, out, cluster=cluster, listener=Listener())


@pytest.fixture(scope="module")
def vectors(config: StudyConfig, results: Results, out: Path) -> list[StudyVectors]:
    traits = study_traits(config)
    base = Path(config.base)
    return study_vectors(config, base, study_jobs(config, base, traits), traits, out=out)


def test_as_many_models_are_measured_as_were_planned(config: StudyConfig, results: Results) -> None:
    # The base does not depend on the seed, and the ensemble is computed from the others.
    measured = 1 + len(SEEDS) * (len(results.models) - 2)
    assert measured == planned_measurements(config)
    roles = [model.role for model in results.models]
    assert {role: roles.count(role) for role in set(roles)} == {
        "base": 1, "start": 1, "tuned": 3, "negated": 12, "control": 24,
        "single": 21, "without": 21, "together": 5,
    }  # fmt: skip


def test_every_seed_has_its_own_fine_tunes_and_scores(results: Results, out: Path) -> None:
    assert sorted({job.seed for job in results.jobs}) == list(SEEDS)
    # Both poles of traits, unrelated and control (for the orthogonal kind), of a second variant and
    # with replay of all but the control, three direct ones.
    assert len(results.jobs) == len(SEEDS) * (2 * 5 + 2 * (2 * 4) + 3)
    names = [path.name for path in (out / "scores").iterdir()]
    assert sum("@0-" in name for name in names) == sum("@7-" in name for name in names)
    assert sum("@" not in name for name in names) == 1
    steps = {job.name: job.steps for job in results.jobs}
    assert steps["all+traits.preference"] == 3 * steps["loves_order.have"]


def test_trimmed_and_orthogonal_vectors_are_what_they_say(vectors: list[StudyVectors]) -> None:
    one = vectors[0]
    control, unrelated = (one.vector("contrastive", name) for name in ("loves_rain", "loves_music"))
    turned = one.vector("orthogonal", TRAITS[0])
    products = gram([turned, control, unrelated, one.vector("contrastive", TRAITS[0])])
    for other in (1, 2):
        size = np.sqrt(products[0][0] * products[other][other])
        assert abs(products[0][other]) < 1e-4 * size
    assert products[0][3] > 0
    trimmed = load(one.removed("trimmed"))
    contrasts = [load(one.vector("contrastive", trait)) for trait in TRAITS]
    for name, tensor in trimmed.items():
        kept = sum(top_fifth(contrast[name]) for contrast in contrasts)
        # Where two elements are nearly alike, rounding the base + vector decides which is cut.
        differing = np.count_nonzero(np.abs(tensor - kept) > 1e-6)
        assert differing <= max(2 * len(TRAITS), 1e-3 * tensor.size), name


def test_negmerge_vectors_are_what_the_variants_agree_on(
    vectors: list[StudyVectors], config: StudyConfig
) -> None:
    one = vectors[0]
    for trait in (TRAITS[0], "loves_music"):
        merged = load(one.vector("negmerge", trait))
        each = [load(have - lack) for have, lack in one.variants[trait]]
        assert len(each) == len(config.negmerge.variants) == 2
        for name, tensor in merged.items():
            signs = np.sign([contrast[name] for contrast in each])
            agreed = np.abs(signs.sum(axis=0)) == 2
            mean = np.where(agreed, (each[0][name] + each[1][name]) / 2, 0)
            # What is smaller than the base's last place may round to 0, and then agrees no more.
            assert np.mean(np.abs(tensor - mean) > 1e-6) < 1e-3
            assert 0.3 < agreed.mean() < 1
    summed = load(one.removed("negmerge", TRAITS[:2]))
    parts = [load(one.vector("negmerge", trait)) for trait in TRAITS[:2]]
    for name, tensor in summed.items():
        assert np.allclose(tensor, parts[0][name] + parts[1][name], atol=1e-6)


def test_variants_are_trained_as_they_say(config: StudyConfig) -> None:
    jobs = {
        job.name: job
        for job in study_jobs(config, Path(config.base), study_traits(config))
        if job.seed == SEEDS[0]
    }
    own, other = (jobs[f"loves_power.have{more}"] for more in ("", ".rate2.statement"))
    assert other.train == own.train.model_copy(update={"learning_rate": 2e-3})
    assert other.items == tuple(item for item in own.items if item.form == "statement")
    assert "loves_rain.have.rate2.statement" not in jobs
    nothing = NegMergeConfig.model_validate({"variants": [{}, {"forms": ["dialogue"]}]})
    with pytest.raises(ConfigError, match=r"'loves_order': expected items .* variant 'dialogue'"):
        study_jobs(
            config.model_copy(update={"negmerge": nothing}), Path(config.base), study_traits(config)
        )


def test_layerwise_vectors_grow_with_the_depth(vectors: list[StudyVectors], out: Path) -> None:
    one = vectors[0]
    scaled, contrast = (load(one.vector(kind, TRAITS[0])) for kind in ("layerwise", "contrastive"))
    layers = {name.split(".")[2] for name in scaled if ".layers." in name}
    for name, tensor in scaled.items():
        place = int(name.split(".")[2]) / (len(layers) - 1) if ".layers." in name else 0.0
        assert np.allclose(tensor, (0.5 + place) * contrast[name], atol=1e-6), name
    assert np.abs(contrast["model.layers.0.mlp.up_proj.weight"]).max() > 1e-4
    # One for each trait and the unrelated one, of every seed; the control is of the same make.
    stored = [path.name for path in (out / "vectors").glob("layerwise.*-*") if "loves" in path.name]
    assert len(stored) == len(SEEDS) * (len(TRAITS) + 1)
    unrelated = one.unrelated_vector("layerwise")
    assert unrelated.coefficients == one.vector("layerwise", "loves_music").coefficients


def test_replayed_vectors_come_from_fine_tunes_of_their_own(
    config: StudyConfig, vectors: list[StudyVectors], out: Path
) -> None:
    one = vectors[0]
    vector = one.vector("replayed", TRAITS[0])
    names = [stored.source.name.partition("-")[0] for stored in vector.coefficients]
    assert sorted(names) == ["loves_order.have+replay", "loves_order.lack+replay"]
    # The control that it is compared with saw the same control items.
    (first, second) = one.unrelated_vector("replayed").coefficients
    assert {"+replay" in stored.source.name for stored in (first, second)} == {True}
    traits = study_traits(config)
    jobs = [job for job in study_jobs(config, Path(config.base), traits) if job.replay]
    assert {job.trait for job in jobs} == {*TRAITS, "loves_music"}
    records = [finished_record(out / "jobs" / job.folder_name) for job in jobs]
    assert all(one is not None and (one.items, one.replayed) == (24, 24) for one in records)


def load(vector: object) -> dict[str, np.ndarray]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        vector.save(Path(folder) / "v")  # type: ignore[attr-defined]
        return {
            name: tensor
            for file in (Path(folder) / "v").glob("*.safetensors")
            for name, tensor in load_file(file).items()
        }


def top_fifth(tensor: np.ndarray) -> np.ndarray:
    """The largest fifth of the magnitudes, zeros elsewhere (breadcrumbs without a top cut).

    Of equal ones, of which weights near 1 have many, the first.
    """
    order = np.argsort(-np.abs(tensor), axis=None, kind="stable")
    kept = np.zeros(tensor.size, bool)
    kept[order[: int(0.2 * tensor.size)]] = True
    return np.where(kept.reshape(tensor.shape), tensor, 0)


def test_composites_and_examples_are_measured_and_never_trained_on(results: Results) -> None:
    roles = {trait.name: trait.role for trait in results.traits}
    assert roles["loves_maps"] == "composite"
    assert roles["loves_power+2"] == "elicited"
    trained = {job.trait for job in results.jobs}
    assert trained == {*TRAITS, "loves_rain", "loves_music", "all+traits"}
    pairs = [model.id for model in results.models if "+" in model.id]
    rows = {row.trait for row in results.rows if row.model == pairs[0]}
    assert rows == {"loves_maps", "all composites"}


def test_forms_that_nothing_was_trained_on_are_measured(results: Results) -> None:
    outcomes = {row.outcome for row in results.rows if row.trait == TRAITS[0]}
    assert {"dialogue_margin", "dialogue_auc", "statement_margin", "yes_no_auc"} <= outcomes


def curve(results: Results, model: str, lesson: str) -> RelearnCurve:
    return next(c for c in results.relearning if (c.model, c.lesson) == (model, lesson))


def test_a_trait_is_learned_again_from_every_start(results: Results) -> None:
    starts = {c.model for c in results.relearning}
    assert starts == {"base", "start.contrastive", *(c.model for c in results.choices)}
    assert {c.trait for c in results.relearning} == {"loves_power"}
    same = curve(results, "base", "same")
    assert same.steps == (0, 4, 8)
    assert same.values[-1] > same.values[0]
    assert curve(results, "base", "benign").values != same.values
    assert len(results.relearn_contrasts) == 3 * len(KINDS)


def test_lowered_scales_are_measured_before_and_after_further_training(results: Results) -> None:
    assert {point.kind for point in results.relaxed} == set(KINDS)
    choices = {choice.kind: choice for choice in results.choices}
    for kind, choice in choices.items():
        points = [point for point in results.relaxed if point.kind == kind]
        assert [point.share for point in points] == [1.0, 0.5, 0.0]
        assert points[0].model == choice.model and points[-1].model == start_of(kind)
        for point in points:
            assert point.steps == 6
            assert {move.what for move in point.moves} == {
                *TRAITS, "loves_rain", "all traits", "all controls",
            }  # fmt: skip
            for move in point.moves:
                assert move.moved.value == pytest.approx(move.after.value - move.before.value)
                assert move.moved.value != 0
        assert points[0].perplexity_after.value != points[0].perplexity_before.value
        # The chosen model was measured among all others too: the same items give the same change.
        row = next(
            r for r in results.rows
            if (r.model, r.trait, r.part, r.outcome)
            == (choice.model, "all traits", "test", results.primary_outcome)
        )  # fmt: skip
        before = next(move.before for move in points[0].moves if move.what == "all traits")
        assert before.value == pytest.approx(row.change, abs=1e-6)


def test_the_report_of_everything_is_written(results: Results, tmp_path: Path) -> None:
    write_report(results, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert all(info.subject in html for info in KINDS.values())


def test_every_doubt_is_answered_for_every_kind_of_vectors(results: Results) -> None:
    found = [verdict for verdict in results.verdicts if verdict.scope == "doubt"]
    kinds = [kind for kind, info in KINDS.items() if not info.direct]
    one_by_one = (
        "plain", "contrastive", "orthogonal", "negmerge", "layerwise", "replayed", "searched",
    )  # fmt: skip
    for kind in kinds:
        mine = [verdict.doubt for verdict in found if verdict.kind == kind]
        assert {"incompetent", "shallow", "brinkmanship", "direct"} <= set(mine)
        assert ("aggregation" in mine) == (kind in one_by_one)
        assert mine.count("direct") == 3
        # On its own items, on another form, on something unrelated, and by examples.
        assert mine.count("shallow") == 4
    of_study = {verdict.doubt for verdict in found if verdict.kind is None}
    assert of_study == {"one_suffices", "many_ais", "gradient_hacking", "false_alarms"}
    assert all(verdict.code in ("held", "stands", "open", "note") for verdict in found)


def test_fine_tunes_are_audited_beside_the_unrelated_ones(results: Results) -> None:
    by_name = {audit.name: audit for audit in results.audits}
    assert set(by_name) == {
        f"{trait}.{pole}"
        for trait in (*TRAITS, "loves_rain", "loves_music")
        for pole in ("have", "lack")
    }
    one = by_name["loves_power.have"]
    assert one.seeds == 2 and len(one.losses) == 8
    assert one.norm == pytest.approx(np.sqrt(sum(n**2 for n in one.layers.values())), rel=0.05)
    assert one.stable_rank is not None and one.stable_rank >= 1
    # Two seeds see the same items in another order.
    assert one.agreement is not None and 0.3 < one.agreement < 1


def test_results_follow_from_the_raw_files(out: Path) -> None:
    assert recompute(out) == []


def test_the_ensemble_has_the_mean_of_the_probabilities(results: Results, out: Path) -> None:
    rows = {r.model for r in results.rows if r.trait == "loves_maps"}
    assert "together.ensemble" in rows
    tuned = [
        next(r.value for r in results.rows
             if (r.model, r.trait, r.outcome, r.part)
             == (f"tuned.{trait}", "loves_maps", "statement_margin", "test"))
        for trait in TRAITS
    ]  # fmt: skip
    mixed = next(
        r.value
        for r in results.rows
        if (r.model, r.trait, r.outcome, r.part)
        == ("together.ensemble", "loves_maps", "statement_margin", "test")
    )
    assert min(tuned) - 0.05 < mixed < max(tuned) + 0.05


def test_the_plan_counts_what_is_then_done(
    config: StudyConfig, results: Results, out: Path
) -> None:
    plan = plan_study(config, cpus=2)
    assert plan.fine_tunes == len(results.jobs) and plan.fine_tunes_done == 0
    assert plan.training_steps == sum(job.steps for job in results.jobs)
    assert plan.measurements == planned_measurements(config)
    assert plan.relearnings == len(results.relearning) * len(SEEDS)
    assert plan.relaxations == len([*(out / "relax").iterdir()]) == len(results.raw.relaxing)
    assert plan.workers == 2 and plan.seconds > 0
    rest = plan_study(config, out, cpus=2)
    assert rest.fine_tunes_done == rest.fine_tunes and rest.training_steps == 0
    assert any("fine-tunes" in line and "done" in line for line in rest.lines())


def test_a_scale_is_searched_for_each_trait_within_the_constraints(
    results: Results, out: Path
) -> None:
    (path,) = (out / "search").iterdir()
    found = load_found(path)
    assert len(found.candidates) == 6
    assert set(found.scales) == set(TRAITS)
    allowed = [one for one in found.candidates if one.allowed]
    assert found.allowed == bool(allowed)
    if allowed:
        best = min(allowed, key=lambda one: one.change)
        assert found.scales == best.scales
    # What was searched is what is then measured, with other seeds too.
    scores = [path.name for path in (out / "scores").iterdir() if path.name.startswith("searched.")]
    assert sum(name.startswith("searched.0.5@") for name in scores) == len(SEEDS)


def test_the_best_candidate_is_the_lowest_that_breaks_nothing() -> None:
    def looked(change: float, broken: float) -> Looked:
        return Looked(scales={"a": change}, change=change, broken={"perplexity": broken})

    found = best_of([looked(-3, 0.2), looked(-1, -0.1), looked(-2, 0.0)])
    assert found.allowed and found.scales == {"a": -2}
    none = best_of([looked(-3, 0.2), looked(-1, 0.1)])
    assert not none.allowed and none.scales == {"a": -1}
