"""Warnings that keep a reader from taking a side effect for success."""

from __future__ import annotations

from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import ALL_TRAITS, Outcome, OutcomeRow, ScaleChoice, Verdict
from tvmerge.training.results.wording import OUTCOME_TITLES, number, rise, with_interval
from tvmerge.training.settings.kinds import Kind

MASS_COLLAPSE = 0.5  # a fall of the probability on Yes and No by over half
BIAS_SHIFT_NATS = 1.0
TOPIC_FALL_NATS = 0.1  # per token, of showing and lacking statements alike


def flags(index: ResultIndex) -> list[Verdict]:
    """Every warning of the study: tuning that missed, and per kind what else the edit did."""
    found = [*_untuned(index)]
    for kind in index.kinds():
        choice = index.choice(kind)
        if choice is not None:
            checks = (_format_collapse, _bias_shift, _topic_loss, _unconfirmed, _costly_start)
            found += [flag for check in checks if (flag := check(index, choice)) is not None]
    return found


def _format_collapse(index: ResultIndex, choice: ScaleChoice) -> Verdict | None:
    row = index.row(choice.model, ALL_TRAITS, "valid_mass")
    if row is None or row.change is None:
        return None
    before = row.value - row.change
    if row.value >= MASS_COLLAPSE * before:
        return None
    was, now = (number(value, digits=3, tiny=True) for value in (before, row.value))
    change = with_interval(row.change, row.change_low, row.change_high, digits=3)
    return _flag(
        choice.kind,
        "Answer format collapsed",
        f"The probability of answering Yes or No fell from {was} to {now} (change {change}): what "
        "looks like a change of opinion on the Yes/No questions may be the loss of the format.",
    )


def _bias_shift(index: ResultIndex, choice: ScaleChoice) -> Verdict | None:
    row = index.row(choice.model, ALL_TRAITS, "yes_bias")
    if row is None or row.change is None or abs(row.change) <= BIAS_SHIFT_NATS:
        return None
    auc = index.row(choice.model, ALL_TRAITS, "yes_no_auc")
    read = f" (its change: {_words(auc)})" if auc is not None and auc.change is not None else ""
    return _flag(
        choice.kind,
        f"Everything is answered {'Yes' if row.change > 0 else 'No'} more often",
        f"The Yes-bias moved by {_words(row)} nats, more than {BIAS_SHIFT_NATS:g}: Yes/No margins "
        f"and pick rates of this model mean nothing; read the AUC{read}.",
    )


def _topic_loss(index: ResultIndex, choice: ScaleChoice) -> Verdict | None:
    shows = index.row(choice.model, ALL_TRAITS, "statement_shows")
    lacks = index.row(choice.model, ALL_TRAITS, "statement_lacks")
    if shows is None or lacks is None or shows.change is None or lacks.change is None:
        return None
    shared = max(shows.change, lacks.change)  # both fell by at least this much
    if shared > -TOPIC_FALL_NATS or abs(shows.change - lacks.change) > abs(shared):
        return None
    return _flag(
        choice.kind,
        "The topic went, more than the stance",
        "Log-probability per token of statements that show the traits changed by "
        f"{_words(shows)}, of statements that lack them by {_words(lacks)}: most of the edit "
        "removes what both share.",
    )


def _unconfirmed(index: ResultIndex, choice: ScaleChoice) -> Verdict | None:
    primary = index.row(choice.model, ALL_TRAITS, index.results.primary_outcome)
    auc = index.row(choice.model, ALL_TRAITS, "yes_no_auc")
    if not _fell(primary) or auc is None or auc.change is None or _fell(auc):
        return None
    return _flag(
        choice.kind,
        "The Yes/No questions do not confirm the fall",
        f"{OUTCOME_TITLES[index.results.primary_outcome]} fell, but the AUC of the Yes/No "
        f"questions changed by {_words(auc)}.",
    )


def _costly_start(index: ResultIndex, choice: ScaleChoice) -> Verdict | None:
    row, limit = index.perplexity(choice.model), index.results.max_perplexity_rise
    if row is None or row.ratio is None or row.base_ratio is None:
        return None
    if row.ratio - 1 > limit or row.base_ratio - 1 <= limit:
        return None
    return _flag(
        choice.kind,
        "Counted from the base, the cost is beyond the limit",
        f"Perplexity {rise(row.base_ratio, row.base_ratio_low, row.base_ratio_high)} from the "
        f"base, of which {rise(row.ratio, row.ratio_low, row.ratio_high)} came with the "
        "subtraction and the rest with the start model.",
    )


def _untuned(index: ResultIndex) -> list[Verdict]:
    outcome: Outcome = index.results.primary_outcome
    found = []
    for trait in index.traits("trait"):
        row = index.row(f"tuned.{trait.name}", trait.name, outcome)
        if row is None or row.change is None:
            continue
        if row.change_low is None or row.change_low <= 0:
            found.append(
                Verdict(
                    scope="flag",
                    code="flag",
                    trait=trait.name,
                    headline=f"Fine-tuning did not clearly put {index.title(trait.name)} in",
                    detail=(
                        f"{OUTCOME_TITLES[outcome]} of the tuned model changed by {_words(row)} "
                        "from the base: its vector need not carry the trait."
                    ),
                )
            )
    return found


def _fell(row: OutcomeRow | None) -> bool:
    return row is not None and row.change_high is not None and row.change_high < 0


def _words(row: OutcomeRow) -> str:
    return with_interval(row.change or 0.0, row.change_low, row.change_high)


def _flag(kind: Kind, headline: str, detail: str) -> Verdict:
    return Verdict(scope="flag", code="flag", kind=kind, headline=headline, detail=detail)
