"""Two studies side by side, in a terminal and as a page; the schema of what both are read from."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from study.report.pages import EVIL, parse, visible
from study.synthetic_study import synthetic_results, synthetic_scores

from tvmerge.training.cli import study
from tvmerge.training.report.compared import write_comparison
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import Results
from tvmerge.training.results.results_file import save_results
from tvmerge.training.results.results_schema import to_text
from tvmerge.training.results.wording import with_interval
from tvmerge.training.verdicts.comparison import compare


@pytest.fixture(scope="module")
def results() -> Results:
    return synthetic_results(synthetic_scores(statements=6, questions=4), draws=50, name="first")


@pytest.fixture(scope="module")
def other(results: Results) -> Results:
    """The same with other steps, another verdict and without the contrastive kind."""
    config = {**results.config, "train": {"steps": 48}, "new": [1, 2]}
    return results.model_copy(
        update={
            "name": "second",
            "config": config,
            "choices": results.choices[:1],
            "verdicts": tuple(
                verdict.model_copy(update={"code": "held", "headline": "Another"})
                if verdict.scope == "kind"
                else verdict
                for verdict in results.verdicts
                if verdict.kind != "contrastive"
            ),
        }
    )


def test_what_was_set_otherwise_is_named(results: Results, other: Results) -> None:
    found = {one.key: (one.a, one.b) for one in compare(results, other).settings}
    assert found["train.steps"] == ("24", "48")
    assert found["new"] == ("\N{EM DASH}", "1, 2")
    assert found["chosen scales"][0].startswith(found["chosen scales"][1])
    assert "seed" not in found


def test_a_study_does_not_differ_from_itself(results: Results) -> None:
    compared = compare(results, results)
    assert compared.settings == ()
    assert not any(pair.differs for pair in compared.verdicts)
    assert {change.difference for change in compared.changes} <= {"0.00", "0.0\N{NO-BREAK SPACE}%"}


def test_changes_are_those_of_each_chosen_model(results: Results, other: Results) -> None:
    compared = compare(results, other)
    index = ResultIndex(results)
    choice = index.choice("plain")
    assert choice is not None
    row = index.row(choice.model, "power_seeking", results.primary_outcome)
    assert row is not None and row.change is not None
    first = next(c for c in compared.changes if (c.kind, c.trait) == ("plain", "Power seeking"))
    assert first.a == first.b == with_interval(row.change, row.change_low, row.change_high)
    lone = [change for change in compared.changes if change.kind == "contrastive"]
    assert lone and all(change.b == change.difference == "\N{EM DASH}" for change in lone)
    assert any(change.trait == "Perplexity" and "%" in change.a for change in compared.changes)


def test_verdicts_stand_side_by_side(results: Results, other: Results) -> None:
    pairs = compare(results, other).verdicts
    kinds = [pair for pair in pairs if pair.about == "All traits"]
    assert [pair.differs for pair in kinds] == [True, True]
    assert kinds[0].b is not None and kinds[1].b is None


def test_the_command_prints_tables_and_writes_a_page(
    results: Results, other: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "a").mkdir()
    save_results(results, tmp_path / "a" / "results.json")
    save_results(other, tmp_path / "b.json")
    page = tmp_path / "compared.html"
    done = CliRunner().invoke(
        study, ["compare", str(tmp_path / "a"), str(tmp_path / "b.json"), "--html", str(page)]
    )
    assert done.exit_code == 0, done.output
    assert "A: first" in done.output and "B: second" in done.output
    assert "train.steps" in done.output and "Power seeking" in done.output
    tags = parse(page.read_text())
    assert tags.seen["script"] == 0
    text = visible(page.read_text())
    assert "train.steps" in text and "differs" in text and "not judged" in text


def test_names_are_escaped(results: Results, tmp_path: Path) -> None:
    evil = results.model_copy(update={"name": EVIL, "config": {EVIL: EVIL}})
    write_comparison(compare(evil, results), tmp_path / "page.html")
    assert parse((tmp_path / "page.html").read_text()).seen["script"] == 0


def test_the_schema_in_docs_is_that_of_the_results() -> None:
    kept = Path(__file__).parents[3] / "docs" / "results.schema.json"
    assert kept.read_text() == to_text()
