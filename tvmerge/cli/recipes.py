"""Recipes as commands read them."""

from __future__ import annotations

from pathlib import Path

from tvmerge.cli.printing import warn_of_idle
from tvmerge.plans.assembly import Assembly
from tvmerge.recipe import Recipe, assemble, load_recipe


def assembled(
    config: Path, *, lenient: bool, threads: int | None, listed: int | None = 5
) -> tuple[Recipe, Assembly]:
    """The recipe, and what it comes to; what is passed over is told before anything can fail.

    `listed` and what is raised: as of `assemble`.
    """
    recipe = load_recipe(config, lenient=lenient)
    warn_of_idle(recipe.passed_over)
    assembly = assemble(recipe, listed=listed, threads=threads)
    warn_of_idle(assembly.passed_over)
    return recipe, assembly
