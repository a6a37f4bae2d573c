"""Finds rows of `Results` by what they are about."""

from __future__ import annotations

from tvmerge.training.results.measured_model import Control
from tvmerge.training.results.results import (
    Contrast,
    ContrastName,
    MeasuredModel,
    Outcome,
    OutcomeRow,
    PerplexityRow,
    Results,
    Role,
    ScaleChoice,
    TextRole,
    TraitInfo,
)
from tvmerge.training.results.scores import Part
from tvmerge.training.settings.kinds import Kind


class ResultIndex:
    """Look-ups into one study's results; None where something was not measured."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self._rows = {(r.model, r.trait, r.outcome, r.part): r for r in results.rows}
        self._contrasts = {
            (c.name, c.model, c.trait, c.outcome, c.part): c for c in results.contrasts
        }
        self._perplexity = {(row.model, row.text): row for row in results.perplexity}
        self._choices = {choice.kind: choice for choice in results.choices}
        self._traits = {trait.name: trait for trait in results.traits}

    def row(
        self, model: str, trait: str, outcome: Outcome, part: Part = "test"
    ) -> OutcomeRow | None:
        """One outcome of one model on one trait."""
        return self._rows.get((model, trait, outcome, part))

    def contrast(
        self, name: ContrastName, model: str, trait: str, outcome: Outcome, part: Part = "test"
    ) -> Contrast | None:
        """One difference of changes."""
        return self._contrasts.get((name, model, trait, outcome, part))

    def perplexity(self, model: str, text: TextRole = "limit") -> PerplexityRow | None:
        """The model's perplexity on one of the texts."""
        return self._perplexity.get((model, text))

    def choice(self, kind: Kind) -> ScaleChoice | None:
        """The kind's chosen scale."""
        return self._choices.get(kind)

    def traits(self, role: Role) -> list[TraitInfo]:
        """The traits of one role, in the study's order."""
        return [trait for trait in self.results.traits if trait.role == role]

    def title(self, trait: str) -> str:
        """The trait's title in its own words, or its name."""
        known = self._traits.get(trait)
        return (known.title if known else "") or trait

    def kinds(self) -> list[Kind]:
        """The kinds that have a chosen scale, in the study's order."""
        return [choice.kind for choice in self.results.choices]

    def negated(self, kind: Kind) -> list[MeasuredModel]:
        """The kind's negated models by rising scale."""
        found = [m for m in self.results.models if m.kind == kind and m.role == "negated"]
        return sorted(found, key=lambda model: model.scale or 0.0)

    def control(self, kind: Kind, control: Control) -> MeasuredModel | None:
        """The model that a control vector of this kind gave."""
        for model in self.results.models:
            if model.kind == kind and model.control == control:
                return model
        return None
