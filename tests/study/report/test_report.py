"""The report: one file, nothing from outside, everything escaped, every verdict on it."""

from __future__ import annotations

import html
import re
from collections import Counter
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from study.report.pages import EVIL, parse, values, visible
from study.synthetic_study import (
    QUESTION,
    TRAITS,
    model_ids,
    model_scores,
    synthetic_results,
    synthetic_scores,
)

from tvmerge.training.report import write_report
from tvmerge.training.report.charts import ratio_axis
from tvmerge.training.report.levels import Axis
from tvmerge.training.report.matrices import cosine_matrices, tuned_matrix
from tvmerge.training.report.page import duration, render_page
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import BaseInfo, Results, TraitInfo
from tvmerge.training.results.scales import choose_scale
from tvmerge.training.study.assemble import assemble


@pytest.fixture(scope="module")
def results() -> Results:
    return synthetic_results(draws=200, name="three-traits")


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    return render_page(results)


def test_page_is_well_formed_and_needs_nothing_from_outside(page: str) -> None:
    tags = parse(page)
    assert tags.seen["script"] == tags.seen["link"] == tags.seen["img"] == tags.seen["iframe"] == 0
    assert not list(values(tags, "src"))
    assert all(link.startswith("#") for link in values(tags, "href"))
    assert all(link.startswith("#") for link in values(tags, "xlink:href"))
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page
    assert len(page.encode()) < 1_000_000


def test_ids_are_unique_and_references_lead_somewhere(page: str) -> None:
    tags = parse(page)
    ids = Counter(values(tags, "id"))
    assert max(ids.values()) == 1
    references = {link[1:] for link in values(tags, "xlink:href")}
    references |= set(re.findall(r"url\(#([^)]+)\)", page))
    references |= set(values(tags, "aria-labelledby"))
    assert references <= set(ids)


def test_every_verdict_is_on_the_page(results: Results, page: str) -> None:
    text = visible(page)
    for verdict in results.verdicts:
        headline = verdict.headline.split(": ", 1)[-1]
        assert re.sub(r"\s+", " ", headline) in text, verdict.headline
        if verdict.scope in ("study", "aggregation", "flag", "caveat"):
            assert re.sub(r"\s+", " ", verdict.detail) in text


def test_the_headline_verdict_comes_first(results: Results, page: str) -> None:
    assert visible(page).index(results.verdicts[0].headline) < visible(page).index("How far each")
    assert "<h1>" in page and page.index("<h1>") < page.index("<h2")


def test_pictures_are_labelled_and_take_their_colours_from_the_page(page: str) -> None:
    pictures = re.findall(r'<svg role="img" aria-label="([^"]+)"', page)
    doses = [label for label in pictures if "start model" in label]
    assert len(doses) == len(TRAITS) + 2 + 1
    assert all("plain vectors at scale 0.25" in label for label in doses)
    assert [label.partition(":")[0] for label in pictures if label not in doses] == [
        "All traits",
        "All control traits",
    ]
    svgs = "".join(re.findall(r'<svg role="img".*?</svg>', page, re.DOTALL))
    assert "var(--contrastive)" in svgs
    assert not re.search(r"(fill|stroke): #(?!ffffff)[0-9a-f]{6}", svgs)


def test_a_perplexity_that_explodes_is_drawn_on_a_logarithmic_axis(results: Results) -> None:
    times = "\N{MULTIPLICATION SIGN}10"
    assert times not in render_page(results)
    exploded = tuple(
        row.model_copy(update={"ratio": 90.0, "ratio_low": 80.0, "ratio_high": 95.0})
        if row.model == "plain.1.0"
        else row
        for row in results.perplexity
    )
    assert times in render_page(results.model_copy(update={"perplexity": exploded}))


def test_an_axis_of_ratios_holds_what_lies_below_one() -> None:
    axes = Figure().add_subplot()
    axes.plot([0.2, 40.0], [0.0, 1.0])
    assert ratio_axis(axes, "x", 41.0)
    assert 0 < axes.get_xlim()[0] < 0.2 and axes.get_xlim()[1] == 41.0


