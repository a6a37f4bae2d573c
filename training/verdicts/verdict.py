"""Judges a study in plain words that can say "failed", with numbers and intervals behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import (
    ALL_CONTROLS,
    ALL_TRAITS,
    Results,
    Verdict,
    VerdictCode,
)
from tvmerge.training.results.wording import (
    UNITS,
    interval,
    listed,
    number,
    with_interval,
)
from tvmerge.training.settings.kinds import KINDS, Kind, in_sentence
from tvmerge.training.verdicts.doubts import doubts
from tvmerge.training.verdicts.flags import flags
from tvmerge.training.verdicts.trait_verdict import (
    base_words,
    change_words,
    cost_words,
    rival_words,
    trait_verdicts,
)

# Of more kinds than this the study's own sentence tells of the best alone.
MOST_TOLD = 3
REDUCED: tuple[VerdictCode, ...] = ("reduced",)


def judge(results: Results) -> tuple[Verdict, ...]:
    """All verdicts: the study, its kinds, aggregation, traits, flags, caveats."""
    index = ResultIndex(results)
    traits = {kind: trait_verdicts(index, kind) for kind in index.kinds()}
    kinds = [_kind_verdict(index, kind, verdicts) for kind, verdicts in traits.items()]
    return (
        *_study_verdict(index, traits),
        *kinds,
        *(verdict for kind in traits for verdict in _aggregation(index, kind)),
        *(verdict for verdicts in traits.values() for verdict in verdicts),
        *doubts(index),
        *flags(index),
        _caveats(index),
    )


def _kind_verdict(index: ResultIndex, kind: Kind, verdicts: list[Verdict]) -> Verdict:
    choice = index.choice(kind)
    reduced = [verdict for verdict in verdicts if verdict.code in REDUCED]
    beside = [verdict for verdict in verdicts if verdict.code == "side_effects"]
    code = _kind_code(verdicts)
    words = {"worked": "worked", "partly": "worked in part", "failed": "failed"}[code]
    details = [_pooled_words(index, kind)]
    if choice is not None:
        details.append(f"Scale {choice.scale:g}: {choice.reason}.")
    return Verdict(
        scope="kind",
        code=code,
        kind=kind,
        headline=(
            f"{KINDS[kind].subject} {words}: {len(reduced)} of {len(verdicts)} traits reduced "
            f"specifically{f', {len(beside)} with side effects on the controls' if beside else ''}"
        ),
        detail=" ".join(details),
    )


def _pooled_words(index: ResultIndex, kind: Kind) -> str:
    choice = index.choice(kind)
    outcome = index.results.primary_outcome
    row = index.row(choice.model, ALL_TRAITS, outcome) if choice else None
    perplexity = index.perplexity(choice.model) if choice else None
    if choice is None or row is None or row.change is None or perplexity is None:
        return "The chosen model was not measured on the test items."
    beyond = index.contrast("beyond_unrelated", choice.model, ALL_TRAITS, outcome)
    specific = index.contrast("specificity", choice.model, ALL_TRAITS, outcome)
    from_base = index.contrast("from_base", choice.model, ALL_TRAITS, outcome)
    controls = index.row(choice.model, ALL_CONTROLS, outcome)
    words = change_words(row)
    parts = [
        words[:1].lower() + words[1:],
        *base_words(from_base),
        *rival_words(beyond, specific, controls),
        cost_words(perplexity),
    ]
    return f"Mean over the traits: {'; '.join(parts)}."


def _study_verdict(index: ResultIndex, traits: dict[Kind, list[Verdict]]) -> tuple[Verdict, ...]:
    if not traits:
        return ()
    counts = {kind: sum(v.code in REDUCED for v in found) for kind, found in traits.items()}
    total = max(len(found) for found in traits.values())
    says = [
        f"{count} of {total} with {_listed_kinds(same)}"
        for count in sorted(set(counts.values()), reverse=True)
        if (same := [kind for kind in counts if counts[kind] == count])
    ]
    codes = {_kind_code(found) for found in traits.values()}
    code: VerdictCode = min(codes, key=("worked", "partly", "failed").index)
    start = what_happened(
        code,
        specific=any(counts.values()),
        with_direct=any(KINDS[kind].direct for kind in counts),
    )
    return (
        Verdict(
            scope="study",
            code=code,
            headline=f"{start}: {'; '.join(says)}",
            detail=" ".join(_pooled_sentence(index, kind) for kind in _foremost(index, counts)),
        ),
    )


def what_happened(code: VerdictCode, *, specific: bool, with_direct: bool) -> str:
    """The headline's first words: where direct attempts stand among them, not negation's alone."""
    by_negation, by_any = {
        "worked": ("Negation reduced the traits", "The traits were reduced"),
        "partly": ("Negation reduced some traits specifically", "Some traits fell specifically")
        if specific
        else (
            "Negation reduced traits only with side effects",
            "Traits fell only with side effects",
        ),
        "failed": ("Negation did not reduce any trait specifically", "No trait fell specifically"),
    }[code]
    return by_any if with_direct else by_negation


def _listed_kinds(kinds: Sequence[Kind]) -> str:
    """`plain and trimmed vectors, gradient ascent`: the vectors together."""
    names = [in_sentence(kind) for kind in kinds]
    vectors = [name.removesuffix(" vectors") for name in names if name.endswith(" vectors")]
    others = [name for name in names if not name.endswith(" vectors")]
    return ", ".join([*([f"{listed(vectors)} vectors"] if vectors else []), *others])


def _foremost(index: ResultIndex, counts: Mapping[Kind, int]) -> list[Kind]:
    """The kinds that are told of: a few, or of many the best vectors and direct attempt."""
    if len(counts) <= MOST_TOLD:
        return [*counts]

    def rank(kind: Kind) -> tuple[int, float]:
        choice = index.choice(kind)
        outcome = index.results.primary_outcome
        row = index.row(choice.model, ALL_TRAITS, outcome) if choice else None
        return counts[kind], -(row.change or 0.0) if row else 0.0

    groups = ([k for k in counts if KINDS[k].direct == direct] for direct in (False, True))
    return [max(group, key=rank) for group in groups if group]


def _pooled_sentence(index: ResultIndex, kind: Kind) -> str:
    choice = index.choice(kind)
    outcome = index.results.primary_outcome
    row = index.row(choice.model, ALL_TRAITS, outcome) if choice else None
    perplexity = index.perplexity(choice.model) if choice else None
    if choice is None or row is None or row.change is None or perplexity is None:
        return f"{KINDS[kind].subject} were not measured on the test items."
    unit = UNITS.get(outcome, "")
    return (
        f"{KINDS[kind].subject} at scale {choice.scale:g}: mean change of the traits "
        f"{with_interval(row.change, row.change_low, row.change_high)}{' ' if unit else ''}{unit}, "
        f"{cost_words(perplexity)}."
    )


def _aggregation(index: ResultIndex, kind: Kind) -> tuple[Verdict, ...]:
    """Whether every trait stays down when all vectors are negated at once."""
    choice, outcome = index.choice(kind), index.results.primary_outcome
    rows = [
        index.row(choice.model, trait.name, outcome) if choice else None
        for trait in index.traits("trait")
    ]
    known = [row for row in rows if row is not None and row.change is not None]
    if choice is None or not known:
        return ()
    down = [row for row in known if row.change_high is not None and row.change_high < 0]
    others = [
        f"{index.title(row.trait)} "
        f"{with_interval(row.change or 0.0, row.change_low, row.change_high)}"
        for row in known
        if row not in down
    ]
    detail = (
        f"Not down: {listed(others)}."
        if others
        else "Each interval lies below zero: "
        + listed(
            [
                f"{index.title(row.trait)} {interval(row.change_low, row.change_high, sign=True)}"
                for row in down
            ]
        )
        + "."
    )
    return (
        Verdict(
            scope="aggregation",
            code=_share_code(len(down), len(known)),
            kind=kind,
            headline=(
                f"{'All traits at once, ' if KINDS[kind].direct else f'All {len(known)} '}"
                f"{in_sentence(kind)}{'' if KINDS[kind].direct else ' negated at once'}: "
                f"{len(down)} of {len(known)} traits fell"
            ),
            detail=f"{detail}{_cosine_words(index, kind)}",
        ),
    )


def _cosine_words(index: ResultIndex, kind: Kind) -> str:
    names = {trait.name for trait in index.traits("trait")}
    for vectors in index.results.vectors:
        places = [i for i, name in enumerate(vectors.names) if name.split(".")[0] in names]
        pairs = [vectors.cosines[i][j] for i in places for j in places if i < j]
        if vectors.kind == kind and pairs:
            return (
                f" The trait vectors have cosines of {number(min(pairs))} to "
                f"{number(max(pairs))} with each other."
            )
    return ""


def _caveats(index: ResultIndex) -> Verdict:
    rows = [row for row in index.results.rows if row.part == "test" and row.role == "trait"]
    counts = [row.n for row in rows if row.outcome == index.results.primary_outcome]
    fewest = min((count for count in counts if count), default=0)
    seeds, alpha = len(index.results.seeds), index.results.rules.alpha
    if seeds == 1:
        spread = (
            "Intervals and p-values are over items alone: they say nothing of other seeds, "
            "training data or wordings."
        )
    else:
        spread = (
            "Intervals are 95 % hierarchical bootstrap intervals over seeds and items, a little "
            "too narrow for so few seeds; p-values have the degrees of freedom of both. Neither "
            "says anything of other training data or wordings."
        )
    taught = (
        " Vectors with control replay come from fine-tunes on items of the control traits: where "
        "such a trait stays, that is no independent evidence."
        if "replayed" in index.kinds()
        else ""
    )
    return Verdict(
        scope="caveat",
        code="note",
        headline="What this does not show",
        detail=(
            f"{seeds} seed{'s' if seeds > 1 else ''}, one base model, {fewest} test items a trait "
            f"in the outcome judged by. {spread} Traits are judged at {alpha:g}, corrected over "
            f"the {len(index.traits('trait'))} traits (Holm) but not over the "
            f"{len(index.kinds())} kinds. Scales were chosen on development items only, but the "
            f"perplexity limit was kept on one of the two texts that are reported.{taught}"
        ),
    )


def _kind_code(verdicts: list[Verdict]) -> VerdictCode:
    if any(verdict.code == "side_effects" for verdict in verdicts):
        return "partly"
    return _share_code(sum(verdict.code in REDUCED for verdict in verdicts), len(verdicts))


def _share_code(count: int, total: int) -> VerdictCode:
    if count == 0:
        return "failed"
    return "worked" if count == total else "partly"
