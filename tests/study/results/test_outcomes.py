"""Outcomes against plain arithmetic, intervals against their meaning, verdicts against facts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from study.synthetic_study import (
    CONTROLS,
    TRAITS,
    model_scores,
    synthetic_results,
    synthetic_scores,
)

from tvmerge.errors import ConfigError, FormatError, MismatchError
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.outcomes import ScoreTable, item_outcomes, primary_outcome
from tvmerge.training.results.results import ALL_TRAITS, MeasuredModel, Results
from tvmerge.training.results.results_file import load_results, save_results
from tvmerge.training.results.scales import choose_scale
from tvmerge.training.results.scores import (
    Effort,
    ItemScore,
    ModelScores,
    load_scores,
    save_scores,
)
from tvmerge.training.results.statistics import Resampler, auc, weighted_mean
from tvmerge.training.results.wording import number, percent, with_interval


@pytest.fixture(scope="module")
def scores() -> dict[str, list[ModelScores]]:
    return synthetic_scores()


@pytest.fixture(scope="module")
def results(scores: dict[str, list[ModelScores]]) -> Results:
    return synthetic_results(scores)


def statement(number: int, shows: float, lacks: float, tokens: int = 4) -> ItemScore:
    return ItemScore(
        item=f"{number:08x}",
        form="statement",
        shows_logp=shows * tokens,
        shows_tokens=tokens,
        lacks_logp=lacks * tokens * 2,
        lacks_tokens=tokens * 2,
    )


def question(number: int, yes: float, no: float, *, yes_shows: bool) -> ItemScore:
    return ItemScore(
        item=f"{number:08x}",
        form="yes_no",
        shows_logp=yes if yes_shows else no,
        shows_tokens=1,
        lacks_logp=no if yes_shows else yes,
        lacks_tokens=1,
        valid_mass=float(np.exp(yes) + np.exp(no)),
        shows_is_yes=yes_shows,
    )


def test_statement_outcomes_are_per_token() -> None:
    items = [statement(0, -1.0, -2.0), statement(1, -3.0, -2.5), statement(2, -2.0, -2.0)]
    found = item_outcomes(items, key="t/test")
    assert found["statement_margin"].value == pytest.approx((1.0 - 0.5 + 0.0) / 3)
    pairs = [(s > t) + 0.5 * (s == t) for s in (-1.0, -3.0, -2.0) for t in (-2.0, -2.5, -2.0)]
    assert found["statement_auc"].value == pytest.approx(sum(pairs) / 9)
    assert found["statement_shows"].value == pytest.approx(-2.0)
    assert "yes_no_auc" not in found


def test_yes_no_outcomes_by_hand() -> None:
    items = [
        question(0, -1.0, -2.0, yes_shows=True),
        question(1, -3.0, -1.0, yes_shows=True),
        question(2, -1.5, -1.0, yes_shows=False),
        question(3, -1.0, -1.0, yes_shows=False),
    ]
    found = item_outcomes(items, key="t/test")
    assert found["yes_no_margin"].value == pytest.approx((1.0 - 2.0 + 0.5 + 0.0) / 4)
    assert found["yes_bias"].value == pytest.approx((1.0 - 2.0 - 0.5 + 0.0) / 4)
    assert found["pick_rate"].value == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    # Biases of Yes items 1, -2 against those of No items -0.5, 0.
    assert found["yes_no_auc"].value == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert found["yes_no_auc"].n == 4


def test_yes_no_auc_is_blind_to_bias_and_scale_and_the_margin_is_not() -> None:
    rng = np.random.default_rng(0)
    gaps = rng.normal(size=20)

    def ask(change: float, factor: float) -> list[ItemScore]:
        return [
            question(i, factor * gap + change - 5, -5.0, yes_shows=i % 2 == 0)
            for i, gap in enumerate(gaps)
        ]

    before = item_outcomes(ask(0.0, 1.0), key="t")
    after = item_outcomes(ask(3.0, 2.0), key="t")
    assert after["yes_no_auc"].value == before["yes_no_auc"].value
    assert after["yes_bias"].value != pytest.approx(before["yes_bias"].value)
    assert after["yes_no_margin"].value != pytest.approx(before["yes_no_margin"].value)


def test_bootstrap_interval_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(3).normal(1.0, 2.0, size=200)
    low, high = weighted_mean(values, Resampler(draws=4000).weights("k", [0] * 200)).interval()
    error = values.std(ddof=1) / np.sqrt(200)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.05)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.05)


def test_the_spread_of_few_items_is_not_too_narrow() -> None:
    values = np.random.default_rng(4).normal(size=5)
    drawn = weighted_mean(values, Resampler(draws=40_000).weights("k", [0] * 5)).draws
    assert drawn.std() == pytest.approx(values.std(ddof=1) / np.sqrt(5), rel=0.02)


def test_vectorised_auc_draws_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    above, below = rng.normal(size=7), rng.normal(size=5)
    resampler = Resampler(draws=20)
    above_weights = resampler.weights("above", [0] * 7)
    below_weights = resampler.weights("below", [0] * 5)
    estimate = auc(above, below, above_weights, below_weights, n=12)
    wins = []
    for draw in range(20):
        repeated_above = np.repeat(above, above_weights[draw].astype(int))
        repeated_below = np.repeat(below, below_weights[draw].astype(int))
        wins.append((repeated_above[:, None] > repeated_below[None, :]).mean())
    assert estimate.value == pytest.approx((above[:, None] > below[None, :]).mean())
    assert estimate.draws[0] == pytest.approx(np.array(wins) - np.mean(wins) + estimate.value)


def test_draws_of_an_auc_over_pairs_lie_around_its_value() -> None:
    rng = np.random.default_rng(1)
    shows = rng.normal(size=8)
    lacks = shows - 0.01  # within an item always lower; between items a coin toss
    weights = Resampler().weights("pairs", [0] * 8)
    estimate = auc(shows, lacks, weights, weights, n=8)
    assert estimate.draws.mean() == pytest.approx(estimate.value)


def test_paired_changes_are_far_tighter_than_unpaired_ones(
    scores: dict[str, list[ModelScores]],
) -> None:
    table = ScoreTable(scores)
    change = table.changes("contrastive.0.5", "start.contrastive", TRAITS[0], "test")
    low, high = change["statement_margin"].interval()
    other = ScoreTable(scores, Resampler(seed=1))
    unpaired = (
        table.estimates("contrastive.0.5", TRAITS[0], "test")["statement_margin"]
        - other.estimates("start.contrastive", TRAITS[0], "test")["statement_margin"]
    )
    wide_low, wide_high = unpaired.interval()
    assert low is not None and high is not None
    assert wide_low is not None and wide_high is not None
    assert high - low < 0.5 * (wide_high - wide_low)


def test_the_same_seed_gives_the_same_results(scores: dict[str, list[ModelScores]]) -> None:
    assert synthetic_results(scores, draws=200) == synthetic_results(scores, draws=200)


def test_a_single_item_has_a_value_but_no_interval() -> None:
    found = item_outcomes([statement(0, -1.0, -2.0)], key="t")["statement_margin"]
    assert found.value == pytest.approx(1.0)
    assert found.interval() == (None, None)


def test_models_measured_on_different_items_are_not_compared() -> None:
    base, edited = model_scores("base"), model_scores("plain.0.5")
    items = edited.traits[TRAITS[0]]["test"]
    swapped = {**edited.traits[TRAITS[0]], "test": (*items[1:], items[0])}
    edited = edited.model_copy(update={"traits": {**edited.traits, TRAITS[0]: swapped}})
    table = ScoreTable({"base": [base], "plain.0.5": [edited]})
    with pytest.raises(MismatchError, match="different items"):
        table.changes("plain.0.5", "base", TRAITS[0], "test")


def test_perplexity_and_its_ratio_are_token_weighted_and_paired(
    scores: dict[str, list[ModelScores]], results: Results
) -> None:
    row = ResultIndex(results).perplexity("plain.1.0")
    assert row is not None and row.ratio is not None
    assert row.ratio_low is not None and row.ratio_high is not None
    nll = np.array(scores["plain.1.0"][0].perplexity.window_nll)
    before = np.array(scores["base"][0].perplexity.window_nll)
    assert row.value == pytest.approx(np.exp(nll.mean()))
    assert row.ratio == pytest.approx(np.exp(nll.mean() - before.mean()))
    assert row.ratio_low < row.ratio < row.ratio_high


def test_primary_outcome_falls_back_to_yes_no(scores: dict[str, list[ModelScores]]) -> None:
    assert primary_outcome(scores, TRAITS) == "statement_margin"
    without = {"base": [model_scores("base", statements=0)]}
    assert primary_outcome(without, TRAITS) == "yes_no_auc"


def test_scale_is_chosen_on_development_items_within_the_limit(
    scores: dict[str, list[ModelScores]],
) -> None:
    chosen = choose_scale(scores, kind="contrastive", traits=TRAITS, max_perplexity_rise=0.1)
    assert (chosen.model, chosen.within_share) == ("contrastive.1.0", True)
    tight = choose_scale(scores, kind="contrastive", traits=TRAITS, max_perplexity_rise=0.02)
    assert tight.scale == 0.5
    none = choose_scale(scores, kind="plain", traits=TRAITS, max_perplexity_rise=0.0)
    assert (none.scale, none.within_share) == (0.25, False)
    assert "no scale kept" in none.reason
    with pytest.raises(ConfigError, match=r"contrastive\.<scale>"):
        choose_scale({"base": scores["base"]}, kind="contrastive", traits=TRAITS,
                     max_perplexity_rise=0.1)  # fmt: skip


def test_pooled_change_is_the_mean_of_the_traits(results: Results) -> None:
    index = ResultIndex(results)
    pooled = index.row("contrastive.1.0", ALL_TRAITS, "statement_margin")
    single = [index.row("contrastive.1.0", trait, "statement_margin") for trait in TRAITS]
    changes = [row.change for row in single if row is not None and row.change is not None]
    assert pooled is not None and pooled.change == pytest.approx(np.mean(changes))


def test_specificity_is_trait_change_minus_control_change(results: Results) -> None:
    index = ResultIndex(results)

    def mean(traits: tuple[str, ...]) -> float:
        rows = [index.row("contrastive.0.5", trait, "statement_margin") for trait in traits]
        return float(np.mean([row.change for row in rows if row and row.change is not None]))

    contrast = index.contrast("specificity", "contrastive.0.5", ALL_TRAITS, "statement_margin")
    assert contrast is not None and contrast.low is not None and contrast.high is not None
    assert contrast.value == pytest.approx(mean(TRAITS) - mean(CONTROLS))
    assert contrast.low < contrast.value < contrast.high


def test_model_ids_are_read_as_the_study_writes_them() -> None:
    negated = MeasuredModel.from_id("contrastive.0.5")
    assert (negated.scale, negated.reference) == (0.5, "start.contrastive")
    assert MeasuredModel.from_id("plain.unrelated").control == "unrelated"
    assert MeasuredModel.from_id("tuned.power").trait == "power"
    for wrong in ("merged", "plain.big", "sideways.0.5"):
        with pytest.raises(ConfigError, match="model id"):
            MeasuredModel.from_id(wrong)


def test_files_come_back_as_they_were(results: Results, tmp_path: Path) -> None:
    save_results(results, tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == results
    scores = model_scores("base")
    save_scores(scores, tmp_path / "scores" / "base.json")
    assert load_scores(tmp_path / "scores" / "base.json") == scores
    (tmp_path / "bad.json").write_text('{"version": 9}')
    with pytest.raises(FormatError, match=r"bad\.json"):
        load_results(tmp_path / "bad.json")
    with pytest.raises(FormatError, match=r"bad\.json"):
        load_scores(tmp_path / "bad.json")


def test_numbers_are_worded_with_true_minus_signs() -> None:
    minus = "\N{MINUS SIGN}"
    assert with_interval(-0.5, -0.6, 0.4) == f"{minus}0.50 [{minus}0.60,\N{NO-BREAK SPACE}+0.40]"
    assert with_interval(0.0, None, None).endswith("(no interval: too few items)")
    assert number(5e-6, tiny=True) == f"5e{minus}06"
    assert number(-0.001, sign=True) == "0.00"
    assert with_interval(-0.06, -0.13, -0.0004).endswith(f"{minus}0.0004]")
    assert percent(0.015) == "+1.5\N{NO-BREAK SPACE}%"


def test_outcomes_need_no_torch() -> None:
    code = (
        "import sys, tvmerge.training.results.outcomes, tvmerge.training.study.assemble; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'matplotlib')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_seconds_of_fine_tunes_and_measurements_are_added_up() -> None:
    scores = synthetic_scores(statements=4, questions=4)
    busy = Effort(seconds=2.5)
    scores = {
        model: [one.model_copy(update={"effort": busy}) for one in each]
        for model, each in scores.items()
    }
    results = synthetic_results(scores, draws=20)
    jobs = sum(job.seconds for job in results.jobs)
    models = 2.5 * sum(len(each) for each in scores.values())
    assert jobs > 0
    assert results.seconds_computed == pytest.approx(jobs + models, abs=0.05)