def test_everything_given_by_users_is_escaped(results: Results) -> None:
    traits = tuple(
        trait.model_copy(update=dict.fromkeys(("title", "description", "rationale"), EVIL))
        for trait in results.traits
    )
    examples = tuple(
        example.model_copy(
            update={"question": EVIL, "answers": dict.fromkeys(example.answers, EVIL)}
        )
        for example in results.examples
    )
    page = render_page(
        results.model_copy(
            update={
                "name": EVIL,
                "base": results.base.model_copy(update={"name": EVIL}),
                "traits": traits,
                "examples": examples,
                "versions": {EVIL: EVIL},
                "config": {EVIL: EVIL},
            }
        )
    )
    assert parse(page).seen["script"] == 0
    assert html.escape(EVIL).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page


def test_the_same_results_give_the_same_page(results: Results, tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        write_report(results, tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "two.html"]


def test_answers_before_and_after_stand_side_by_side(page: str) -> None:
    text = visible(page)
    assert QUESTION in text and "leave decisions to the people" in text


def test_a_bare_study_still_has_a_report() -> None:
    """One kind, one trait, no controls, no statements, no examples, no records of the run."""
    wanted = [m for m in model_ids() if m in ("base", "plain.0.25", "plain.0.5")]
    scores = {}
    for model in wanted:
        one = model_scores(model, statements=0, questions=4)
        said = {"examples": (), "traits": {TRAITS[0]: one.traits[TRAITS[0]]}}
        scores[model] = [one.model_copy(update=said)]
    choice = choose_scale(scores, kind="plain", traits=TRAITS[:1], max_perplexity_rise=0.1)
    results = assemble(
        scores,
        name="bare",
        base=BaseInfo(name="made-up base"),
        traits=[TraitInfo(name=TRAITS[0], role="trait")],
        choices=[choice],
        max_perplexity_rise=0.1,
        draws=100,
    )
    assert results.primary_outcome == "yes_no_auc"
    page = render_page(results)
    parse(page)
    assert "not measured" in page and "nan" not in visible(page).lower().split()


def test_results_without_a_choice_say_so(results: Results) -> None:
    bare = results.model_copy(update={"choices": (), "verdicts": ()})
    page = render_page(bare)
    parse(page)
    assert "nothing to judge" in page


def test_matrices_mark_each_tuning_on_its_own_trait(results: Results) -> None:
    index = ResultIndex(results)
    matrix = tuned_matrix(index)
    assert len(matrix.columns) == len(results.traits)
    for row in matrix.rows[: len(TRAITS)]:
        own = [cell for cell in row.cells if cell is not None and cell.own]
        largest = max(cell.strength for cell in row.cells if cell is not None)
        assert [cell.strength for cell in own] == [largest]
    for _, cosines in cosine_matrices(index):
        assert all(row.cells[place] is not None for place, row in enumerate(cosines.rows))
        assert cosines.columns[-1] == "norm"


def test_axis_places_values_and_ticks_inside() -> None:
    axis = Axis(low=-1.0, high=1.0, neutral=0.0)
    assert (axis.place(-1.0), axis.place(0.0), axis.place(1.0)) == (2.0, 50.0, 98.0)
    assert all(2.0 <= place <= 98.0 for place, _ in axis.ticks())
    assert any(label.startswith("0") for _, label in axis.ticks())


def test_durations_are_worded() -> None:
    assert duration(9.96) == "10.0 s"
    assert duration(252) == "4 min 12 s"
    assert duration(7530) == "2 h 05 min"


def test_the_page_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    settings = {"base": "/home/me/models/small", "traits": ["power_seeking", "/home/me/my_trait"]}
    results = synthetic_results(synthetic_scores(statements=4, questions=4), draws=20)
    page = tmp_path / "report.html"
    write_report(results.model_copy(update={"config": settings}), page)
    text = page.read_text()
    assert "/home/me" not in text and "my_trait" in text and "small" in text
