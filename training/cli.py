"""`tvmerge study`: run one from a YAML file, report, verify, compare; look through items."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tvmerge.training.cluster.listener import Listener

if TYPE_CHECKING:
    from tvmerge.training.results.results import Results


@click.group()
def study() -> None:
    """Fine-tune traits in, subtract their task vectors, measure what happened."""


@study.command(short_help="Run a study, or go on with it.")
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--base", help="Use this model instead of the file's: a folder or a hub id.")
@click.option("--ray-address", help="Run on this Ray cluster (default: a local one of its own).")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
def run(config: Path, out: Path, base: str | None, ray_address: str | None, quiet: bool) -> None:
    """Run the study that CONFIG (YAML) describes; results and report go to OUT.

    What OUT holds already under the same inputs is not done again: an interrupted study goes on
    where it was. Of several rounds, each is a study in OUT/round-N.
    """
    from tvmerge.training.cluster.cluster import Cluster
    from tvmerge.training.settings.config import load_study
    from tvmerge.training.study.rounds import run_rounds
    from tvmerge.training.study.study import run_study

    settings = load_study(config, base=base)
    with (
        _listening(quiet=quiet) as listener,
        Cluster(address=ray_address) as cluster,
    ):
        if settings.rounds.count == 1:
            _tell(run_study(settings, out, cluster=cluster, listener=listener), out)
        else:
            run_rounds(
                settings,
                out,
                cluster=cluster,
                listener=listener,
                on_round=lambda number, results: _tell(results, out / f"round-{number}"),
            )


def _tell(results: Results, folder: Path) -> None:
    """Write the report and print the verdicts."""
    from tvmerge.training.report import write_report

    page = folder / "report.html"
    write_report(results, page)
    for verdict in results.verdicts:
        if verdict.scope in ("study", "kind"):
            click.echo(f"{verdict.headline}: {verdict.detail}")
    click.echo(f"Report: {page.resolve()}")


@study.command(short_help="Write the report again.")
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(out: Path) -> None:
    """Write OUT/report.html again from OUT/results.json."""
    from tvmerge.training.report import write_report
    from tvmerge.training.results.results_file import load_results

    page = out / "report.html"
    write_report(load_results(out / "results.json"), page)
    click.echo(page.resolve())


@study.command(short_help="Compute the results again from the raw scores.")
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
def verify(out: Path) -> None:
    """Compute OUT/results.json again from OUT's raw scores, and name every figure that differs.

    Ends with 1 where one does.
    """
    from tvmerge.training.study.recompute import recompute

    differences = recompute(out)
    for one in differences:
        click.echo(f"{one.where}: {one.kept} in results.json, {one.found} from the raw files")
    click.echo(f"{len(differences)} figures differ" if differences else "Every figure agrees")
    if differences:
        raise SystemExit(1)


@study.command(short_help="Show two studies side by side.")
@click.argument("a", type=click.Path(exists=True, path_type=Path))
@click.argument("b", type=click.Path(exists=True, path_type=Path))
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page too.")
def compare(a: Path, b: Path, html: Path | None) -> None:
    """Show two studies side by side: A and B are their folders, or their results.json."""
    from rich.console import Console

    from tvmerge.training.results.results_file import load_results
    from tvmerge.training.verdicts.comparison import compare as side_by_side
    from tvmerge.training.verdicts.comparison_tables import comparison_tables

    compared = side_by_side(
        *(load_results(path / "results.json" if path.is_dir() else path) for path in (a, b))
    )
    console = Console()
    for table in comparison_tables(compared):
        console.print(table)
        console.print()
    if html is not None:
        from tvmerge.training.report.compared import write_comparison

        write_comparison(compared, html)
        click.echo(html.resolve())


@study.command(short_help="Say what a study will take.")
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("--base", help="Use this model instead of the file's: a folder or a hub id.")
@click.option(
    "--cpus", type=click.IntRange(min=1), help="Of the cluster (default: this machine's)."
)
@click.option("--json", "as_json", is_flag=True, help="Print for programs.")
def plan(config: Path, out: Path | None, base: str | None, cpus: int | None, as_json: bool) -> None:
    """Say what the study that CONFIG describes will take: models, disk, memory, time.

    Does a little of the real work on this machine to tell. With OUT, finished fine-tunes are left
    out of the time.
    """
    from tvmerge.training.settings.config import load_study
    from tvmerge.training.study.plan import plan_study

    settings = load_study(config, base=base)
    found = plan_study(settings, out, cpus=cpus)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
        return
    for line in found.lines():
        click.echo(line)


@study.command(short_help="Put a chosen model on the hub.")
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("kind")
@click.argument("repository")
@click.option("--public", is_flag=True, help="Make a new repository public.")
@click.option("--dry-run", is_flag=True, help="Say what would be uploaded, and show the card.")
def publish(out: Path, kind: str, repository: str, public: bool, dry_run: bool) -> None:
    """Put the chosen model of KIND of the study in OUT on the Hugging Face hub.

    The card carries the study's verdicts; results and report go with it.
    """
    from tvmerge.training.study.publish import prepare_upload
    from tvmerge.training.study.publish import publish as upload

    prepared = prepare_upload(out, kind)
    if not dry_run:
        click.echo(upload(prepared, repository, private=not public))
        return
    for name, size in prepared.files():
        click.echo(f"{size:>14,} bytes  {repository}/{name}")
    click.echo()
    click.echo(prepared.card)


@study.command(short_help="Let a local model grade the answers.")
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", required=True, help="The judge: a folder or a hub id.")
@click.option(
    "--rubric",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Scales and prompt (default: those of the catalogue).",
)
@click.option("--seed", default=0, show_default=True, help="Of the order of the answers.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the judge."
)
@click.option("--device", default="cpu", show_default=True, help="Where the judge runs.")
def judge(out: Path, model: str, rubric: Path | None, seed: int, threads: int, device: str) -> None:
    """Let a local MODEL grade what the models of the study in OUT said, blind.

    Its grades are stored in OUT/judged; results and report show the means, and how well it tells
    apart statements that are known to show a trait or to lack it.
    """
    from tvmerge.training.judges.judging import judge_answers
    from tvmerge.training.report import write_report
    from tvmerge.training.report.judging import trust
    from tvmerge.training.results.results_file import load_results

    stored = judge_answers(out, model, seed=seed, rubric=rubric, threads=threads, device=device)
    results = load_results(out / "results.json")
    write_report(results, out / "report.html")
    for one in results.judged:
        click.echo(trust(one))
    click.echo(f"Grades: {stored}")


@study.command("lm-eval", short_help="Run public tasks of lm-eval.")
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--task", "tasks", multiple=True, required=True, help="May be given again.")
@click.option("--shots", type=click.IntRange(min=0), help="Examples first (default: the task's).")
@click.option("--limit", type=click.IntRange(min=2), help="Of each task, the first so many.")
@click.option(
    "--include",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with tasks of your own.",
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="Where the models run.")
def lm_eval(
    out: Path,
    tasks: tuple[str, ...],
    shots: int | None,
    limit: int | None,
    include: Path | None,
    threads: int,
    device: str,
) -> None:
    """Run public tasks of lm-eval on the base and the chosen models of the study in OUT.

    Needs `pip install 'tvmerge[lm-eval]'`. What each document gave is stored in OUT/harness;
    results and report show the means. The chosen models are those of the first seed.
    """
    from tvmerge.training.public_tasks.harnessing import run_public_tasks
    from tvmerge.training.report import write_report
    from tvmerge.training.results.wording import with_interval

    results = run_public_tasks(
        out, tasks, shots=shots, limit=limit, include=include, threads=threads, device=device
    )
    write_report(results, out / "report.html")
    for row in results.public_tasks:
        level = with_interval(row.level.value, row.level.low, row.level.high, digits=3, sign=False)
        click.echo(f"{row.task} {row.outcome}  {row.model}  {level}")


@study.command(short_help="Look for faults of items.")
@click.argument("traits", nargs=-1)
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
def lint(traits: tuple[str, ...], strict: bool) -> None:
    """Look through the items of TRAITS (names or folders; default: the whole catalogue).

    Names duplicates, leaks between parts, uneven answers, cues of length and of style, and items
    whose sides may be exchanged. Ends with 1 where there is an error.
    """
    from tvmerge.training.traits.lint import lint_trait
    from tvmerge.training.traits.trait import catalogue_names

    found = [finding for name in traits or catalogue_names() for finding in lint_trait(name)]
    for finding in found:
        click.echo(
            f"{finding.severity}: {finding.trait}: {finding.check}: {finding.place}: "
            f"{finding.message}"
        )
    errors = sum(finding.severity == "error" for finding in found)
    click.echo(f"{errors} errors, {len(found) - errors} warnings")
    if errors or (strict and found):
        raise SystemExit(1)


@contextlib.contextmanager
def _listening(*, quiet: bool) -> Iterator[Listener]:
    """Progress on stderr with what is left: bars in a terminal, a line now and then elsewhere."""
    if quiet:
        yield Listener()
        return
    from rich.console import Console

    from tvmerge.training.cluster.progress import StudyBars, StudyLines

    console = Console(stderr=True)
    with (StudyBars if console.is_terminal else StudyLines)(console) as shown:
        yield Listener(
            on_job=shown.on_job,
            on_measured=shown.on_measured,
            on_relearned=shown.on_relearned,
            on_relaxed=shown.on_relaxed,
            on_plan=shown.on_plan,
        )
