"""Dose-response panels: how far each trait, and perplexity, moves with the scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from tvmerge.training.config import Kind
from tvmerge.training.index import ResultIndex
from tvmerge.training.measured_model import Control
from tvmerge.training.report.svg import INKS, STYLE, inline_svg
from tvmerge.training.results import Role
from tvmerge.training.wording import OUTCOME_TITLES, number

PANEL_INCHES = (3.3, 2.35)
LARGEST_LINEAR_RATIO = 2.0
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
        figure = _draw(
            index,
            changes[trait.name],
            start=0.0,
            finish=lambda axes: _finish_change(axes, index, limits),
        )
        label = _spoken(index, trait.name, changes[trait.name])
        svg = inline_svg(figure, name=f"dose{place}", label=label)
        panels.append(Panel(title=index.title(trait.name), role=trait.role, svg=svg))
    cost = _perplexity_change(index)
    limit = index.results.max_perplexity_rise
    figure = _draw(index, cost, start=1.0, finish=lambda axes: _finish_cost(axes, limit))
    label = _spoken(index, "Perplexity", cost, said="ratio to the start model")
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
        return row.ratio, row.ratio_low, row.ratio_high

    return change


def _curve(index: ResultIndex, kind: Kind, change: Change, *, start: float = 0.0) -> list[Point]:
    points = [Point(0.0, start, start, start)]
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
    index: ResultIndex, change: Change, *, start: float, finish: Callable[[Axes], None]
) -> Figure:
    """The kinds' curves from `start` at scale 0, their control vectors, and what `finish` adds."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=PANEL_INCHES)
        axes = figure.add_axes((0.135, 0.155, 0.84, 0.745))
        axes.axhline(start, color=INKS["line"], linewidth=0.8)
        for kind in index.kinds():
            _draw_curve(axes, index, kind, _curve(index, kind, change, start=start))
            for control in CONTROL_MARKERS:
                point = _control_point(index, kind, control, change)
                if point is not None:
                    _draw_control(axes, kind, control, point)
        _finish_scales(axes, index)
        finish(axes)
    return figure


def _finish_change(axes: Axes, index: ResultIndex, limits: tuple[float, float]) -> None:
    axes.set_ylim(*limits)
    axes.locator_params(axis="y", nbins=5)
    _set_title(axes, f"change in {OUTCOME_TITLES[index.results.primary_outcome].lower()}")


def _finish_cost(axes: Axes, limit: float) -> None:
    """Percent while perplexity stays in reach of the limit, a logarithmic axis beyond."""
    axes.axhline(1 + limit, color=INKS["muted"], linewidth=0.8, linestyle=":")
    highest = axes.get_ylim()[1]
    if highest > LARGEST_LINEAR_RATIO:
        axes.set_yscale("log")
        axes.set_ylim(0.9, highest)
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=8))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda ratio, _: f"\N{MULTIPLICATION SIGN}{ratio:g}")
    else:
        axes.locator_params(axis="y", nbins=5)
        axes.yaxis.set_major_formatter(lambda ratio, _: number(100 * (ratio - 1), digits=0))
    _set_title(axes, "change, %" if highest <= LARGEST_LINEAR_RATIO else "times the start model's")
    axes.annotate("limit", (1.0, 1 + limit), xycoords=("axes fraction", "data"),
                  ha="right", va="bottom", fontsize=8, color=INKS["muted"])  # fmt: skip


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


def _finish_scales(axes: Axes, index: ResultIndex) -> None:
    scales = sorted({model.scale or 0.0 for kind in index.kinds() for model in index.negated(kind)})
    widest = _widest(index)
    axes.set_xlim(-0.03 * widest, 1.12 * widest)
    axes.set_xticks([0.0, *scales], labels=["0", *(f"{scale:g}" for scale in scales)])
    axes.set_xlabel("scale", loc="right", labelpad=1)
    axes.tick_params(length=2.5, width=0.8)
    axes.yaxis.grid(visible=True, color=INKS["line"], linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)


def _set_title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=8.5, color=INKS["muted"], pad=6, x=-0.135)


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


def _spoken(
    index: ResultIndex, name: str, change: Change, *, said: str = "change from the start model"
) -> str:
    points = [
        f"{kind} vectors at scale {point.scale:g}: {number(point.value)}"
        for kind in index.kinds()
        for point in _curve(index, kind, change)[1:]
    ]
    return f"{index.title(name)}, {said}. {'; '.join(points)}."
