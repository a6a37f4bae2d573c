"""Dose-response panels: how far each trait, and perplexity, moves with the scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tvmerge.training.config import Kind
from tvmerge.training.index import ResultIndex
from tvmerge.training.measured_model import Control
from tvmerge.training.report.svg import INKS, STYLE, inline_svg
from tvmerge.training.results import ALL_CONTROLS, ALL_TRAITS, Role
from tvmerge.training.wording import OUTCOME_TITLES, number

PANEL_INCHES = (3.3, 2.35)
DASHES: dict[Kind, str] = {"plain": "--", "contrastive": "-"}
MARKERS: dict[Kind, str] = {"plain": "s", "contrastive": "o"}
CONTROL_MARKERS: dict[Control, str] = {"unrelated": "D", "random": "^"}
# Control vectors stand beside the chosen scale, not on it, so that intervals stay apart.
CONTROL_SHIFTS: dict[tuple[Kind, Control], float] = {
    ("plain", "unrelated"): -0.05,
    ("plain", "random"): -0.085,
    ("contrastive", "unrelated"): 0.05,
    ("contrastive", "random"): 0.085,
}


@dataclass(frozen=True, slots=True)
class Point:
    """A measured change, with its interval where it has one."""

    scale: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Panel:
    """One small chart of the page."""

    title: str
    role: Role | None
    svg: str


Change = Callable[[str], tuple[float, float | None, float | None] | None]


def dose_panels(index: ResultIndex) -> list[Panel]:
    """A panel for each trait, each control and perplexity; traits share one vertical axis."""
    measured = [trait for trait in index.results.traits if trait.role != "unrelated"]
    changes = {trait.name: _trait_change(index, trait.name) for trait in measured}
    limits = _limits(index, list(changes.values()))
    panels = []
    for place, trait in enumerate(measured):
        figure = _draw(index, changes[trait.name], limits=limits)
        label = _spoken(index, trait.name, changes[trait.name])
        svg = inline_svg(figure, name=f"dose{place}", label=label)
        panels.append(Panel(title=index.title(trait.name), role=trait.role, svg=svg))
    cost = _perplexity_change(index)
    figure = _draw(index, cost, limits=None, share=index.results.max_perplexity_rise)
    label = _spoken(index, "perplexity", cost)
    svg = inline_svg(figure, name="dosecost", label=label)
    return [*panels, Panel(title="Perplexity", role=None, svg=svg)]


def _trait_change(index: ResultIndex, trait: str) -> Change:
    def change(model: str) -> tuple[float, float | None, float | None] | None:
        row = index.row(model, trait, index.results.primary_outcome)
        if row is None or row.change is None:
            return None
        return row.change, row.change_low, row.change_high

    return change


def _perplexity_change(index: ResultIndex) -> Change:
    def change(model: str) -> tuple[float, float | None, float | None] | None:
        row = index.perplexity(model)
        if row is None or row.ratio is None:
            return None
        low = None if row.ratio_low is None else 100 * (row.ratio_low - 1)
        high = None if row.ratio_high is None else 100 * (row.ratio_high - 1)
        return 100 * (row.ratio - 1), low, high

    return change


def _curve(index: ResultIndex, kind: Kind, change: Change) -> list[Point]:
    points = [Point(0.0, 0.0, 0.0, 0.0)]
    for model in index.negated(kind):
        found = change(model.id)
        if found is not None:
            points.append(Point(model.scale or 0.0, *found))
    return points


def _control_point(
    index: ResultIndex, kind: Kind, control: Control, change: Change
) -> Point | None:
    model, choice = index.control(kind, control), index.choice(kind)
    found = change(model.id) if model is not None else None
    if choice is None or found is None:
        return None
    shift = CONTROL_SHIFTS[kind, control] * _widest(index)
    return Point(choice.scale + shift, *found)


def _draw(
    index: ResultIndex,
    change: Change,
    *,
    limits: tuple[float, float] | None,
    share: float | None = None,
) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=PANEL_INCHES)
        axes = figure.add_axes((0.135, 0.155, 0.84, 0.745))
        axes.axhline(0.0, color=INKS["line"], linewidth=0.8)
        for kind in index.kinds():
            _draw_curve(axes, index, kind, _curve(index, kind, change))
            for control in CONTROL_MARKERS:
                point = _control_point(index, kind, control, change)
                if point is not None:
                    _draw_control(axes, kind, control, point)
        if share is not None:
            axes.axhline(100 * share, color=INKS["muted"], linewidth=0.8, linestyle=":")
            axes.annotate("limit", (1.0, 100 * share), xycoords=("axes fraction", "data"),
                          ha="right", va="bottom", fontsize=8, color=INKS["muted"])  # fmt: skip
        _finish(axes, index, limits=limits, unit="change, %" if share is not None else None)
    return figure


def _draw_curve(axes: Axes, index: ResultIndex, kind: Kind, points: Sequence[Point]) -> None:
    ink, scales = INKS[kind], [point.scale for point in points]
    known = [p for p in points if p.low is not None and p.high is not None]
    axes.fill_between(
        [point.scale for point in known],
        [point.low or 0.0 for point in known],
        [point.high or 0.0 for point in known],
        color=ink,
        alpha=0.16,
        linewidth=0,
    )
    values = [point.value for point in points]
    axes.plot(scales, values, color=ink, linestyle=DASHES[kind], linewidth=1.6)
    choice = index.choice(kind)
    for point in points[1:]:
        chosen = choice is not None and point.scale == choice.scale
        axes.plot(
            [point.scale],
            [point.value],
            marker=MARKERS[kind],
            markersize=7.0 if chosen else 4.2,
            color=ink,
            markeredgecolor=INKS["surface"],
            markeredgewidth=1.0,
            clip_on=False,
            zorder=4,
        )


def _draw_control(axes: Axes, kind: Kind, control: Control, point: Point) -> None:
    if point.low is not None and point.high is not None:
        axes.plot([point.scale] * 2, [point.low, point.high], color=INKS[kind], linewidth=1.0)
    axes.plot(
        [point.scale],
        [point.value],
        marker=CONTROL_MARKERS[control],
        markersize=5.0,
        color=INKS["surface"],
        markeredgecolor=INKS[kind],
        markeredgewidth=1.1,
        zorder=5,
    )


def _finish(
    axes: Axes, index: ResultIndex, *, limits: tuple[float, float] | None, unit: str | None
) -> None:
    scales = sorted({model.scale or 0.0 for kind in index.kinds() for model in index.negated(kind)})
    widest = _widest(index)
    axes.set_xlim(-0.03 * widest, 1.12 * widest)
    axes.set_xticks([0.0, *scales], labels=["0", *(f"{scale:g}" for scale in scales)])
    axes.set_xlabel("scale", loc="right", labelpad=1)
    if limits is not None:
        axes.set_ylim(*limits)
    title = unit or f"change in {OUTCOME_TITLES[index.results.primary_outcome].lower()}"
    axes.set_title(title, loc="left", fontsize=8.5, color=INKS["muted"], pad=6, x=-0.135)
    axes.tick_params(length=2.5, width=0.8)
    axes.locator_params(axis="y", nbins=5)
    axes.yaxis.grid(visible=True, color=INKS["line"], linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)


def _limits(index: ResultIndex, changes: Sequence[Change]) -> tuple[float, float]:
    values = [0.0]
    for change in changes:
        for kind in index.kinds():
            points = list(_curve(index, kind, change))
            controls = (_control_point(index, kind, c, change) for c in CONTROL_MARKERS)
            points += [point for point in controls if point is not None]
            for point in points:
                values += [v for v in (point.value, point.low, point.high) if v is not None]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low or 1.0)
    return low - margin, high + margin


def _widest(index: ResultIndex) -> float:
    return max(
        (model.scale or 0.0 for kind in index.kinds() for model in index.negated(kind)),
        default=1.0,
    )


def _spoken(index: ResultIndex, name: str, change: Change) -> str:
    title = index.title(name) if name not in (ALL_TRAITS, ALL_CONTROLS) else name
    said = [
        f"{kind} vectors at scale {point.scale:g}: {number(point.value, sign=True)}"
        for kind in index.kinds()
        for point in _curve(index, kind, change)[1:]
    ]
    return f"{title}, change from the start model. {'; '.join(said)}."
