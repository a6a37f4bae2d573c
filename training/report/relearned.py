"""How quickly each trait comes back: curves by lesson and trait, and the steps that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from tvmerge.training.report.charts import (
    Look,
    Panel,
    Point,
    draw_line,
    draw_mark,
    framed,
    look_of_kind,
    set_title,
    widened,
)
from tvmerge.training.report.svg import INKS, inline_svg
from tvmerge.training.report.tables import removed_label
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import RelearnCurve
from tvmerge.training.results.wording import (
    NO_BREAK,
    OUTCOME_TITLES,
    chance,
    interval,
    number,
    with_interval,
)
from tvmerge.training.settings.kinds import BASE, FORMATTED, Kind
from tvmerge.training.settings.sections import Lesson

LESSONS: dict[Lesson, str] = {
    "same": "Trained on its own items again",
    "other_form": "Trained on another form of its items",
    "benign": "Trained on something unrelated",
}
STARTS: dict[str, tuple[str, Look]] = {
    BASE: ("Base", Look(INKS["text"], "-", "o")),
    FORMATTED: ("Base that knows the format", Look(INKS["muted"], ":", "o")),
}
# Curves stand a little beside each other, so that their intervals do: in steps of the axis' width.
DODGE = 0.008
AT_LEAST = f"\N{GREATER-THAN OR EQUAL TO}{NO_BREAK}"


@dataclass(frozen=True, slots=True)
class StepsRow:
    """How many steps one model takes to each trait, and how many more than its start."""

    label: str
    kind: Kind | None
    cells: tuple[tuple[str, str], ...]
    longer: str
    chance: str


@dataclass(frozen=True, slots=True)
class LessonShown:
    """One lesson's panels and table."""

    title: str
    panels: tuple[Panel, ...]
    columns: tuple[str, ...]
    rows: tuple[StepsRow, ...]
    batch_size: int


def lessons_shown(index: ResultIndex) -> list[LessonShown]:
    """Every lesson that was measured, the traits' own items first."""
    return [
        _shown(index, lesson, curves)
        for lesson in LESSONS
        if (curves := [c for c in index.results.relearning if c.lesson == lesson])
    ]


def _shown(index: ResultIndex, lesson: Lesson, curves: Sequence[RelearnCurve]) -> LessonShown:
    traits = list(dict.fromkeys(curve.trait for curve in curves))
    edges = [edge for c in curves for point in _points(c) for edge in (*point.edges(), c.level)]
    limits = widened(edges)
    panels = []
    for place, trait in enumerate(traits):
        mine = [curve for curve in curves if curve.trait == trait]
        svg = inline_svg(
            framed(lambda axes, mine=mine: _draw(axes, index, mine, limits)),  # type: ignore[misc]
            name=f"back-{lesson}{place}",
            label=_spoken(index, trait, mine),
        )
        panels.append(Panel(index.title(trait), svg))
    models = dict.fromkeys(curve.model for curve in curves)
    return LessonShown(
        title=LESSONS[lesson],
        panels=tuple(panels),
        columns=tuple(index.title(trait) for trait in traits),
        rows=tuple(_row(index, lesson, model, traits, curves) for model in models),
        batch_size=curves[0].batch_size,
    )


def _points(curve: RelearnCurve, shift: float = 0.0) -> list[Point]:
    measured = zip(curve.steps, curve.values, curve.lows, curve.highs, strict=True)
    return [Point(step + shift, value, low, high) for step, value, low, high in measured]


def _draw(
    axes: Axes, index: ResultIndex, curves: Sequence[RelearnCurve], limits: tuple[float, float]
) -> None:
    last = curves[0].steps[-1]
    axes.axhline(curves[0].level, color=INKS["muted"], linewidth=0.8, linestyle=":")
    axes.annotate(
        "level",
        (0.0, curves[0].level),
        xycoords=("axes fraction", "data"),
        xytext=(3, 1),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=8,
        color=INKS["muted"],
    )
    for place, curve in enumerate(curves):
        look = _look(index, curve.model)
        points = _points(curve, DODGE * last * (place - (len(curves) - 1) / 2))
        draw_line(axes, points, look, band=False)
        for point in points:
            draw_mark(axes, point, look, size=3.4)
    axes.set_ylim(*limits)
    axes.set_xlim(-0.06 * last, 1.06 * last)
    axes.set_xticks(curves[0].steps)
    axes.set_xlabel("steps", loc="right", labelpad=1)
    axes.locator_params(axis="y", nbins=5)
    set_title(axes, OUTCOME_TITLES[index.results.primary_outcome].lower())


def _kind(index: ResultIndex, model: str) -> Kind | None:
    return next((c.kind for c in index.results.choices if c.model == model), None)


def _look(index: ResultIndex, model: str) -> Look:
    kind = _kind(index, model)
    return STARTS[model][1] if kind is None else look_of_kind(kind)


def _label(index: ResultIndex, model: str) -> str:
    kind = _kind(index, model)
    return STARTS[model][0] if kind is None else removed_label(kind)


def _spoken(index: ResultIndex, trait: str, curves: Sequence[RelearnCurve]) -> str:
    said = [
        f"{_label(index, c.model)}: from {number(c.values[0])} to {number(c.values[-1])}, "
        f"{_steps(c)} steps to the level"
        for c in curves
    ]
    return f"{index.title(trait)} by step. {'; '.join(said)}."


def _steps(curve: RelearnCurve) -> str:
    # Where a seed did not reach the level, its last step counts: the mean is then the least.
    least = "" if curve.reached else AT_LEAST
    return f"{least}{number(curve.steps_to_level, digits=1)}"


def _row(
    index: ResultIndex,
    lesson: Lesson,
    model: str,
    traits: Sequence[str],
    curves: Sequence[RelearnCurve],
) -> StepsRow:
    mine = {curve.trait: curve for curve in curves if curve.model == model}
    longer = next(
        (c for c in index.results.relearn_contrasts if (c.model, c.lesson) == (model, lesson)), None
    )
    return StepsRow(
        label=_label(index, model),
        kind=_kind(index, model),
        cells=tuple(
            (_steps(mine[trait]), _steps_interval(mine[trait])) if trait in mine else ("", "")
            for trait in traits
        ),
        longer=with_interval(longer.value, longer.low, longer.high, digits=1) if longer else "",
        chance=chance(longer.chance_of_no_delay) if longer else "",
    )


def _steps_interval(curve: RelearnCurve) -> str:
    if curve.steps_low is None or curve.steps_low == curve.steps_high:
        return ""
    return interval(curve.steps_low, curve.steps_high, digits=1)
