"""`results.json` as one self-contained HTML page: no scripts, nothing from the network."""

from __future__ import annotations

from pathlib import Path

from tvmerge.training.results.results import Results


def write_report(results: Results, path: Path) -> None:
    """Write the page to `path`, whole or not at all.

    write_report(load_results(Path("out/results.json")), Path("out/report.html"))
    """
    # matplotlib takes half a second to import, which `tvmerge --help` need not pay.
    from tvmerge.training.report.page import render_page

    page = render_page(results)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
