"""The report of a study with everything: every section is there, and a browser shows it well."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from study.report.chromium import PROGRAM, Chromium
from study.report.pages import parse, values, visible
from study.report.synthetic_whole import (
    CONTROLS,
    LESSONS,
    LINEAR,
    SHARES,
    STEPS,
    TRAITS,
    whole_results,
)

from tvmerge.training.report import write_report
from tvmerge.training.report.audits import audits_shown
from tvmerge.training.report.figures import dose_groups
from tvmerge.training.report.frontier import frontier_panels
from tvmerge.training.report.levels import level_axis, trait_tables
from tvmerge.training.report.lowered import lowered_shown
from tvmerge.training.report.matrices import aggregation_matrices, elicited_matrix, tuned_matrix
from tvmerge.training.report.page import render_page
from tvmerge.training.report.relearned import lessons_shown
from tvmerge.training.report.rounds import round_tables
from tvmerge.training.report.tables import cost_table
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import Results
from tvmerge.training.settings.kinds import KINDS

pytestmark = pytest.mark.slow

AT_LEAST = "\N{GREATER-THAN OR EQUAL TO}\N{NO-BREAK SPACE}16.0"
CSS = Path(__file__).parents[3] / "training" / "report" / "page.css"


@pytest.fixture(scope="module")
def results() -> Results:
    return whole_results()


@pytest.fixture(scope="module")
def index(results: Results) -> ResultIndex:
    return ResultIndex(results)


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    return render_page(results)


def test_contents_lead_to_every_section(page: str) -> None:
    tags = parse(page)
    links = [link[1:] for link in values(tags, "href") if link.startswith("#")]
    headings = re.findall(r'<h2 id="(\w+)">', page)
    assert [link for link in links if link in headings] == headings
    assert len(headings) == 18
    assert max(Counter(values(tags, "id")).values()) == 1


def test_every_kind_can_be_hidden_in_the_charts(page: str) -> None:
    for kind in KINDS:
        assert f'id="show-{kind}" checked' in page
        assert f"body:has(#show-{kind}:not(:checked))" in page
    svgs = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert all(f"var(--{kind})" in svgs for kind in KINDS)


def test_every_verdict_is_on_the_page_of_many_kinds(results: Results, page: str) -> None:
    text = visible(page)
    for verdict in results.verdicts:
        assert re.sub(r"\s+", " ", verdict.headline.split(": ", 1)[-1]) in text, verdict.headline
        if verdict.scope != "kind" and verdict.scope != "trait":
            assert re.sub(r"\s+", " ", verdict.detail) in text


def test_direct_attempts_have_panels_of_their_own(index: ResultIndex) -> None:
    vectors, direct = dose_groups(index)
    assert all(KINDS[kind].direct for kind in direct.kinds)
    assert set(vectors.kinds) | set(direct.kinds) == set(KINDS)
    for group in (vectors, direct):
        # Traits, controls, composite, capability, perplexity: nothing after examples.
        assert len(group.panels) == len(TRAITS) + len(CONTROLS) + 3
        assert not any("examples" in panel.title for panel in group.panels)


def test_relearning_shows_the_steps_and_what_never_came_back(index: ResultIndex) -> None:
    same, benign = lessons_shown(index)
    assert len(LESSONS) == 2
    for lesson in (same, benign):
        assert [panel.title for panel in lesson.panels] == list(lesson.columns)
        assert len(lesson.rows) == 2 + len(KINDS)
        assert [bool(row.longer) for row in lesson.rows] == [False] * 2 + [True] * len(KINDS)
    assert all(value == AT_LEAST for row in benign.rows for value, _ in row.cells)
    base = same.rows[0]
    assert all(0 < float(value) < STEPS[-1] for value, _ in base.cells)


def test_lowered_scales_are_shown_before_and_after_further_training(index: ResultIndex) -> None:
    shown = lowered_shown(index)
    assert shown is not None
    assert len(shown.panels) == len(KINDS)
    assert len(shown.table.rows) == len(KINDS) * (2 + len(SHARES))
    for place in range(0, len(shown.table.rows), 2 + len(SHARES)):
        chosen, *_, start = shown.table.rows[place : place + 2 + len(SHARES)]
        assert "100" in chosen.label and start.label.endswith("the start model")
        assert not any(chosen.cells[3]) and not any(start.cells[5])


def test_aggregation_has_each_alone_each_left_out_and_all(index: ResultIndex) -> None:
    matrices = dict(aggregation_matrices(index))
    assert tuple(matrices) == LINEAR
    for matrix in matrices.values():
        assert len(matrix.rows) == 2 * len(TRAITS) + 1
        assert len(matrix.columns) == len(TRAITS) + len(CONTROLS) + 1
        assert [row.rule for row in matrix.rows].count(True) == 2
    strong = matrices["contrastive"]
    for place in range(len(TRAITS) - 1):
        alone, without = strong.rows[place], strong.rows[len(TRAITS) + place]
        assert alone.cells[place].own and without.cells[place].own  # type: ignore[union-attr]
        strengths = [cell.strength for cell in alone.cells if cell is not None]
        assert strengths[place] == min(strengths)


def test_frontier_marks_every_scale_and_says_what_lies_beyond(index: ResultIndex) -> None:
    traits, controls, composites = frontier_panels(index)
    assert [panel.title for panel in (traits, controls, composites)] == [
        "All traits", "All control traits", "All composites",
    ]  # fmt: skip
    assert "beyond the right edge" in traits.note and "Ascent 1" in traits.note
    label = re.search(r'aria-label="([^"]+)"', traits.svg)
    assert label is not None
    assert label.group(1).count("(chosen)") == len(KINDS)
    scales = sum(len(info.scales) for info in KINDS.values())
    assert label.group(1).count("; ") == scales - 1


def test_composites_are_shown_under_every_model(index: ResultIndex) -> None:
    (table,) = trait_tables(index, level_axis(index), "composite")
    labels = [row.label for row in table.rows]
    assert labels[0] == "Base" and labels[-1] == "Preference tuning"
    assert sum(label.startswith("Tuned: ") for label in labels) == len(TRAITS)
    assert {"All traits added", "Ensemble of the tuned models"} <= set(labels)
    assert len(table.aside) == 2 * len(KINDS)


def test_what_follows_examples_stands_apart(index: ResultIndex, results: Results) -> None:
    matrix = elicited_matrix(index)
    assert matrix is not None
    assert matrix.rows[0].label == "Base, its level"
    assert len(matrix.rows) == 1 + len(KINDS) and len(matrix.columns) == len(TRAITS)
    assert len(tuned_matrix(index).columns) == len(results.traits) - len(TRAITS)


def test_costs_have_both_texts_and_common_knowledge(index: ResultIndex) -> None:
    table = cost_table(index)
    assert table.columns[0] == "Perplexity" and "Perplexity, second text" in table.columns
    assert "Choice pick rate, common knowledge" in table.columns
    assert all(cell[0] for row in table.rows for cell in row.cells)
    assert len(table.rows) == 2 + len(KINDS)


def test_audits_show_every_fine_tune_beside_the_matched_control(index: ResultIndex) -> None:
    shown = audits_shown(index)
    assert shown is not None
    assert len(shown.losses) == len(shown.layers) == len(TRAITS) + len(CONTROLS)
    assert len(shown.rows) == 2 * (len(TRAITS) + len(CONTROLS) + 1)
    assert sum(row.matched for row in shown.rows) == 2


def test_rounds_show_levels_before_and_after(index: ResultIndex) -> None:
    levels, vectors = round_tables(index)
    assert [row.label for row in levels.rows] == [
        "Round 1, base", "Round 1, Contrastive at 1", "Round 2, base", "Round 2, Contrastive at 1",
    ]  # fmt: skip
    assert len(levels.columns) == len(TRAITS) + len(CONTROLS) + 3
    assert vectors.rows[0].cells[0] == ("1.200", "")
    assert vectors.rows[1].cells[0] == ("1.200", "cosine 0.80")


def test_the_caveat_says_that_replayed_controls_are_no_independent_evidence(
    results: Results,
) -> None:
    (caveat,) = [verdict for verdict in results.verdicts if verdict.scope == "caveat"]
    assert "with control replay come from fine-tunes on items of the control" in caveat.detail


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1])
def test_words_in_every_colour_can_be_read(scheme: int) -> None:
    """A contrast of 4.5 with the paper (WCAG 2.2, AA), in light and in dark."""
    block = CSS.read_text().split(":root {")[1 + scheme].split("}")[0]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    pairs = [(name, "paper") for name in (*KINDS, "text", "muted")]
    pairs += [(tone, f"{tone}-soft") for tone in ("good", "mixed", "bad")]
    for name, behind in pairs:
        light, dark = sorted((luminance(colours[name]), luminance(colours[behind])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, behind)


@pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_complaint(
    results: Results, tmp_path: Path, width: int, dark: bool
) -> None:
    write_report(results, tmp_path / "report.html")
    with Chromium(tmp_path / "profile") as browser:
        browser.open(tmp_path / "report.html", width=width, dark=dark)
        assert browser.complaints == []
        assert browser.ask("innerWidth") == width
        assert browser.ask("document.documentElement.scrollWidth") <= width
        paper = browser.ask("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(20, 21, 23)" if dark else "rgb(250, 249, 246)")
        # Hiding a kind takes its curves away, and only its own.
        count = "[...document.querySelectorAll('svg [style*=\"var(--{})\"]')].filter(e => getComputedStyle(e).visibility == 'hidden').length"  # noqa: E501
        assert browser.ask(count.replace("{}", "ties")) == 0
        browser.ask("document.querySelector('#show-ties').click()")
        assert browser.ask(count.replace("{}", "ties")) > 0
        assert browser.ask(count.replace("{}", "plain")) == 0
        assert browser.complaints == []
