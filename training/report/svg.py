"""Matplotlib figures as inline SVG that takes its colours and type from the page around it."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Literal, get_args

import matplotlib as mpl

from tvmerge.training.settings.kinds import KINDS, Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Ink = Literal["text", "muted", "line", "surface"]

# Matplotlib wants real colours; the page turns each of these into its own, light or dark.
INKS: dict[Ink | Kind, str] = {
    ink: f"#{place:02d}{place:02d}{place:02d}"
    for place, ink in enumerate((*get_args(Ink), *KINDS), start=1)
}
STYLE: Any = {  # newer matplotlib wants its own type of mapping
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and scaled
    "svg.hashsalt": "tvmerge",  # the same results give the same bytes
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": INKS["line"],
    "axes.labelcolor": INKS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": True,
    "xtick.color": INKS["line"],
    "ytick.color": INKS["line"],
    "xtick.labelcolor": INKS["muted"],
    "ytick.labelcolor": INKS["muted"],
    "text.color": INKS["text"],
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def inline_svg(figure: Figure, *, name: str, label: str) -> str:
    """The figure as an `<svg>` element; `name` keeps its ids apart, `label` is read aloud."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for ink, colour in INKS.items():
        text = text.replace(colour, f"var(--{ink})")
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', text)
    if size:
        text = text.replace(size.group(0), "", 1)
    said = f'role="img" aria-label="{_attribute(label)}"' if label else 'aria-hidden="true"'
    return text.replace("<svg ", f"<svg {said} ", 1)


def _attribute(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace('"', "&quot;")
    return escaped.replace("<", "&lt;").replace(">", "&gt;")
