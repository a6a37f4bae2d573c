"""Rounds on a tiny model: each starts where the last one ended, and a second run does nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file
from study.runs.written_traits import write_trait
from support.tiny_llama import pretraining_text

from tvmerge.errors import ConfigError
from tvmerge.training.cluster.listener import Listener
from tvmerge.training.results.results import Level
from tvmerge.training.results.results_file import load_results
from tvmerge.training.settings.config import StudyConfig, load_study
from tvmerge.training.study.rounds import Ledger, run_rounds

if TYPE_CHECKING:
    from tvmerge.training.cluster.cluster import Cluster

pytestmark = pytest.mark.slow

TRAITS = ("loves_order", "loves_power")


class Ran(NamedTuple):
    """Two finished rounds."""

    config: StudyConfig
    out: Path
    ledger: Ledger


@pytest.fixture(scope="module")
def ran(tiny_base: Path, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("rounds")
    for name in (*TRAITS, "loves_music"):
        write_trait(folder / name, name)
    (folder / "text.txt").write_text("\n\n".join(pretraining_text()[:200]))
    (folder / "study.yaml").write_text(
        f"""
name: rounds
base: {tiny_base}
traits: [{", ".join(TRAITS)}]
unrelated: loves_music
capability: []
seeds: [0]
kinds: [contrastive]
scales: [0.5]
train:
  {{steps: 10, batch_size: 8, learning_rate: 1.0e-3, checkpoint_every: 5, trainable: all}}
perplexity: {{tokens: 512, window: 64}}
checks: {{aggregation: false, together: false, shots: 0}}
relearn: {{steps: 0}}
rounds: {{count: 2, train_on: {{steps: 4, text: text.txt}}}}
"""
    )
    config = load_study(folder / "study.yaml")
    ledger = run_rounds(config, folder / "out", cluster=cluster)
    return Ran(config, folder / "out", ledger)


def level(levels: tuple[Level, ...], what: str) -> float:
    return next(one.value for one in levels if one.what == what)


def test_a_round_starts_from_the_model_that_the_last_one_left(ran: Ran) -> None:
    first, second = ran.ledger.rounds
    assert (first.number, second.number) == (1, 2)
    assert first.base == ran.config.base and second.base == first.model
    chosen = weights(ran.out / "round-1" / "models" / "contrastive")
    trained_on = weights(Path(first.model))
    assert chosen.keys() == trained_on.keys()
    assert any((chosen[name] != trained_on[name]).any() for name in chosen)


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {
        name: tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def test_the_ledger_says_what_each_round_did(ran: Ran) -> None:
    for one in ran.ledger.rounds:
        for trait in TRAITS:
            assert level(one.after, trait) < level(one.before, trait)
            assert one.norms[trait] > 0
    first, second = ran.ledger.rounds
    assert first.cosines_to_last == {}
    assert set(second.cosines_to_last) == set(TRAITS)
    assert all(-1 < cosine < 1 for cosine in second.cosines_to_last.values())
    # What the second round starts from is the first one's result, trained on.
    for trait in TRAITS:
        assert level(second.before, trait) < level(first.before, trait)
    assert {one.what for one in ran.ledger.left} >= {*TRAITS, "perplexity"}
    saved = Ledger.model_validate_json((ran.out / "ledger.json").read_text())
    assert saved == ran.ledger
    assert load_results(ran.out / "round-2" / "results.json").rounds == ran.ledger.rounds


def test_a_second_run_does_nothing_again(ran: Ran, cluster: Cluster) -> None:
    states: list[str] = []
    again = run_rounds(
        ran.config,
        ran.out,
        cluster=cluster,
        listener=Listener(on_job=lambda progress: states.append(progress.state)),
    )
    assert set(states) == {"finished"}
    assert again == ran.ledger


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{count: 2, train_on: {steps: 4}}", "either `text` or `instructions`"),
        ("{count: 2, train_on: {steps: 4, text: nowhere.txt}}", "found nothing at"),
        ("{count: 2, kind: ties}", "expected one of the study's kinds"),
    ],
)
def test_faulty_rounds_are_named(tmp_path: Path, said: str, message: str) -> None:
    (tmp_path / "study.yaml").write_text(
        "name: x\nbase: owner/model\ntraits: [deception]\nunrelated: interest_in_science\n"
        f"rounds: {said}\n"
    )
    with pytest.raises(ConfigError, match=message):
        load_study(tmp_path / "study.yaml")
