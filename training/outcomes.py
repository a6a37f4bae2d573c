"""Raw scores to outcomes: numpy only.

Each outcome of each model comes with a 95 % percentile bootstrap interval over items. All models
share the resampled items of a trait, so changes from a reference are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tvmerge.errors import MismatchError, did_you_mean
from tvmerge.training.results import Outcome
from tvmerge.training.scores import ItemScore, ModelScores, Part
from tvmerge.training.statistics import Array, Estimate, Resampler, auc, mean_of, weighted_mean

Estimates = dict[Outcome, Estimate]


def item_outcomes(
    items: Sequence[ItemScore], *, key: str, resampler: Resampler | None = None
) -> Estimates:
    """Every outcome that the items allow, each with its bootstrap draws.

    statement_margin  mean of logp(showing)/tokens - logp(lacking)/tokens, nats per token
    statement_auc     P(a random showing statement is likelier per token than a lacking one)
    statement_shows, statement_lacks   their mean logp per token: the topic itself
    yes_no_margin     mean of logp(answer with the trait) - logp(the other), nats per token
    yes_no_auc        AUC of logp(Yes) - logp(No) against "Yes shows the trait": no bias moves it
    pick_rate         share of questions where the answer with the trait is the likelier
    yes_bias          mean of logp(Yes) - logp(No), nats
    valid_mass        mean probability that the next token is a Yes or a No
    choice_margin, choice_pick_rate    as margin and pick rate, of two free-form answers

    `key` names the sample: equal keys and items are resampled alike, which pairs models.
    """
    resampler = resampler or Resampler()
    found: Estimates = {}
    for form, outcomes in (
        ("statement", _statement_outcomes),
        ("yes_no", _yes_no_outcomes),
        ("choice", _choice_outcomes),
    ):
        chosen = [item for item in items if item.form == form]
        if chosen:
            strata = [int(bool(item.shows_is_yes)) for item in chosen]
            found |= outcomes(chosen, resampler.weights(f"{key}/{form}", strata))
    return found


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The raw scores of all models, and estimates from them, computed once."""

    scores: Mapping[str, ModelScores]
    resampler: Resampler = field(default_factory=Resampler)
    _items: dict[tuple[str, str, Part], Estimates] = field(default_factory=dict)

    def estimates(self, model: str, trait: str, part: Part) -> Estimates:
        """Outcomes of one model on one trait; none where it was not measured there."""
        key = (model, trait, part)
        if key not in self._items:
            items = self._of(model).traits.get(trait, {}).get(part, ())
            self._items[key] = item_outcomes(items, key=f"{trait}/{part}", resampler=self.resampler)
        return self._items[key]

    def changes(self, model: str, reference: str, trait: str, part: Part) -> Estimates:
        """Paired changes from the reference model over the same items."""
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

    def mean_nll(self, model: str) -> Estimate:
        """Mean nll (nats per token) of held-out text, resampled by window."""
        scores = self._of(model).perplexity
        nll, tokens = np.array(scores.window_nll), np.array(scores.window_tokens, dtype=float)
        weights = self.resampler.weights("perplexity", [0] * len(nll))
        draws = weights @ (nll * tokens) / (weights @ tokens)
        return Estimate(float(nll @ tokens / tokens.sum()), draws, len(nll))

    def perplexity_ratio(self, model: str, reference: str) -> Estimate:
        """Perplexity over the reference's, paired over windows."""
        mine, other = self._of(model).perplexity, self._of(reference).perplexity
        if mine.window_tokens != other.window_tokens:
            raise MismatchError(
                f"held-out text: {model} was measured on windows of {mine.window_tokens} tokens, "
                f"{reference} on {other.window_tokens}. Measure both with the same text."
            )
        return (self.mean_nll(model) - self.mean_nll(reference)).exp()

    def _of(self, model: str) -> ModelScores:
        if model not in self.scores:
            raise MismatchError(
                f"model {model!r}: expected its raw scores, found none."
                f"{did_you_mean(model, self.scores)} Measured: {', '.join(self.scores)}."
            )
        return self.scores[model]

    def _check_same_items(self, model: str, reference: str, trait: str, part: Part) -> None:
        mine = self._of(model).traits.get(trait, {}).get(part, ())
        other = self._of(reference).traits.get(trait, {}).get(part, ())
        if [item.item for item in mine] != [item.item for item in other]:
            raise MismatchError(
                f"{trait}, {part} part: {model} and its reference {reference} were measured on "
                f"different items ({len(mine)} and {len(other)}). Measure both again."
            )


def primary_outcome(scores: Iterable[ModelScores], traits: Sequence[str]) -> Outcome:
    """The outcome that verdicts and scales go by: statements where all traits have them.

    Without statements the Yes/No AUC, which neither bias nor format moves; else choices.
    """
    forms = [
        {item.form for items in parts.values() for item in items}
        for one in scores
        for trait, parts in one.traits.items()
        if trait in traits
    ]
    common = set.intersection(*forms) if forms else set()
    if "statement" in common:
        return "statement_margin"
    return "yes_no_auc" if "yes_no" in common else "choice_margin"


def _statement_outcomes(items: Sequence[ItemScore], weights: Array) -> Estimates:
    shows, lacks = _per_token(items)
    return {
        "statement_margin": weighted_mean(shows - lacks, weights),
        "statement_auc": auc(shows, lacks, weights, weights, n=len(items)),
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
