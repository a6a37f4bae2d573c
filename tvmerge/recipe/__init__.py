"""A merge as YAML, in mergekit's words: read and checked, then resolved against its models.

    merge_method: task_arithmetic
    base_model: base
    models:
      - {model: tuned-a, parameters: {weight: -0.5}}
      - {model: org/tuned-b, parameters: {weight: 0.3}}
    dtype: bfloat16

A key with no meaning here is an error, as is one whose meaning is not supported yet: nothing in
a recipe is ignored, unless it is read as a `lenient` one. docs/recipes.md describes all of it.
"""

from __future__ import annotations

from tvmerge.algebra.assembled import Assembled
from tvmerge.algebra.operands import Checkpoint
from tvmerge.checkpoints.hub import resolve
from tvmerge.recipe.document import Document as Document
from tvmerge.recipe.document import Recipe as Recipe
from tvmerge.recipe.folding import fold as fold
from tvmerge.recipe.opening import Find
from tvmerge.recipe.parsing import load_recipe as load_recipe
from tvmerge.recipe.parsing import parse_recipe as parse_recipe
from tvmerge.recipe.resolving import assemble as assemble


def build(
    recipe: Recipe, *, find: Find = resolve, threads: int | None = None
) -> Checkpoint | Assembled:
    """The merge as a lazy expression, ready to `save(out, dtype=recipe.output_dtype)`.

    Layout, tokenizer and dtypes come from the base, by default the first model. `threads` and what
    is raised: as of `assemble`, which also tells which filters of a lenient recipe match nothing.
    """
    return fold(assemble(recipe, find=find, threads=threads))
