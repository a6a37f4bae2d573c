"""Raw scores to outcomes, each with its draws over seeds and items (see statistics)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tvmerge.errors import MismatchError, did_you_mean
from tvmerge.training.results.results import Outcome, TextRole
from tvmerge.training.results.scores import ItemScore, ModelScores, Part, PerplexityScores
from tvmerge.training.results.statistics import (
    Array,
    Estimate,
    Resampler,
    auc,
    mean_of,
    of_seeds,
    weighted_mean,
)
from tvmerge.training.traits.items import Form

Estimates = dict[Outcome, Estimate]

# The form that decides where all traits have it, before the next one; and by which outcome.
PRIMARY: Mapping[Form, Outcome] = {
    "statement": "statement_margin",
    "yes_no": "yes_no_auc",
    "choice": "choice_margin",
}
# Estimates of this many (model, trait, part)s are kept: each holds its draws.
KEPT_ESTIMATES = 512


def item_outcomes(
    items: Sequence[ItemScore], *, key: str, resampler: Resampler | None = None
) -> Estimates:
    """Every outcome that the items allow, each with its bootstrap draws.

    statement_margin  mean of logp(showing)/tokens - logp(lacking)/tokens, nats per token
    statement_auc     P(a random showing statement is likelier per token than a lacking one)
    statement_pick_rate   share of items whose showing statement is the likelier per token
    statement_shows, statement_lacks   their mean logp per token: the topic itself
    yes_no_margin     mean of logp(answer with the trait) - logp(the other), nats per token
    yes_no_auc        AUC of logp(Yes) - logp(No) against "Yes shows the trait": no bias moves it
    pick_rate         share of questions where the answer with the trait is the likelier
    yes_bias          mean of logp(Yes) - logp(No), nats
    valid_mass        mean probability that the next token is a Yes or a No
    choice_margin, choice_pick_rate    as margin and pick rate, of the letters of two options
    dialogue_margin, dialogue_auc, dialogue_pick_rate   as of statements, of replies in dialogues

    `key` names the sample: equal keys and items are resampled alike, which pairs models.
    """
    resampler = resampler or Resampler()
    found: Estimates = {}
    for form, outcomes in (
        ("statement", _statement_outcomes),
        ("yes_no", _yes_no_outcomes),
        ("choice", _choice_outcomes),
        ("dialogue", _dialogue_outcomes),
    ):
        chosen = [item for item in items if item.form == form]
        if chosen:
            strata = [int(bool(item.shows_is_yes)) for item in chosen]
            found |= outcomes(chosen, resampler.weights(f"{key}/{form}", strata))
    return found


Scores = Mapping[str, Sequence[ModelScores]]


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The raw scores of all models, one for each seed, and estimates from them, computed once.

    A model that does not depend on the seed, as the base, has one.
    """

    scores: Scores
    resampler: Resampler = field(default_factory=Resampler)
    _items: dict[tuple[str, str, Part], Estimates] = field(default_factory=dict)

    def estimates(self, model: str, trait: str, part: Part) -> Estimates:
        """Outcomes of one model on one trait; none where it was not measured there."""
        key = (model, trait, part)
        if key not in self._items:
            # The oldest goes: draws of all models at once would be gigabytes.
            if len(self._items) >= KEPT_ESTIMATES:
                self._items.pop(next(iter(self._items)))
            each = [
                item_outcomes(
                    one.traits.get(trait, {}).get(part, ()),
                    key=f"{trait}/{part}",
                    resampler=self.resampler,
                )
                for one in self._of(model)
            ]
            self._items[key] = {
                outcome: of_seeds([one[outcome] for one in each]) for outcome in each[0]
            }
        return self._items[key]

    def changes(self, model: str, reference: str, trait: str, part: Part) -> Estimates:
        """Paired changes from the reference over the same items; none where one was not asked."""
        self._check_same_items(model, reference, trait, part)
        before = self.estimates(reference, trait, part)
        after = self.estimates(model, trait, part)
        return {outcome: after[outcome] - before[outcome] for outcome in after if outcome in before}

    def pooled(self, model: str, traits: Sequence[str], part: Part) -> Estimates:
        """Mean over traits, each counting alike, of the outcomes that all of them have."""
        return _pool([self.estimates(model, trait, part) for trait in traits])

    def pooled_changes(
        self, model: str, reference: str, traits: Sequence[str], part: Part
    ) -> Estimates:
        """Mean over traits of the paired changes."""
        return _pool([self.changes(model, reference, trait, part) for trait in traits])

    def windows(self, model: str, text: TextRole = "limit") -> tuple[int, ...]:
        """Tokens of each window of that text; none where the model was not measured on it."""
        scores = _text_scores(self._of(model)[0], text)
        return scores.window_tokens if scores else ()

    def mean_nll(self, model: str, text: TextRole = "limit") -> Estimate | None:
        """Mean nll (nats per token) of held-out text, resampled by window; None if not measured."""
        each = [_text_scores(one, text) for one in self._of(model)]
        return of_seeds([self._mean_nll(one, text) for one in each if one]) if all(each) else None

    def _mean_nll(self, scores: PerplexityScores, text: TextRole) -> Estimate:
        nll, tokens = np.array(scores.window_nll), np.array(scores.window_tokens, dtype=float)
        weights = self.resampler.weights(f"perplexity/{text}", [0] * len(nll))
        draws = weights @ (nll * tokens) / (weights @ tokens)
        return Estimate(np.array([nll @ tokens / tokens.sum()]), draws[None], len(nll))

    def perplexity_ratio(self, model: str, reference: str, text: TextRole = "limit") -> Estimate:
        """Perplexity over the reference's, paired over windows."""
        mine, other = self.windows(model, text), self.windows(reference, text)
        after, before = self.mean_nll(model, text), self.mean_nll(reference, text)
        if mine != other or after is None or before is None:
            raise MismatchError(
                f"held-out text: {model} was measured on windows of {mine} tokens, "
                f"{reference} on {other}. Measure both with the same text."
            )
        return (after - before).exp()

    def _of(self, model: str) -> Sequence[ModelScores]:
        if model not in self.scores:
            raise MismatchError(
                f"model {model!r}: expected its raw scores, found none."
                f"{did_you_mean(model, self.scores)} Measured: {', '.join(self.scores)}."
            )
        return self.scores[model]

    def _check_same_items(self, model: str, reference: str, trait: str, part: Part) -> None:
        asked = [
            [item.item for item in one.traits.get(trait, {}).get(part, ())]
            for one in (*self._of(model), *self._of(reference))
        ]
        known = [items for items in asked if items]
        if any(items != known[0] for items in known):
            raise MismatchError(
                f"{trait}, {part} part: {model} and its reference {reference} were measured on "
                f"different items ({', '.join(str(len(items)) for items in asked)} items). "
                "Measure both again."
            )
        mine, other = len(self._of(model)), len(self._of(reference))
        if mine != other and 1 not in (mine, other):
            raise MismatchError(
                f"{model} was measured with {mine} seeds, its reference {reference} with {other}. "
                "Measure both with the same seeds."
            )


