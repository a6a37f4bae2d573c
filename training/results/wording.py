"""Numbers as readers see them: a true minus sign, an interval in brackets, few digits."""

from __future__ import annotations

import math

from tvmerge.training.results.results import Outcome

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EM DASH}"
NO_BREAK = "\N{NO-BREAK SPACE}"
EXACT_BELOW = 0.001
SMALL = 0.2
MOST_DIGITS = 5

UNITS: dict[Outcome, str] = {
    "statement_margin": "nats per token",
    "statement_shows": "nats per token",
    "statement_lacks": "nats per token",
    "yes_no_margin": "nats per token",
    "choice_margin": "nats per token",
    "dialogue_margin": "nats per token",
    "yes_bias": "nats",
}
OUTCOME_TITLES: dict[Outcome, str] = {
    "statement_margin": "Statement margin",
    "statement_auc": "Statement AUC",
    "statement_pick_rate": "Statement pick rate",
    "statement_shows": "Showing statements",
    "statement_lacks": "Lacking statements",
    "yes_no_margin": "Yes/No margin",
    "yes_no_auc": "Yes/No AUC",
    "pick_rate": "Pick rate",
    "yes_bias": "Yes-bias",
    "valid_mass": "Mass on Yes and No",
    "choice_margin": "Choice margin",
    "choice_pick_rate": "Choice pick rate",
    "dialogue_margin": "Dialogue margin",
    "dialogue_auc": "Dialogue AUC",
    "dialogue_pick_rate": "Dialogue pick rate",
}


def number(value: float | None, *, digits: int = 2, sign: bool = False, tiny: bool = False) -> str:
    """`0.25`, with `sign` `+0.25`; with `tiny`, very small ones as `5e-06`; a dash for None."""
    if value is None or not math.isfinite(value):
        return DASH
    if tiny and 0 < abs(value) < EXACT_BELOW:
        text = f"{value:.0e}"
    else:
        text = f"{value:{'+' if sign else ''}.{digits}f}"
        if float(text) == 0:
            text = text.lstrip("+-")
    return text.replace("-", MINUS)


def interval(
    low: float | None,
    high: float | None,
    *,
    digits: int = 2,
    sign: bool = False,
    tiny: bool = False,
) -> str:
    """`[0.1, 0.3]` that no line breaks, or words where there is none."""
    if low is None or high is None:
        return "(no interval: too few items)"
    ends = [number(end, digits=_telling(end, digits), sign=sign, tiny=tiny) for end in (low, high)]
    return f"[{f',{NO_BREAK}'.join(ends)}]"


def with_interval(
    value: float,
    low: float | None,
    high: float | None,
    *,
    digits: int | None = None,
    sign: bool = True,
    tiny: bool = False,
) -> str:
    """`+0.25 [+0.10, +0.40]`; three digits where all of it is small, unless told."""
    if digits is None:
        largest = max(abs(part) for part in (value, low, high) if part is not None)
        digits = 3 if largest < SMALL else 2
    said = number(value, digits=digits, sign=sign, tiny=tiny)
    return f"{said} {interval(low, high, digits=digits, sign=sign, tiny=tiny)}"


def chance(p: float | None) -> str:
    """A p-value: `0.03`, `< 0.001`, a dash for None."""
    if p is None:
        return DASH
    return f"<{NO_BREAK}0.001" if p < 0.001 else f"{p:.2g}"


def percent(share: float, *, sign: bool = True) -> str:
    """`+1.5 %` of a share of 0.015; large ones without decimals."""
    digits = 1 if abs(share) < 0.1 else 0
    return f"{number(100 * share, digits=digits, sign=sign)}{NO_BREAK}%"


def rise(ratio: float, low: float | None, high: float | None) -> str:
    """A ratio as a rise with its interval: `+1.5 % [+1.0 %, +2.0 %]`."""
    if low is None or high is None:
        return percent(ratio - 1)
    return f"{percent(ratio - 1)} [{percent(low - 1)},{NO_BREAK}{percent(high - 1)}]"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _telling(end: float, digits: int) -> int:
    # An end that rounds to zero would hide on which side of it the interval stops.
    while 0 < abs(end) < 0.5 * 10**-digits and digits < MOST_DIGITS:
        digits += 1
    return digits
