"""The page's tables as plain values: what each cell says, and how far its bar reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tvmerge.training.results.index import ResultIndex
from tvmerge.training.results.measured_model import CONTROLS, ENSEMBLE, TOGETHER, MeasuredModel
from tvmerge.training.results.results import (
    ALL_CAPABILITY,
    ALL_COMPOSITES,
    ALL_CONTROLS,
    ALL_TRAITS,
    Outcome,
    OutcomeRow,
    PerplexityRow,
    ScaleChoice,
    TextRole,
    TraitInfo,
)
from tvmerge.training.results.wording import OUTCOME_TITLES, listed, percent, rise, with_interval
from tvmerge.training.settings.kinds import BASE, FORMATTED, KINDS, NAMES, Kind, kind_title
from tvmerge.training.verdicts.kind_doubts import PICK_RATES

OTHER_OUTCOMES: tuple[Outcome, ...] = (
    "statement_margin",
    "statement_auc",
    "statement_pick_rate",
    "statement_shows",
    "statement_lacks",
    "yes_no_margin",
    "yes_no_auc",
    "pick_rate",
    "yes_bias",
    "valid_mass",
    "choice_margin",
    "choice_pick_rate",
    "dialogue_margin",
    "dialogue_auc",
    "dialogue_pick_rate",
)
MOST_KINDS_WITH_CONTROLS = 3
TEXTS: dict[TextRole, str] = {"limit": "Perplexity", "other": "Perplexity, second text"}
GROUPS = (
    ("All traits", ALL_TRAITS),
    ("All control traits", ALL_CONTROLS),
    ("All composites", ALL_COMPOSITES),
    ("Capability", ALL_CAPABILITY),
)


@dataclass(frozen=True, slots=True)
class OtherRow:
    """All other outcomes of one model, pooled."""

    label: str
    kind: Kind | None
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class OtherTable:
    """Other outcomes, pooled over a role."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[OtherRow, ...]


def has_many_kinds(index: ResultIndex) -> bool:
    """Whether the control vectors of all kinds are too many to stand among what is compared."""
    return len(index.kinds()) > MOST_KINDS_WITH_CONTROLS


@dataclass(frozen=True, slots=True)
class ShownModel:
    """A model that tables compare; `control` is that of a control vector."""

    id: str
    label: str
    kind: Kind | None = None
    control: bool = False


def start_models(index: ResultIndex) -> Iterator[ShownModel]:
    """The base, and the start model where there is one."""
    yield ShownModel(BASE, "Base")
    if any(model.id == FORMATTED for model in index.results.models):
        yield ShownModel(FORMATTED, "Base that knows the format")


def edited_models(index: ResultIndex) -> Iterator[ShownModel]:
    """Every kind's chosen model and its control vectors."""
    for choice in index.results.choices:
        yield ShownModel(choice.model, removed_label(choice.kind), choice.kind)
        for control in CONTROLS:
            label = f"{control.capitalize()} vector, {NAMES.get(choice.kind, choice.kind)}"
            yield ShownModel(f"{choice.kind}.{control}", label, choice.kind, control=True)


def together_models(index: ResultIndex) -> list[ShownModel]:
    """All traits added at once, and the ensemble of the tuned models."""
    known = [m for m in index.results.models if m.id in (TOGETHER, ENSEMBLE)]
    return [ShownModel(model.id, _label(index, model)) for model in known]


def shown_models(index: ResultIndex) -> list[ShownModel]:
    """From the base to the controls."""
    return [*start_models(index), *edited_models(index)]


def removed_label(kind: Kind) -> str:
    """How a table calls the kind's chosen model."""
    return KINDS[kind].subject if KINDS[kind].direct else f"All negated, {NAMES.get(kind, kind)}"


def other_outcomes(index: ResultIndex) -> list[OtherTable]:
    """Every outcome of the compared models, pooled over the traits and over the controls."""
    tables = []
    for title, group in GROUPS:
        outcomes = [
            outcome for outcome in OTHER_OUTCOMES if index.row("base", group, outcome) is not None
        ]
        rows = []
        for model in shown_models(index):
            found = [index.row(model.id, group, outcome) for outcome in outcomes]
            if any(found):
                cells = tuple(_level(row) for row in found)
                rows.append(OtherRow(model.label, model.kind, cells))
        if rows:
            columns = tuple(OUTCOME_TITLES[outcome] for outcome in outcomes)
            tables.append(OtherTable(title=title, columns=columns, rows=tuple(rows)))
    return tables


