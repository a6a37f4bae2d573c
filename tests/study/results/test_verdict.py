"""Verdicts: every way to succeed or fail gets its own words, with numbers behind them."""

from __future__ import annotations

import pytest
from study.synthetic_study import CONTROLS, TRAITS, Effects, synthetic_results, synthetic_scores

from tvmerge.training.results.results import Results, Verdict, VerdictCode
from tvmerge.training.results.scores import ModelScores
from tvmerge.training.verdicts.verdict import what_happened


@pytest.fixture(scope="module")
def scores() -> dict[str, list[ModelScores]]:
    return synthetic_scores()


@pytest.fixture(scope="module")
def results(scores: dict[str, list[ModelScores]]) -> Results:
    return synthetic_results(scores)


def verdicts(results: Results, scope: str, kind: str) -> dict[str | None, Verdict]:
    return {v.trait: v for v in results.verdicts if v.scope == scope and v.kind == kind}


def test_verdicts_name_success_and_failure(results: Results) -> None:
    contrastive = verdicts(results, "trait", "contrastive")
    assert [contrastive[trait].code for trait in TRAITS] == ["reduced", "reduced", "did_not_fall"]
    assert contrastive[TRAITS[2]].headline.startswith("Failed")
    assert all("[" in verdict.detail for verdict in contrastive.values())
    plain = verdicts(results, "kind", "plain")[None]
    assert plain.code == "failed" and "0 of 3" in plain.headline
    assert results.verdicts[0].scope == "study" and results.verdicts[0].code == "partly"
    assert results.verdicts[-1].scope == "caveat"


class Leaky(Effects):
    """Every contrastive edit, that of the unrelated vector too, lowers every trait."""

    def margin(self, trait: str) -> float:
        edited = self.model.role in ("negated", "control") and self.model.kind == "contrastive"
        return -0.5 if edited else super().margin(trait)


class Costly(Effects):
    def nll_rise(self) -> float:
        return 0.5 if self.model.role == "negated" else super().nll_rise()


class Backfiring(Effects):
    def margin(self, trait: str) -> float:
        return 0.5 if self.model.role == "negated" else super().margin(trait)


class MovingControls(Effects):
    def margin(self, trait: str) -> float:
        fell = -0.2 if trait in CONTROLS and self.model.role == "negated" else 0.0
        return super().margin(trait) + fell


class RaisedStart(Effects):
    """The start model already has more of every trait than the subtraction takes away."""

    def margin(self, trait: str) -> float:
        started = self.model.kind == "contrastive" and trait in TRAITS
        return super().margin(trait) + (2.0 if started else 0.0)

    def nll_rise(self) -> float:
        return super().nll_rise() + (0.09 if self.model.kind == "contrastive" else 0.0)


@pytest.mark.parametrize(
    ("effects", "code"),
    [
        (Leaky, "not_specific"),
        (Costly, "too_costly"),
        (Backfiring, "wrong_way"),
        (RaisedStart, "not_below_base"),
    ],
)
def test_each_way_to_fail_has_its_verdict(effects: type[Effects], code: str) -> None:
    results = synthetic_results(synthetic_scores(effects=effects), draws=500)
    assert verdicts(results, "trait", "contrastive")[TRAITS[0]].code == code
    assert verdicts(results, "kind", "contrastive")[None].code == "failed"


def test_moved_controls_are_side_effects_and_no_full_success() -> None:
    results = synthetic_results(synthetic_scores(effects=MovingControls), draws=500)
    assert verdicts(results, "trait", "contrastive")[TRAITS[0]].code == "side_effects"
    kind = verdicts(results, "kind", "contrastive")[None]
    assert kind.code == "partly" and "2 with side effects" in kind.headline
    assert "only with side effects" in results.verdicts[0].headline


@pytest.mark.parametrize(
    ("code", "specific", "by_negation", "by_any"),
    [
        ("worked", True, "Negation reduced the traits", "The traits were reduced"),
        ("partly", True, "Negation reduced some traits spec", "Some traits fell specifically"),
        ("partly", False, "Negation reduced traits only", "Traits fell only with side effects"),
        ("failed", False, "Negation did not reduce any", "No trait fell specifically"),
    ],
)
def test_a_headline_does_not_give_negation_what_direct_attempts_did(
    code: VerdictCode, specific: bool, by_negation: str, by_any: str
) -> None:
    assert what_happened(code, specific=specific, with_direct=False).startswith(by_negation)
    assert what_happened(code, specific=specific, with_direct=True).startswith(by_any)


class Credulous(Effects):
    """A measurement in which even random vectors lower everything."""

    def margin(self, trait: str) -> float:
        return -0.5 if self.model.control == "random" else super().margin(trait)


@pytest.mark.parametrize(("effects", "code"), [(Effects, "held"), (Credulous, "stands")])
def test_random_vectors_tell_whether_the_tests_can_be_trusted(
    effects: type[Effects], code: str
) -> None:
    found = synthetic_results(synthetic_scores(effects=effects), draws=500).verdicts
    said = next(verdict for verdict in found if verdict.doubt == "false_alarms")
    assert said.code == code
    assert " tests of random vectors" in said.detail


def test_a_start_that_costs_more_than_the_limit_is_flagged() -> None:
    results = synthetic_results(synthetic_scores(effects=RaisedStart), draws=500)
    headlines = [v.headline for v in results.verdicts if v.kind == "contrastive"]
    assert "Counted from the base, the cost is beyond the limit" in headlines


def test_a_missing_unrelated_control_leaves_the_verdict_open(
    scores: dict[str, list[ModelScores]],
) -> None:
    without = {model: one for model, one in scores.items() if not model.endswith("unrelated")}
    results = synthetic_results(without, draws=500)
    assert verdicts(results, "trait", "contrastive")[TRAITS[0]].code == "untested"


def test_flags_name_format_collapse_bias_and_lost_topic(results: Results) -> None:
    flagged = {(v.kind, v.headline) for v in results.verdicts if v.scope == "flag"}
    assert ("plain", "Answer format collapsed") in flagged
    assert ("plain", "The topic went, more than the stance") in flagged
    assert ("contrastive", "Everything is answered Yes more often") in flagged
    assert ("contrastive", "Answer format collapsed") not in flagged
