"""`tvmerge merge CONFIG OUT`: run a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from tvmerge.cli.options import RunFlags, lenient_option, write_options
from tvmerge.cli.recipes import assembled
from tvmerge.cli.saving import save
from tvmerge.receipts.receipt import RecipeText
from tvmerge.recipe import fold

# mergekit-yaml's options that have no use here, or another name.
_ELSEWHERE = {
    "--cuda": "Use --device cuda.",
    "--read-to-gpu": "Use --device cuda.",
    "--multi-gpu": "Use --device cuda:all.",
    "--num-threads": "Use --threads.",
    "--write-threads": "Use --threads.",
    "--random-seed": "Set the parameter `seed` in the recipe.",
    "--lora-merge-cache": "Set TVMERGE_CACHE in the environment.",
    "--lazy-unpickle": "Leave it out: everything is read so.",
    "--low-cpu-memory": "Leave it out: --memory is a limit that is kept.",
    "--async-write": "Leave it out: reading and writing overlap.",
    "--copy-tokenizer": "Leave it out: the base's is copied unless the recipe names another one.",
    "--safe-serialization": "Leave it out: outputs are safetensors.",
    "--trust-remote-code": "Leave it out: no code of a model is run.",
    "--allow-crimes": "Leave it out: models fit together by their tensors, or are refused.",
    "--out-shard-size": "Leave it out: shards are cut as the base's.",
}


class _Merge(click.Command):
    """Knows what those who come from mergekit type."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Tell options of mergekit's what they are here."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = _ELSEWHERE.get(error.option_name)
            if hint is None:
                raise
            raise click.UsageError(
                f"{error.option_name} is an option of mergekit. {hint}", ctx
            ) from error


@click.command(cls=_Merge)
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("out")
@lenient_option
@write_options
def merge(config: Path, out: str, lenient: bool, flags: RunFlags) -> None:
    """Run the merge that the YAML file CONFIG describes, in mergekit's format, into OUT.

    Methods are mergekit's (`merge_method: ties`, ...); docs/recipes.md lists them and what else a
    recipe may say. Paths in CONFIG are relative to the current folder. Keys without a meaning are
    errors, or with --lenient are told.
    """
    recipe, assembly = assembled(config, lenient=lenient, threads=flags.threads)
    text = RecipeText(recipe.method, recipe.text, lenient)
    model = fold(assembly)
    save(model, out, dtype=recipe.output_dtype, label="merge", flags=flags, recipe=text)
