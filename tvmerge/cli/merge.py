"""`tvmerge merge CONFIG OUT`: run a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from tvmerge.cli.options import RunFlags, write_options
from tvmerge.cli.saving import save
from tvmerge.receipts.receipt import RecipeText
from tvmerge.recipe import build, load_recipe


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("out")
@write_options
def merge(config: Path, out: str, flags: RunFlags) -> None:
    """Run the merge that the YAML file CONFIG describes, in mergekit's format, into OUT.

    Methods are mergekit's (`merge_method: ties`, ...); docs/recipes.md lists them and what else a
    recipe may say. Paths in CONFIG are relative to the current folder. Keys without a meaning are
    errors, never ignored.
    """
    recipe = load_recipe(config)
    text = RecipeText(recipe.method, recipe.text)
    model = build(recipe, threads=flags.threads)
    save(model, out, dtype=recipe.output_dtype, label="merge", flags=flags, recipe=text)