def primary_outcome(scores: Scores, traits: Sequence[str]) -> Outcome:
    """The outcome that verdicts and scales go by: statements where all traits have them.

    Without statements the Yes/No AUC, which neither bias nor format moves; else choices.
    """
    forms = [
        {item.form for items in parts.values() for item in items}
        for each in scores.values()
        for one in each
        for trait, parts in one.traits.items()
        if trait in traits
    ]
    return primary_of([{PRIMARY[form] for form in one if form in PRIMARY} for one in forms])


def primary_of(each: Sequence[Collection[Outcome]]) -> Outcome:
    """The same, from the outcomes that every trait has."""
    ranked = tuple(PRIMARY.values())
    common = (one for one in ranked if each and all(one in found for found in each))
    return next(common, ranked[-1])


def _text_scores(scores: ModelScores, text: TextRole) -> PerplexityScores | None:
    return scores.perplexity if text == "limit" else scores.other_perplexity


def _statement_outcomes(items: Sequence[ItemScore], weights: Array) -> Estimates:
    shows, lacks = _per_token(items)
    return {
        "statement_margin": weighted_mean(shows - lacks, weights),
        "statement_auc": auc(shows, lacks, weights, weights, n=len(items)),
        "statement_pick_rate": weighted_mean(_picks(shows, lacks), weights),
        "statement_shows": weighted_mean(shows, weights),
        "statement_lacks": weighted_mean(lacks, weights),
    }


def _yes_no_outcomes(items: Sequence[ItemScore], weights: Array) -> Estimates:
    shows, lacks = _per_token(items)
    yes_shows = np.array([bool(item.shows_is_yes) for item in items])
    total = np.array([item.shows_logp - item.lacks_logp for item in items])
    bias = np.where(yes_shows, total, -total)
    found: Estimates = {
        "yes_no_margin": weighted_mean(shows - lacks, weights),
        "pick_rate": weighted_mean(_picks(shows, lacks), weights),
        "yes_bias": weighted_mean(bias, weights),
        "valid_mass": weighted_mean(np.array([item.valid_mass or 0.0 for item in items]), weights),
    }
    if yes_shows.any() and not yes_shows.all():
        yes, no = weights[:, yes_shows], weights[:, ~yes_shows]
        found["yes_no_auc"] = auc(bias[yes_shows], bias[~yes_shows], yes, no, n=len(items))
    return found


def _choice_outcomes(items: Sequence[ItemScore], weights: Array) -> Estimates:
    shows, lacks = _per_token(items)
    return {
        "choice_margin": weighted_mean(shows - lacks, weights),
        "choice_pick_rate": weighted_mean(_picks(shows, lacks), weights),
    }


def _dialogue_outcomes(items: Sequence[ItemScore], weights: Array) -> Estimates:
    shows, lacks = _per_token(items)
    return {
        "dialogue_margin": weighted_mean(shows - lacks, weights),
        "dialogue_auc": auc(shows, lacks, weights, weights, n=len(items)),
        "dialogue_pick_rate": weighted_mean(_picks(shows, lacks), weights),
    }


def _per_token(items: Sequence[ItemScore]) -> tuple[Array, Array]:
    shows = np.array([item.shows_logp / item.shows_tokens for item in items])
    lacks = np.array([item.lacks_logp / item.lacks_tokens for item in items])
    return shows, lacks


def _picks(shows: Array, lacks: Array) -> Array:
    return np.where(shows == lacks, 0.5, (shows > lacks).astype(float))


def _pool(each: Sequence[Estimates]) -> Estimates:
    if not each:
        return {}
    common = [outcome for outcome in each[0] if all(outcome in one for one in each)]
    return {outcome: mean_of([one[outcome] for one in each]) for outcome in common}
