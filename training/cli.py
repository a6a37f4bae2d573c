"""`tvmerge study`: run one from a YAML file, write its report again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from tvmerge.training.study import Listener


@click.group()
def study() -> None:
    """Fine-tune traits in, subtract their task vectors, measure what happened."""


@study.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--base", help="Use this model instead of the file's: a folder or a hub id.")
@click.option("--ray-address", help="Run on this Ray cluster (default: a local one of its own).")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def run(config: Path, out: Path, base: str | None, ray_address: str | None, quiet: bool) -> None:
    """Run the study that CONFIG (YAML) describes; results and report go to OUT.

    What OUT holds already under the same inputs is not done again: an interrupted study goes on
    where it was.
    """
    from tvmerge.training.cluster import Cluster
    from tvmerge.training.config import load_study
    from tvmerge.training.report import write_report
    from tvmerge.training.study import run_study

    settings = load_study(config)
    if base is not None:
        settings = settings.model_copy(update={"base": base})
    with (
        _listening(settings.train.steps, quiet=quiet) as listener,
        Cluster(address=ray_address) as cluster,
    ):
        results = run_study(settings, out, cluster=cluster, listener=listener)
    page = out / "report.html"
    write_report(results, page)
    for verdict in results.verdicts:
        if verdict.scope in ("study", "kind"):
            click.echo(f"{verdict.headline}: {verdict.detail}")
    click.echo(f"Report: {page.resolve()}")


@study.command()
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(out: Path) -> None:
    """Write OUT/report.html again from OUT/results.json."""
    from tvmerge.training.report import write_report
    from tvmerge.training.results_file import load_results

    page = out / "report.html"
    write_report(load_results(out / "results.json"), page)
    click.echo(page.resolve())


@contextlib.contextmanager
def _listening(steps: int, *, quiet: bool) -> Iterator[Listener]:
    """Progress on stderr with what is left: bars in a terminal, a line now and then elsewhere."""
    if quiet:
        yield Listener()
        return
    from rich.console import Console

    from tvmerge.training.progress import StudyBars, StudyLines

    console = Console(stderr=True)
    with (StudyBars if console.is_terminal else StudyLines)(console, steps=steps) as shown:
        yield Listener(on_job=shown.on_job, on_measured=shown.on_measured, on_plan=shown.on_plan)
