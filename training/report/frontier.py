"""What each kind and scale gains, and what it costs: change of the traits against perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from tvmerge.training.report.charts import (
    LARGEST_LINEAR_RATIO,
    Panel,
    Point,
    draw_interval,
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
from tvmerge.training.results.results import ALL_COMPOSITES, ALL_CONTROLS, ALL_TRAITS, Role
from tvmerge.training.results.wording import OUTCOME_TITLES, listed, number, percent
from tvmerge.training.settings.kinds import BASE, Kind, kind_title

PANELS: tuple[tuple[str, str, Role], ...] = (
    ("All traits", ALL_TRAITS, "trait"),
    ("All control traits", ALL_CONTROLS, "control"),
    ("All composites", ALL_COMPOSITES, "composite"),
)
INCHES = (4.6, 3.1)
LIMITS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Spot:
    """One kind at one scale, counted from the base: `point.at` is the ratio of perplexities."""

    kind: Kind
    scale: float
    chosen: bool
    point: Point


def frontier_panels(index: ResultIndex) -> list[Panel]:
    """One panel for the traits, one for the controls, one for the composites."""
    found = [(title, role, _spots(index, group)) for title, group, role in PANELS]
    known = [(title, role, spots) for title, role, spots in found if spots]
    if not known:
        return []
    edge = _right_edge(index, [spot for _, _, spots in known for spot in spots])
    seen = [spot.point for _, _, spots in known for spot in spots if spot.point.at <= edge]
    limits = widened([0.0, *(value for point in seen for value in point.edges())])
    return [
        Panel(
            title=title,
            svg=inline_svg(
                framed(
                    lambda axes, spots=spots: _draw(axes, index, spots, edge, limits),  # type: ignore[misc]
                    inches=INCHES,
                    left=0.1,
                ),
                name=f"frontier-{role}",
                label=_spoken(title, spots),
            ),
            note=_note(role, [spot for spot in spots if spot.point.at > edge]),
        )
        for title, role, spots in known
    ]


def _spots(index: ResultIndex, group: str) -> list[Spot]:
    outcome = index.results.primary_outcome
    base = index.row(BASE, group, outcome)
    spots = []
    for kind in index.kinds():
        choice = index.choice(kind)
        for model in index.negated(kind):
            row, cost = index.row(model.id, group, outcome), index.perplexity(model.id)
            if base is None or row is None or cost is None or cost.base_ratio is None:
                continue
            low, high = _interval(index, model.id, group)
            spots.append(
                Spot(
                    kind=kind,
                    scale=model.scale or 0.0,
                    chosen=choice is not None and choice.model == model.id,
                    point=Point(cost.base_ratio, row.value - base.value, low, high),
                )
            )
    return spots


def _right_edge(index: ResultIndex, spots: Sequence[Spot]) -> float:
    """What costs several times the limit lies beyond it, unless it was chosen."""
    farthest = max(spot.point.at for spot in spots)
    within = 1 + LIMITS_SHOWN * index.results.max_perplexity_rise
    chosen = [spot.point.at for spot in spots if spot.chosen]
    return min(farthest, max([within, *chosen]))


def _note(role: Role, beyond: Sequence[Spot]) -> str:
    said = [f"{kind_title(spot.kind)} {spot.scale:g}" for spot in beyond]
    words = PANEL_WORDS[role]
    return f"{words}; beyond the right edge: {listed(said)}" if said else words


def _interval(index: ResultIndex, model: str, group: str) -> tuple[float | None, float | None]:
    """Of the change from the base: measured directly, or the contrast of a chosen model."""
    outcome = index.results.primary_outcome
    row = index.row(model, group, outcome)
    about = next(one for one in index.results.models if one.id == model)
    if about.reference == BASE and row is not None:
        return row.change_low, row.change_high
    contrast = index.contrast("from_base", model, group, outcome)
    return (contrast.low, contrast.high) if contrast is not None else (None, None)


def _draw(
    axes: Axes,
    index: ResultIndex,
    spots: Sequence[Spot],
    edge: float,
    limits: tuple[float, float],
) -> None:
    limit = 1 + index.results.max_perplexity_rise
    axes.axhline(0.0, color=INKS["line"], linewidth=0.8)
    axes.axvline(limit, color=INKS["muted"], linewidth=0.8, linestyle=":")
    axes.annotate(
        "limit",
        (limit, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, -2),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color=INKS["muted"],
    )
    for kind in index.kinds():
        look = look_of_kind(kind)
        mine = [spot for spot in spots if spot.kind == kind]
        path = [(1.0, 0.0), *((spot.point.at, spot.point.value) for spot in mine)]
        axes.plot(*zip(*path, strict=True), color=look.ink, linestyle=look.dashes, linewidth=1.0)
        for spot in mine:
            if spot.point.at > edge:
                continue
            if spot.chosen:
                draw_interval(axes, spot.point, look.ink)
            draw_mark(axes, spot.point, look, size=8.0 if spot.chosen else 4.2)
    lowest = min([1.0, *(spot.point.at for spot in spots)])
    axes.set_xlim(*widened([lowest, max(edge, limit)], 0.04))
    times = ratio_axis(axes, "x", 1.1 * edge if edge > LARGEST_LINEAR_RATIO else edge)
    axes.set_ylim(*limits)
    axes.set_xlabel(
        "perplexity, times the base's" if times else "perplexity, % above the base",
        loc="right",
        labelpad=1,
    )
    axes.locator_params(axis="y", nbins=6)
    title = OUTCOME_TITLES[index.results.primary_outcome].lower()
    set_title(axes, f"change in {title}, from the base")


def _spoken(title: str, spots: Sequence[Spot]) -> str:
    said = [
        f"{spot.kind} {spot.scale:g}{' (chosen)' if spot.chosen else ''}: "
        f"{number(spot.point.value)} at {percent(spot.point.at - 1)}"
        for spot in spots
    ]
    return f"{title}: change from the base, at which rise of perplexity. {'; '.join(said)}."
