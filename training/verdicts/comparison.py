"""Two studies side by side: verdicts, changes of the primary outcome, and what was set otherwise.

compared = compare(load_results(Path("a/results.json")), load_results(Path("b/results.json")))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvmerge.training.results.contrasts import groups
from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.results import Outcome, Results, Role, TraitInfo, Verdict, VerdictCode
from tvmerge.training.results.wording import (
    DASH,
    OUTCOME_TITLES,
    number,
    percent,
    rise,
    with_interval,
)
from tvmerge.training.settings.kinds import Kind

# A value and the ends of its interval.
_Change = tuple[float, float | None, float | None]

COMPARED_ROLES: tuple[Role, ...] = ("trait", "control", "composite", "capability")


@dataclass(frozen=True, slots=True)
class Setting:
    """What one study had otherwise than the other; a dash where it had no such thing."""

    key: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class VerdictPair:
    """What both say of one kind (or of one trait under it)."""

    about: str
    kind: Kind | None
    a: Verdict | None
    b: Verdict | None

    @property
    def differs(self) -> bool:
        """Whether they say another thing, or only one of them says anything."""
        codes: list[VerdictCode | None] = [one.code if one else None for one in (self.a, self.b)]
        return codes[0] != codes[1]


@dataclass(frozen=True, slots=True)
class ChangePair:
    """A change under each study's chosen model with its interval, and B's minus A's."""

    kind: Kind
    trait: str
    a: str
    b: str
    difference: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that `tvmerge study compare` shows."""

    a: str
    b: str
    outcome: str
    settings: tuple[Setting, ...]
    verdicts: tuple[VerdictPair, ...]
    changes: tuple[ChangePair, ...]


def compare(a: Results, b: Results) -> Comparison:
    """The two side by side, by A's primary outcome."""
    first, second = ResultIndex(a), ResultIndex(b)
    return Comparison(
        a=a.name,
        b=b.name,
        outcome=OUTCOME_TITLES[a.primary_outcome],
        settings=tuple(_settings(a, b)),
        verdicts=tuple(_verdicts(first, second)),
        changes=tuple(_changes(first, second, a.primary_outcome)),
    )


def _settings(a: Results, b: Results) -> Iterator[Setting]:
    said = [
        {
            "base": one.base.name,
            "base.digest": one.base.digest,
            "chosen scales": ", ".join(f"{c.kind} {c.scale:g}" for c in one.choices),
            "primary outcome": OUTCOME_TITLES[one.primary_outcome],
            **_flat(one.config),
            **{f"version of {name}": version for name, version in one.versions.items()},
        }
        for one in (a, b)
    ]
    for key in dict.fromkeys(key for one in said for key in one):
        mine, other = (one.get(key, DASH) for one in said)
        if mine != other:
            yield Setting(key, mine, other)


def _flat(config: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """`{"train.steps": "24", ...}`."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{within}{key}.")
        elif isinstance(value, (list, tuple)):
            found[within + key] = ", ".join(map(str, value))
        else:
            found[within + key] = str(value)
    return found


def _kinds(a: ResultIndex, b: ResultIndex) -> list[Kind]:
    return list(dict.fromkeys([*a.kinds(), *b.kinds()]))


def _traits(a: ResultIndex, b: ResultIndex) -> list[TraitInfo]:
    known = {trait.name: trait for one in (b, a) for trait in one.results.traits}
    names = dict.fromkeys(trait.name for one in (a, b) for trait in one.results.traits)
    return [known[name] for name in names if known[name].role in COMPARED_ROLES]


def _verdicts(a: ResultIndex, b: ResultIndex) -> Iterator[VerdictPair]:
    found = [
        {
            (v.scope, v.kind, v.trait): v
            for v in one.results.verdicts
            if v.scope in ("kind", "trait")
        }
        for one in (a, b)
    ]
    titles = {trait.name: trait.title or trait.name for trait in _traits(a, b)}
    kinds = _kinds(a, b)
    keys = dict.fromkeys(key for one in found for key in one)
    # Each kind, then its traits.
    for key in sorted(keys, key=lambda key: kinds.index(key[1]) if key[1] in kinds else -1):
        _, kind, trait = key
        about = titles.get(trait or "", trait or "All traits")
        yield VerdictPair(about, kind, *(one.get(key) for one in found))


def _changes(a: ResultIndex, b: ResultIndex, outcome: Outcome) -> Iterator[ChangePair]:
    titles = {trait.name: trait.title for trait in _traits(a, b)}
    for kind in _kinds(a, b):
        for name, _, _ in groups(_traits(a, b)):
            pair = [_change(one, kind, name, outcome) for one in (a, b)]
            if any(pair):
                yield _pair(kind, titles.get(name) or name.capitalize(), pair)
        costs = [_cost(one, kind) for one in (a, b)]
        if any(costs):
            yield _pair(kind, "Perplexity", costs, said=rise, differ=percent)


def _change(index: ResultIndex, kind: Kind, trait: str, outcome: Outcome) -> _Change | None:
    choice = index.choice(kind)
    row = index.row(choice.model, trait, outcome) if choice else None
    if row is None or row.change is None:
        return None
    return row.change, row.change_low, row.change_high


def _cost(index: ResultIndex, kind: Kind) -> _Change | None:
    choice = index.choice(kind)
    row = index.perplexity(choice.model) if choice else None
    if row is None or row.base_ratio is None:
        return None
    return row.base_ratio, row.base_ratio_low, row.base_ratio_high


def _signed(value: float) -> str:
    return number(value, sign=True)


def _pair(
    kind: Kind,
    trait: str,
    pair: Sequence[_Change | None],
    said: Callable[..., str] = with_interval,
    differ: Callable[[float], str] = _signed,
) -> ChangePair:
    a, b = pair
    return ChangePair(
        kind=kind,
        trait=trait,
        a=said(*a) if a else DASH,
        b=said(*b) if b else DASH,
        difference=differ(b[0] - a[0]) if a and b else DASH,
    )
