"""Lowered scales before and after further training: a panel for each kind, and the numbers."""

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
from tvmerge.training.report.tables import OtherRow, OtherTable
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import (
    ALL_CONTROLS,
    ALL_TRAITS,
    Measured,
    RelaxMove,
    RelaxPoint,
)
from tvmerge.training.results.wording import chance, number, percent, with_interval
from tvmerge.training.settings.kinds import Kind, kind_title

BEFORE = Look(INKS["muted"], ":", "o")
COLUMNS = (
    "Before",
    "After",
    "Moved",
    "Beyond the chosen scale",
    "p",
    "Beyond the start",
    "Controls moved",
    "Perplexity before",
    "Perplexity after",
)


@dataclass(frozen=True, slots=True)
class LoweredShown:
    """Everything about lowered scales."""

    steps: int
    batch_size: int
    panels: tuple[Panel, ...]
    table: OtherTable


def lowered_shown(index: ResultIndex) -> LoweredShown | None:
    """What further training did at each scale; None where it was not measured."""
    points = [p for p in index.results.relaxed if _move(p, ALL_TRAITS) is not None]
    if not points:
        return None
    edges = [edge for curve in _curves(points) for point in curve for edge in point.edges()]
    limits = widened([*edges, 0.0])
    panels = []
    for kind in index.kinds():
        mine = [point for point in points if point.kind == kind]
        if mine:
            svg = inline_svg(
                framed(lambda axes, mine=mine: _draw(axes, mine, limits)),  # type: ignore[misc]
                name=f"lowered-{kind}",
                label=_spoken(kind, mine),
            )
            panels.append(Panel(kind_title(kind), svg, "should fall, and stay down"))
    return LoweredShown(
        steps=points[0].steps,
        batch_size=points[0].batch_size,
        panels=tuple(panels),
        table=OtherTable("Lowered scales", COLUMNS, tuple(map(_row, points))),
    )


def _move(point: RelaxPoint, what: str) -> RelaxMove | None:
    return next((move for move in point.moves if move.what == what), None)


def _curves(points: Sequence[RelaxPoint]) -> tuple[list[Point], list[Point]]:
    """The mean of the traits by the share of the scale: before and after."""
    moves = [(point.share, move) for point in points if (move := _move(point, ALL_TRAITS))]
    before, after = (
        [Point(share, one.value, one.low, one.high) for share, one in each]
        for each in (
            [(share, move.before) for share, move in moves],
            [(share, move.after) for share, move in moves],
        )
    )
    return before, after


def _draw(axes: Axes, points: Sequence[RelaxPoint], limits: tuple[float, float]) -> None:
    for curve, look in zip(_curves(points), (BEFORE, look_of_kind(points[0].kind)), strict=True):
        draw_line(axes, curve, look, band=True)
        for point in curve:
            draw_mark(axes, point, look, size=3.4)
    axes.axhline(0.0, color=INKS["muted"], linewidth=0.8)
    axes.set_ylim(*limits)
    axes.set_xlim(1.06, -0.06)
    axes.set_xticks([point.share for point in points], [f"{point.share:g}" for point in points])
    axes.set_xlabel("share of the chosen scale", loc="right", labelpad=1)
    axes.locator_params(axis="y", nbins=5)
    set_title(axes, "change from the start")


def _spoken(kind: Kind, points: Sequence[RelaxPoint]) -> str:
    said = [
        f"at {point.scale:g}: {number(move.before.value, sign=True)} before and "
        f"{number(move.after.value, sign=True)} after"
        for point in points
        if (move := _move(point, ALL_TRAITS)) is not None
    ]
    return f"{kind_title(kind)}, mean change of the traits by scale. {'; '.join(said)}."


def _row(point: RelaxPoint) -> OtherRow:
    traits, controls = _move(point, ALL_TRAITS), _move(point, ALL_CONTROLS)
    assert traits is not None  # others are not shown
    shown = [
        _cell(traits.before),
        _cell(traits.after),
        _cell(traits.moved),
        _cell(traits.beyond_chosen),
        ("" if traits.beyond_chosen is None else chance(traits.chance), ""),
        _cell(traits.beyond_start if point.share else None),
        _cell(controls.moved if controls else None),
        _cell(point.perplexity_before, digits=1, sign=False),
        _cell(point.perplexity_after, digits=1, sign=False),
    ]
    scale = f"scale {point.scale:g}, {percent(point.share, sign=False)} of the chosen"
    where = scale if point.share else "the start model"
    return OtherRow(f"{kind_title(point.kind)}, {where}", point.kind, tuple(shown))


def _cell(
    measured: Measured | None, *, digits: int | None = None, sign: bool = True
) -> tuple[str, str]:
    """The value and its interval."""
    if measured is None:
        return "", ""
    low, high = measured.low, measured.high
    said = with_interval(measured.value, low, high, digits=digits, sign=sign)
    value, _, interval = said.partition(" ")
    return value, interval
