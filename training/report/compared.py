"""A comparison of two studies as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from tvmerge.training.report.page import page_environment
from tvmerge.training.report.words import TONES
from tvmerge.training.settings.kinds import KINDS
from tvmerge.training.verdicts.comparison import Comparison
from tvmerge.training.verdicts.comparison_tables import headline


def write_comparison(compared: Comparison, path: Path) -> None:
    """Write the page to `path`, whole or not at all."""
    page = (
        page_environment()
        .get_template("compared.html.jinja")
        .render(compared=compared, headline=headline, all_kinds=KINDS, tones=TONES)
    )
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
