"""A study's YAML file is read strictly; paths start at the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvmerge.errors import ConfigError
from tvmerge.training.config import TrainConfig, load_study

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
    assert study.items.train_statements is None


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
        ("examples: [a, b, c, d]\n", r"study.yaml:5: examples: .*at most 3"),
        ("perplexity: {text: nowhere.txt}\n", r"study.yaml:5: perplexity.text: .*found nothing"),
        ("perplexity: {tokens: 64}\n", "window: expected at most the 64 tokens"),
        ("seed: 1\nseed: 2\n", "study.yaml:6: seed: the key is given twice"),
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
