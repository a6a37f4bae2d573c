"""What all charts of the page share: each kind's line and mark, intervals, the frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from tvmerge.training.report.svg import INKS, STYLE, inline_svg
from tvmerge.training.results.wording import number
from tvmerge.training.settings.kinds import KINDS, Kind

PANEL_INCHES = (3.3, 2.35)
LARGEST_LINEAR_RATIO = 2.0
# Bands of more curves than this hide each other: intervals are drawn as bars instead.
MOST_BANDS = 3
DASHES = dict(
    zip(KINDS, ("--", "-", "-", "-.", "-", "--", ":", "--", ":", "--", "-", "-."), strict=True)
)
MARKERS = dict(zip(KINDS, "soP*X>hp<v^D", strict=True))


@dataclass(frozen=True, slots=True)
class Point:
    """A measured value at `at`, with its interval where it has one."""

    at: float
    value: float
    low: float | None
    high: float | None

    def edges(self) -> list[float]:
        """What an axis has to hold."""
        return [edge for edge in (self.value, self.low, self.high) if edge is not None]


@dataclass(frozen=True, slots=True)
class Panel:
    """One small chart of the page; `note` says what it should look like."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """How a curve is drawn."""

    ink: str
    dashes: str
    marker: str


def look_of_kind(kind: Kind) -> Look:
    """The kind's own colour, dashes and mark."""
    return Look(INKS[kind], DASHES[kind], MARKERS[kind])


def framed(
    draw: Callable[[Axes], None],
    *,
    inches: tuple[float, float] = PANEL_INCHES,
    left: float = 0.135,
) -> Figure:
    """A figure with one frame that `draw` fills."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=inches)
        axes = figure.add_axes((left, 0.155, 0.975 - left, 0.745))
        axes.tick_params(length=2.5, width=0.8)
        axes.yaxis.grid(visible=True, color=INKS["line"], linewidth=0.5, alpha=0.6)
        axes.set_axisbelow(True)
        draw(axes)
    return figure


def set_title(axes: Axes, text: str) -> None:
    """What the vertical axis says, above it."""
    left = axes.get_position().x0 / axes.get_position().width
    axes.set_title(text, loc="left", fontsize=8.5, color=INKS["muted"], pad=6, x=-left)


def draw_line(axes: Axes, points: Sequence[Point], look: Look, *, band: bool) -> None:
    """The curve with its intervals, as a band or as bars."""
    axes.plot(
        [point.at for point in points],
        [point.value for point in points],
        color=look.ink,
        linestyle=look.dashes,
        linewidth=1.6,
    )
    known = [point for point in points if point.low is not None and point.high is not None]
    if band:
        axes.fill_between(
            [point.at for point in known],
            [point.low or 0.0 for point in known],
            [point.high or 0.0 for point in known],
            color=look.ink,
            alpha=0.16,
            linewidth=0,
        )
        return
    for point in known:
        draw_interval(axes, point, look.ink)


def draw_interval(axes: Axes, point: Point, ink: str) -> None:
    """The interval as a bar, where there is one."""
    if point.low is not None and point.high is not None:
        axes.plot([point.at] * 2, [point.low, point.high], color=ink, linewidth=1.0)


def draw_mark(axes: Axes, point: Point, look: Look, *, size: float = 4.2) -> None:
    """A filled mark, cut out of what lies below it."""
    axes.plot(
        [point.at],
        [point.value],
        marker=look.marker,
        markersize=size,
        color=look.ink,
        markeredgecolor=INKS["surface"],
        markeredgewidth=0.8,
        clip_on=False,
        zorder=4,
    )


def ratio_axis(axes: Axes, which: Literal["x", "y"], highest: float) -> bool:
    """Make an axis of ratios: percent while they are small, times on a logarithmic axis beyond."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    lowest = axes.dataLim.xmin if which == "x" else axes.dataLim.ymin
    if highest > LARGEST_LINEAR_RATIO:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        (axes.set_xlim if which == "x" else axes.set_ylim)(0.9 * min(1.0, lowest), highest)
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=8))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda ratio, _: f"\N{MULTIPLICATION SIGN}{ratio:g}")
        return True
    axes.locator_params(axis=which, nbins=5)
    axis.set_major_formatter(lambda ratio, _: number(100 * (ratio - 1), digits=0))
    return False


def widened(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Limits that hold the values with a margin."""
    low, high = min(values), max(values)
    margin = share * (high - low or 1.0)
    return low - margin, high + margin


def legend_key(kind: Kind) -> str:
    """The kind's line and mark, as a legend shows them."""
    look = look_of_kind(kind)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.44, 0.16))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.plot([0, 1], [0, 0], color=look.ink, linestyle=look.dashes, linewidth=1.8)
        draw_mark(axes, Point(0.5, 0.0, None, None), look, size=6.5)
    return inline_svg(figure, name=f"key-{kind}", label="")
