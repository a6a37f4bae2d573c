"""Dose-response panels: how far each trait, and perplexity, moves with the scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tvmerge.training.report.charts import (
    MOST_BANDS,
    Panel,
    Point,
    draw_interval,
    draw_line,
    draw_mark,
    framed,
    look_of_kind,
    ratio_axis,
    set_title,
    widened,
)
from tvmerge.training.report.svg import INKS, inline_svg
from tvmerge.training.report.words import PANEL_WORDS
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.measured_model import Control
from tvmerge.training.results.results import Role
from tvmerge.training.results.statistics import Array
from tvmerge.training.results.wording import OUTCOME_TITLES, number
from tvmerge.training.settings.kinds import KINDS, Kind

CONTROL_MARKERS: dict[Control, str] = {"unrelated": "D", "random": "^"}
# Control vectors stand beside the chosen scale, not on it, so that intervals stay apart.
CONTROL_SHIFTS: dict[Control, float] = {"unrelated": 0.05, "random": 0.085}
PANEL_ROLES: tuple[Role, ...] = ("trait", "control", "composite", "capability")
# Of more kinds than this only the unrelated vector is drawn: random ones lie on zero.
MOST_RANDOM = 2
MOST_LINEAR_SCALES = 10.0


@dataclass(frozen=True, slots=True)
class PanelGroup:
    """Kinds whose scales mean the same, and their panels."""

    title: str
    name: str
    kinds: tuple[Kind, ...]
    panels: tuple[Panel, ...]


Change = Callable[[str], tuple[float, float | None, float | None] | None]


def dose_groups(index: ResultIndex) -> list[PanelGroup]:
    """Panels of the negated vectors and, apart, of the direct attempts."""
    groups = []
    for title, name, direct in (("Negated vectors", "", False), ("Direct attempts", "d", True)):
        kinds = tuple(kind for kind in index.kinds() if KINDS[kind].direct == direct)
        if kinds:
            panels = tuple(_Doses(index, kinds, f"dose{name}").panels())
            groups.append(PanelGroup(title, name, kinds, panels))
    return groups


@dataclass(frozen=True, slots=True)
class _Doses:
    index: ResultIndex
    kinds: tuple[Kind, ...]
    name: str

    def panels(self) -> list[Panel]:
        """One for each trait, control, composite and capability, on one axis; one for the cost."""
        index = self.index
        measured = [trait for trait in index.results.traits if trait.role in PANEL_ROLES]
        changes = {trait.name: self._trait_change(trait.name) for trait in measured}
        limits = self._limits(list(changes.values()))
        panels = []
        for place, trait in enumerate(measured):
            change = changes[trait.name]
            figure = self._draw(change, start=0.0, finish=lambda a: self._finish(a, limits))
            label = self._spoken(trait.name, change)
            svg = inline_svg(figure, name=f"{self.name}{place}", label=label)
            panels.append(Panel(index.title(trait.name), svg, PANEL_WORDS[trait.role]))
        figure = self._draw(self._cost, start=1.0, finish=self._finish_cost)
        label = self._spoken("Perplexity", self._cost, said="ratio to the start model")
        svg = inline_svg(figure, name=f"{self.name}cost", label=label)
        return [*panels, Panel("Perplexity", svg, PANEL_WORDS[None])]

    def _trait_change(self, trait: str) -> Change:
        def change(model: str) -> tuple[float, float | None, float | None] | None:
            row = self.index.row(model, trait, self.index.results.primary_outcome)
            if row is None or row.change is None:
                return None
            return row.change, row.change_low, row.change_high

        return change

    def _cost(self, model: str) -> tuple[float, float | None, float | None] | None:
        row = self.index.perplexity(model)
        if row is None or row.ratio is None:
            return None
        return row.ratio, row.ratio_low, row.ratio_high

    def _curve(self, kind: Kind, change: Change, *, start: float = 0.0) -> list[Point]:
        points = [Point(0.0, start, start, start)]
        for model in self.index.negated(kind):
            found = change(model.id)
            if found is not None:
                points.append(Point(model.scale or 0.0, *found))
        return points

    def _controls(self) -> list[Control]:
        return ["unrelated", "random"] if len(self.kinds) <= MOST_RANDOM else ["unrelated"]

    def _control_point(self, kind: Kind, control: Control, change: Change) -> Point | None:
        model, choice = self.index.control(kind, control), self.index.choice(kind)
        found = change(model.id) if model is not None else None
        if choice is None or found is None:
            return None
        # Those of the first kind stand to the left.
        side = -1 if kind == self.kinds[0] else 1
        power = self._power()
        shift = side * CONTROL_SHIFTS[control] * self._widest() ** power
        return Point(max(choice.scale**power + shift, 0.0) ** (1 / power), *found)

    def _draw(self, change: Change, *, start: float, finish: Callable[[Axes], None]) -> Figure:
        """The kinds' curves from `start` at scale 0, control vectors, and what `finish` adds."""

        def draw(axes: Axes) -> None:
            axes.axhline(start, color=INKS["line"], linewidth=0.8)
            for kind in self.kinds:
                self._draw_kind(axes, kind, change, start)
            self._finish_scales(axes)
            finish(axes)

        return framed(draw)

    def _draw_kind(self, axes: Axes, kind: Kind, change: Change, start: float) -> None:
        look, choice = look_of_kind(kind), self.index.choice(kind)
        points = self._curve(kind, change, start=start)
        draw_line(axes, points, look, band=len(self.kinds) <= MOST_BANDS)
        for point in points[1:]:
            chosen = choice is not None and point.at == choice.scale
            draw_mark(axes, point, look, size=7.0 if chosen else 4.2)
        for control in self._controls():
            aside = self._control_point(kind, control, change)
            if aside is not None:
                draw_interval(axes, aside, look.ink)
                axes.plot(
                    [aside.at],
                    [aside.value],
                    marker=CONTROL_MARKERS[control],
                    markersize=5.0,
                    color=INKS["surface"],
                    markeredgecolor=look.ink,
                    markeredgewidth=1.1,
                    zorder=5,
                )

    def _finish(self, axes: Axes, limits: tuple[float, float]) -> None:
        axes.set_ylim(*limits)
        axes.locator_params(axis="y", nbins=5)
        title = OUTCOME_TITLES[self.index.results.primary_outcome].lower()
        set_title(axes, f"change in {title}")

    def _finish_cost(self, axes: Axes) -> None:
        """Percent while perplexity stays in reach of the limit, a logarithmic axis beyond."""
        limit = 1 + self.index.results.max_perplexity_rise
        axes.axhline(limit, color=INKS["muted"], linewidth=0.8, linestyle=":")
        times = ratio_axis(axes, "y", axes.get_ylim()[1])
        set_title(axes, "times the start model's" if times else "change, %")
        axes.annotate("limit", (1.0, limit), xycoords=("axes fraction", "data"),
                      ha="right", va="bottom", fontsize=8, color=INKS["muted"])  # fmt: skip

    def _finish_scales(self, axes: Axes) -> None:
        widest, power = self._widest(), self._power()
        if power == 1:
            axes.set_xlim(-0.03 * widest, 1.12 * widest)
        else:
            axes.set_xscale("function", functions=(_root, np.square))
            axes.set_xlim(0.0, 1.2 * widest)
        scales = _apart(self._scales(), 0.11, power)
        axes.set_xticks([0.0, *scales], labels=["0", *(f"{scale:g}" for scale in scales)])
        axes.set_xlabel("scale", loc="right", labelpad=1)

    def _scales(self) -> list[float]:
        index = self.index
        return sorted({m.scale or 0.0 for kind in self.kinds for m in index.negated(kind)})

    def _widest(self) -> float:
        return max(self._scales(), default=1.0)

    def _power(self) -> float:
        """0.5, a square root's axis, where the scales lie far apart."""
        return 1.0 if self._widest() <= MOST_LINEAR_SCALES * min(self._scales()) else 0.5

    def _limits(self, changes: Sequence[Change]) -> tuple[float, float]:
        values = [0.0]
        for change in changes:
            for kind in self.kinds:
                points = list(self._curve(kind, change))
                controls = (self._control_point(kind, c, change) for c in self._controls())
                points += [point for point in controls if point is not None]
                values += [edge for point in points for edge in point.edges()]
        return widened(values)

    def _spoken(
        self, name: str, change: Change, *, said: str = "change from the start model"
    ) -> str:
        points = [
            f"{KINDS[kind].subject.lower()} at scale {point.at:g}: {number(point.value)}"
            for kind in self.kinds
            for point in self._curve(kind, change)[1:]
        ]
        return f"{self.index.title(name)}, {said}. {'; '.join(points)}."


def _apart(scales: Sequence[float], least: float, power: float) -> list[float]:
    """Those that can be labelled without touching each other or the 0, the largest first."""
    widest = max(scales) ** power
    kept: list[float] = []
    for scale in sorted(scales, reverse=True):
        right = kept[-1] ** power if kept else math.inf
        if min(right - scale**power, scale**power) >= least * widest:
            kept.append(scale)
    return kept[::-1]


def _root(scales: Array) -> Array:
    root: Array = np.sqrt(np.clip(scales, 0, None))
    return root