def candidate_rows(choice: ScaleChoice) -> list[tuple[str, str, str, bool]]:
    """(scale, change on development items, perplexity, chosen) of each scale that was tried."""
    return [
        (
            f"{one.scale:g}",
            with_interval(one.change, one.low, one.high),
            percent(one.perplexity_rise),
            one.model == choice.model,
        )
        for one in choice.candidates
    ]


def cost_table(index: ResultIndex) -> OtherTable:
    """What edits cost: perplexity of both texts and common knowledge, of the compared models."""
    shown = shown_models(index)
    if has_many_kinds(index):
        shown = [model for model in shown if not model.control]
    return _cost_table(index, shown, PICK_RATES)


def perplexity_table(index: ResultIndex) -> OtherTable:
    """Perplexity of every measured model on both texts."""
    labels = {model.id: model.label for model in shown_models(index)}
    every = [
        ShownModel(model.id, labels.get(model.id) or _label(index, model), model.kind)
        for model in index.results.models
    ]
    return _cost_table(index, every, ())


def _cost_table(
    index: ResultIndex, models: Sequence[ShownModel], outcomes: Sequence[Outcome]
) -> OtherTable:
    rated = [one for one in outcomes if index.row(BASE, ALL_CAPABILITY, one) is not None]
    texts: list[TextRole] = ["limit"]
    if index.perplexity(BASE, "other") is not None:
        texts.append("other")
    rows = []
    for model in models:
        if index.perplexity(model.id) is None:
            continue
        cells = [cell for text in texts for cell in _cost(index.perplexity(model.id, text))]
        cells += [_level(index.row(model.id, ALL_CAPABILITY, outcome)) for outcome in rated]
        rows.append(OtherRow(model.label, model.kind, tuple(cells)))
    columns = [column for text in texts for column in (TEXTS[text], "from the base")]
    columns += [f"{OUTCOME_TITLES[outcome]}, common knowledge" for outcome in rated]
    return OtherTable(title="What it costs", columns=tuple(columns), rows=tuple(rows))


def _cost(row: PerplexityRow | None) -> list[tuple[str, str]]:
    if row is None:
        return [("", ""), ("", "")]
    level = with_interval(row.value, row.low, row.high, digits=1, sign=False)
    ratio = row.base_ratio
    cost = "" if ratio is None else rise(ratio, row.base_ratio_low, row.base_ratio_high)
    return [_split(level), _split(cost)]


def _split(said: str) -> tuple[str, str]:
    """The value and its interval."""
    value, _, interval = said.partition(" ")
    return value, interval


def dose_rows(index: ResultIndex) -> list[tuple[str, Sequence[str]]]:
    """(model, change on each trait) of every scale: the numbers behind the curves."""
    outcome = index.results.primary_outcome
    rows: list[tuple[str, Sequence[str]]] = []
    for kind in index.kinds():
        for model in index.negated(kind):
            found = [index.row(model.id, trait.name, outcome) for trait in dose_columns(index)]
            said = [change_words(row) if row is not None else "" for row in found]
            rows.append((f"{kind_title(kind)}, scale {model.scale:g}", said))
    return rows


def change_words(row: OutcomeRow) -> str:
    """The change with its interval; nothing where there is none."""
    if row.change is None:
        return ""
    return with_interval(row.change, row.change_low, row.change_high)


def dose_columns(index: ResultIndex) -> list[TraitInfo]:
    """The traits whose changes are told at every scale: all but those after examples."""
    return [trait for trait in index.results.traits if trait.role != "elicited"]


def _level(row: OutcomeRow | None) -> tuple[str, str]:
    if row is None:
        return "", ""
    mass = row.outcome == "valid_mass"
    said = with_interval(
        row.value, row.low, row.high, digits=3 if mass else 2, sign=False, tiny=mass
    )
    return _split(said)


def _label(index: ResultIndex, model: MeasuredModel) -> str:
    about = index.title(model.trait or "")
    return {
        "tuned": f"Tuned: {about}",
        "single": f"Only {about} negated, {model.kind}",
        "without": f"All but {about} negated, {model.kind}",
        "together": _together_label(index, model),
    }.get(model.role, f"{(model.kind or model.id).capitalize()}, scale {model.scale or 0:g}")


def _together_label(index: ResultIndex, model: MeasuredModel) -> str:
    if model.id == TOGETHER:
        return "All traits added"
    if model.id == ENSEMBLE:
        return "Ensemble of the tuned models"
    return f"Added: {listed([index.title(name) for name in (model.trait or '').split('+')])}"
