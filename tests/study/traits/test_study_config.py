"""A study's YAML file is read strictly; paths start at the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from tvmerge.errors import ConfigError
from tvmerge.training.settings.config import StudyConfig, load_study
from tvmerge.training.settings.kinds import KINDS
from tvmerge.training.settings.sections import TrainConfig
from tvmerge.training.study.contest import planned_measurements
from tvmerge.training.study.preparing import measure_settings
from tvmerge.training.study.vectors import METHODS
from tvmerge.training.traits.trait import catalogue_names

EXAMPLES = Path(__file__).parents[3] / "examples"

LINES = """\
name: three-traits
base: owner/model
traits: [conscientiousness]
unrelated: interest_in_science
"""


def study_file(folder: Path, more: str = "", *, lines: str = LINES) -> Path:
    path = folder / "study.yaml"
    path.write_text(lines + more)
    return path


def test_short_study_has_defaults_for_everything_else(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path, "train: {learning_rate: 1e-5}\n"))
    assert study.base == "owner/model"
    assert study.kinds == ("plain", "contrastive")
    assert study.train.learning_rate == 1e-5
    assert study.items.train.statement is None
    assert [one.name for one in study.negmerge.variants] == ["", "rate0.5", "rate2"]


def test_models_are_measured_where_jobs_have_gpus(tmp_path: Path) -> None:
    for more, device in (("", "cpu"), ("resources: {gpus_per_job: 0.5}\n", "cuda")):
        assert measure_settings(load_study(study_file(tmp_path, more)), []).device == device


# cluster.yaml is Ray's: see test_example_cluster.
STUDIES = sorted({*EXAMPLES.glob("*.yaml")} - {EXAMPLES / "cluster.yaml"})
STUDIES += sorted((EXAMPLES.parent / "docs" / "results").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_examples_say_what_a_study_may(path: Path) -> None:
    study = StudyConfig.model_validate(yaml.safe_load(path.read_text()))
    known = set(catalogue_names())
    assert {*study.traits, *study.controls, study.unrelated, *study.composites} <= known


def test_a_base_that_is_given_stands_in_place_of_the_files(tmp_path: Path) -> None:
    path = study_file(tmp_path, lines=LINES.replace("owner/model", "../no/model"))
    with pytest.raises(ConfigError, match="base: expected a model folder"):
        load_study(path)
    assert load_study(path, base="another/model").base == "another/model"


def test_the_description_of_the_file_has_every_key() -> None:
    text = (EXAMPLES.parent / "docs" / "study.md").read_text()
    content = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    study = StudyConfig.model_validate(content)
    assert content.keys() == StudyConfig.model_fields.keys()
    for key, said in content.items():
        section = getattr(study, key)
        if isinstance(section, BaseModel) and key not in ("scales", "replay"):
            assert said.keys() == type(section).model_fields.keys(), key


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    for folder in ("model", "mine"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mine" / "trait.yaml").write_text("")
    (tmp_path / "text.txt").write_text("Call me.")
    lines = LINES.replace("owner/model", "model").replace("[cons", "[./mine, cons")
    study = load_study(study_file(tmp_path, "perplexity: {text: text.txt}\n", lines=lines))
    assert study.base == str(tmp_path / "model")
    assert study.traits == (str(tmp_path / "mine"), "conscientiousness")
    assert study.perplexity.text == tmp_path / "text.txt"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("scale: [1]\n", r"study.yaml:5: scale: unknown key. Did you mean 'scales'"),
        ("train:\n  step: 3\n", r"study.yaml:6: train.step: unknown key. Did you mean 'steps'"),
        ("scales: [0.5, 0]\n", r"study.yaml:5: scales.*: .*greater than 0, found 0"),
        ("scales: [1, 1]\n", "expected each value once"),
        ("kinds: [plane]\n", "Did you mean 'plain'"),
        ("controls: [conscientiousness]\n", "'conscientiousness' is named twice"),
        ("train: {steps: 2}\n", "warmup_steps: expected fewer than the 2 steps"),
        (f"examples: [{'a, ' * 25}]\n", r"study.yaml:5: examples: .*at most 24"),
        ("relax: {shares: [1]}\n", "shares.*less than 1, found 1"),
        ("relax: {shares: [0.5, 0.5]}\n", "expected each value once"),
        ("perplexity: {text: nowhere.txt}\n", r"study.yaml:5: perplexity.text: .*found nothing"),
        ("perplexity: {tokens: 64}\n", "window: expected at most the 64 tokens"),
        ("negmerge: {variants: [{}]}\n", r"study.yaml:5: negmerge.variants: .*at least 2"),
        ("negmerge: {variants: [{rate: 2}, {rate: 2.0}]}\n", "expected each value once"),
        ("negmerge: {variants: [{}, {forms: [tale]}]}\n", r"negmerge.variants.*found 'tale'"),
        ("seeds: [1]\nseeds: [2]\n", "study.yaml:6: seeds: the key is given twice"),
        ("layers: {first: 0, last: 0}\n", r"study.yaml:5: layers: .*above 0, found 0 for both"),
        ("layers: {top: 0.1}\n", "study.yaml:5: layers.top: unknown key"),
        ("kinds: [replayed]\n", "expected control traits to replay items of, found none"),
        (
            "kinds: [replayed]\ncontrols: [agreeableness]\nreplay: {share: 0.01}\n",
            "replay.share: .* batch of 8 .*, found 0 to replay",
        ),
        ("replay: {share: 1}\n", "study.yaml:5: replay.share: .*less than 1, found 1"),
        (
            "controls: [agreeableness]\nreplay: {controls: [agreeable]}\n",
            "replay.controls: .*found 'agreeable'. Did you mean 'agreeableness'",
        ),
        (
            "checks: {aggregation_kinds: [ties]}\n",
            "checks.aggregation_kinds: expected names from `kinds`, found 'ties'",
        ),
        (
            "kinds: [ties]\nchecks: {aggregation_kinds: [ties]}\n",
            "aggregation_kinds: expected kinds that are a sum over the traits, found 'ties'",
        ),
        (
            "checks: {aggregation: false, aggregation_kinds: [plain]}\n",
            "study.yaml:5: checks: aggregation_kinds: expected aggregation: true beside them",
        ),
        ("train: {steps: [}\n", "study.yaml:5: not valid YAML"),
    ],
)
def test_faults_are_named_with_line_and_key(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(study_file(tmp_path, more))


def test_missing_base_folder_and_missing_key_are_named(tmp_path: Path) -> None:
    lines = LINES.replace("owner/model", "../nowhere")
    with pytest.raises(ConfigError, match=r"study.yaml:2: base: .*found nothing at"):
        load_study(study_file(tmp_path, lines=lines))
    with pytest.raises(ConfigError, match="unrelated: missing"):
        load_study(study_file(tmp_path, lines=LINES.split("unrelated")[0]))


def test_learning_rate_follows_the_method_unless_said() -> None:
    assert TrainConfig().learning_rate == 2e-5
    assert TrainConfig(method="lora").learning_rate == 2e-4
    assert TrainConfig(method="lora", learning_rate=1e-3).learning_rate == 1e-3


@pytest.mark.parametrize(("named", "kinds"), [("", 2), (", aggregation_kinds: [plain]", 1)])
def test_traits_are_negated_one_by_one_in_the_kinds_named(
    tmp_path: Path, named: str, kinds: int
) -> None:
    lines = LINES.replace("[cons", "[deception, power_seeking, cons")
    counts = []
    for measured in ("false", f"true{named}"):
        checks = f"kinds: [plain, contrastive, ties]\nchecks: {{aggregation: {measured}}}\n"
        counts.append(planned_measurements(load_study(study_file(tmp_path, checks, lines=lines))))
    seeds, alone_and_left_out = 3, 2 * 3
    assert counts[1] - counts[0] == kinds * alone_and_left_out * seeds


def test_merged_kinds_are_those_that_a_merge_method_makes() -> None:
    assert {kind for kind, info in KINDS.items() if info.merged} == METHODS.keys()
