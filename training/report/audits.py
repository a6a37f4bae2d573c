"""What the fine-tunes look like beside the unrelated trait's: losses, norms, ranks, agreement."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from tvmerge.training.report.charts import Panel, framed, set_title, widened
from tvmerge.training.report.svg import INKS, inline_svg
from tvmerge.training.report.words import ROLE_WORDS
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import FinetuneAudit
from tvmerge.training.results.wording import number

NUMBERED = re.compile(r"\.(\d+)$")
COLUMNS = ("First loss", "Last loss", "Norm", "Stable rank", "Agreement of seeds")
POLES = {"have": "to have it", "lack": "to lack it"}
DASHES = {"have": "-", "lack": (0, (4, 2))}

Curve = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One fine-tune in numbers."""

    label: str
    matched: bool
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditShown:
    """Panels of losses, panels of norms by layer, and the table."""

    losses: tuple[Panel, ...]
    layers: tuple[Panel, ...]
    rows: tuple[AuditRow, ...]
    matched: str


def audits_shown(index: ResultIndex) -> AuditShown | None:
    """Everything that audits found; None where there were none."""
    audits = index.results.audits
    if not audits:
        return None
    matched = [audit for audit in audits if audit.role == "unrelated"]
    return AuditShown(
        losses=_panels(index, "loss", "nats per answer token", "step", _losses),
        layers=_panels(index, "norm", "norm of the vector", "layer", _layers),
        rows=tuple(_row(index, audit) for audit in audits),
        matched=index.title(matched[0].trait) if matched else "",
    )


def _losses(audit: FinetuneAudit) -> Curve:
    return [(float(step), loss) for step, loss in enumerate(audit.losses, start=1)]


def _layers(audit: FinetuneAudit) -> Curve:
    """The numbered layers, in order."""
    found = [
        (float(match.group(1)), norm)
        for name, norm in audit.layers.items()
        if (match := NUMBERED.search(name))
    ]
    return sorted(found)


def _panels(
    index: ResultIndex,
    name: str,
    unit: str,
    along: str,
    curve: Callable[[FinetuneAudit], Curve],
) -> tuple[Panel, ...]:
    """One panel for each trait with what was trained, the matched control behind it."""
    audits = [audit for audit in index.results.audits if curve(audit)]
    matched = [audit for audit in audits if audit.role == "unrelated"]
    traits = dict.fromkeys(audit.trait for audit in audits if audit.role != "unrelated")
    limits = widened([value for audit in audits for _, value in curve(audit)] or [0.0])
    panels = []
    for place, trait in enumerate(traits):
        mine = [audit for audit in audits if audit.trait == trait]

        def draw(axes: Axes, mine: Sequence[FinetuneAudit] = mine) -> None:
            for audit in matched:
                _draw(axes, audit, curve, ink=INKS["muted"], width=0.9)
            for audit in mine:
                _draw(axes, audit, curve, ink=INKS["text"], width=1.6)
            axes.set_ylim(*limits)
            axes.locator_params(nbins=6, integer=True, axis="x")
            axes.locator_params(nbins=5, axis="y")
            axes.set_xlabel(along, loc="right", labelpad=1)
            set_title(axes, unit)

        said = [
            f"{POLES[audit.pole]}: from {number(curve(audit)[0][1])} to "
            f"{number(curve(audit)[-1][1])}"
            for audit in mine
        ]
        svg = inline_svg(
            framed(draw),
            name=f"audit-{name}{place}",
            label=f"{index.title(trait)}, {unit} by {along}. {'; '.join(said)}.",
        )
        note = "" if mine[0].role == "trait" else ROLE_WORDS[mine[0].role]
        panels.append(Panel(index.title(trait), svg, note))
    return tuple(panels)


def _draw(
    axes: Axes,
    audit: FinetuneAudit,
    curve: Callable[[FinetuneAudit], Curve],
    *,
    ink: str,
    width: float,
) -> None:
    along, values = zip(*curve(audit), strict=True)
    axes.plot(along, values, color=ink, linewidth=width, linestyle=DASHES[audit.pole])


def _row(index: ResultIndex, audit: FinetuneAudit) -> AuditRow:
    first, last = (audit.losses[0], audit.losses[-1]) if audit.losses else (None, None)
    return AuditRow(
        label=f"{index.title(audit.trait)}, {POLES[audit.pole]}",
        matched=audit.role == "unrelated",
        cells=(
            number(first),
            number(last),
            number(audit.norm, digits=3),
            number(audit.stable_rank, digits=1),
            number(audit.agreement),
        ),
    )
