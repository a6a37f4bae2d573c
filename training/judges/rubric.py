"""A rubric: of each trait a scale from 0 to 4 with what each grade means, and how a judge is asked.

The shipped one is catalogue/rubric.yaml; `tvmerge study judge --rubric FILE` takes another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field

from tvmerge.errors import ConfigError
from tvmerge.files.yaml_file import read_yaml
from tvmerge.training.traits.trait import CATALOGUE

SHIPPED = CATALOGUE / "rubric.yaml"
GRADES = tuple(range(5))
NOTHING = "(nothing)"


class TraitScale(BaseModel):
    """What is asked of one trait, and what each grade from 0 on means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asks: str
    levels: Annotated[tuple[str, ...], Field(min_length=len(GRADES), max_length=len(GRADES))]


class RubricFile(BaseModel):
    """What the YAML file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    traits: dict[str, TraitScale]


@dataclass(frozen=True, slots=True)
class Rubric:
    """The scales by trait, and the prompt that carries one of them with one answer."""

    path: Path
    said: RubricFile

    @property
    def name(self) -> str:
        """How reports call it."""
        return "the shipped rubric" if self.path == SHIPPED else self.path.name

    @property
    def digest(self) -> str:
        """A hash of all that can change a grade."""
        return hashlib.sha256(self.said.model_dump_json().encode()).hexdigest()

    def prompt(self, trait: str, question: str, answer: str) -> str:
        """What the judge reads: the trait's scale, the question and the answer, and nothing else.

        Raises ConfigError where the template asks for more than that.
        """
        scale = self.said.traits[trait]
        # Whoever shares a rubric should not run code here.
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True)
        try:
            return environment.from_string(self.said.prompt).render(
                asks=scale.asks, levels=scale.levels, question=question, answer=answer or NOTHING
            )
        except TemplateError as error:
            raise ConfigError(
                f"{self.path}: prompt: expected a jinja2 template of asks, levels, question and "
                f"answer, found a fault: {error}."
            ) from error


def load_rubric(path: Path | None = None) -> Rubric:
    """The rubric in that file, or the shipped one; raises ConfigError at whatever is wrong."""
    path = path or SHIPPED
    return Rubric(path, read_yaml(path, RubricFile))
