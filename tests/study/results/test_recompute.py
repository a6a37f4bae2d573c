"""Results are computed again from raw files; a figure that was changed is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from study.synthetic_study import synthetic_results, synthetic_scores

from tvmerge.errors import FormatError
from tvmerge.training.cli import study
from tvmerge.training.results.results import RawFiles, Results
from tvmerge.training.results.results_file import load_results, save_results
from tvmerge.training.results.scores import save_scores
from tvmerge.training.study.recompute import recompute


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Results:
    scores = synthetic_scores(statements=6, questions=4)
    raw = RawFiles(scores=tuple(f"scores/{model}.json" for model in scores))
    results = synthetic_results(scores, draws=50)
    return results.model_copy(update={"raw": raw, "jobs": ()})


@pytest.fixture
def out(kept: Results, tmp_path: Path) -> Path:
    for model, each in synthetic_scores(statements=6, questions=4).items():
        save_scores(each[0], tmp_path / "scores" / f"{model}.json")
    save_results(kept, tmp_path / "results.json")
    return tmp_path


def test_what_was_not_touched_agrees(out: Path) -> None:
    assert recompute(out) == []
    done = CliRunner().invoke(study, ["verify", str(out)])
    assert (done.exit_code, done.output) == (0, "Every figure agrees\n")


def test_every_figure_that_differs_is_named(out: Path) -> None:
    results = load_results(out / "results.json")
    place = next(n for n, row in enumerate(results.rows) if row.change is not None)
    row = results.rows[place]
    rows = [*results.rows]
    rows[place] = row.model_copy(update={"value": row.value + 0.01})
    base = results.base.model_copy(update={"name": "another"})
    save_results(
        results.model_copy(update={"rows": tuple(rows), "base": base}), out / "results.json"
    )
    (found,) = recompute(out)
    assert found.where == f"results.rows[{row.model} {row.trait} {row.part} {row.outcome}].value"
    assert (found.kept, found.found) == (str(row.value + 0.01), str(row.value))
    done = CliRunner().invoke(study, ["verify", str(out)])
    assert done.exit_code == 1
    assert found.where in done.output and "1 figures differ" in done.output


def test_a_verdict_that_was_changed_is_named(out: Path) -> None:
    results = load_results(out / "results.json")
    better = results.verdicts[0].model_copy(update={"code": "worked", "headline": "It worked"})
    save_results(
        results.model_copy(update={"verdicts": (better, *results.verdicts[1:])}),
        out / "results.json",
    )
    assert {one.where for one in recompute(out)} == {
        "results.verdicts[study].code",
        "results.verdicts[study].headline",
    }


def test_raw_files_that_changed_show(out: Path) -> None:
    path = out / "scores" / "plain.0.5.json"
    path.write_text(
        (out / "scores" / "plain.1.0.json").read_text().replace("plain.1.0", "plain.0.5")
    )
    assert any("plain.0.5" in one.where for one in recompute(out))


def test_missing_raw_files_are_named(out: Path) -> None:
    (out / "scores" / "base.json").unlink()
    with pytest.raises(FormatError, match=r"scores/base\.json"):
        recompute(out)


def test_results_of_an_earlier_version_are_refused(out: Path) -> None:
    results = load_results(out / "results.json").model_copy(update={"raw": RawFiles()})
    save_results(results, out / "results.json")
    with pytest.raises(FormatError, match="does not name the raw files"):
        recompute(out)
