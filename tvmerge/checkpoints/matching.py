"""Whether inputs fit together: the same tensors in the same shapes, and weights, not codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

from tvmerge.checkpoints.stored import Stored, read_config
from tvmerge.errors import MismatchError, did_you_mean
from tvmerge.files.safetensors import FLOAT_DTYPES, Entry

_LISTED = 5  # how many mismatches an error names
# Of names, to find one that was meant: at some ten thousand a second, and only where most fit.
_MOST_COMPARISONS = 10_000


def check_match(inputs: Iterable[Stored], donor: Stored, *, listed: int | None = _LISTED) -> None:
    """Every checkpoint has the donor's tensors, no others, in the same shapes.

    Raises MismatchError that names the first `listed` tensors at fault; None: all of them.
    """
    problems: list[str] = []
    for stored in inputs:
        if stored == donor or _same_headers(stored, donor):
            continue
        if stored.is_task_vector and not donor.slots.keys() & stored.slots.keys():
            problems.append(f"{stored.source} and {donor.source} have no tensor in common")
        problems += _mismatches(stored, donor)
    if problems:
        raise_mismatches(problems, listed=listed)


def raise_mismatches(
    problems: Sequence[str], *, listed: int | None = _LISTED, advice: str | None = None
) -> NoReturn:
    """Raise MismatchError with the first `listed` problems, None: all, and what to do."""
    left = 0 if listed is None else max(0, len(problems) - listed)
    more = f"\n  ... and {left} more (`tvmerge plan` lists all)" if left else ""
    advice = advice or "Use checkpoints of one architecture and vocabulary (see `tvmerge inspect`)"
    shown = "\n  ".join(problems[:listed])
    raise MismatchError(f"the inputs do not fit together:\n  {shown}{more}\n{advice}")


def differences(
    name: str, mine: Entry, source: object, other: Entry, expected_of: object
) -> Iterator[str]:
    """Why a tensor of `source` cannot be summed with one of another input; nothing: it can."""
    if mine.shape != other.shape:
        yield (
            f"{name}: shape {list(mine.shape)} in {source}, "
            f"expected {list(other.shape)} as in {expected_of}"
        )
    elif mine.dtype != other.dtype and not {mine.dtype, other.dtype} <= FLOAT_DTYPES:
        yield f"{name}: {mine.dtype} in {source}, expected {other.dtype} as in {expected_of}"


def refuse_quantised(inputs: Iterable[Stored]) -> None:
    """Quantised codes are not weights: combining them without their scales gives noise."""
    for stored in inputs:
        for folder in stored.config_folders:
            if not read_config(folder).get("quantization_config"):
                continue
            raise MismatchError(
                f"{folder / 'config.json'}: the model is quantised (quantization_config): its "
                "stored codes cannot be combined. Dequantise it first and save it in bfloat16"
            )


def _same_headers(stored: Stored, donor: Stored) -> bool:
    """Whether the files' headers are the same objects, as they are where the texts are equal."""
    return [id(header) for _, header in stored.shards] == [id(header) for _, header in donor.shards]


def _mismatches(stored: Stored, donor: Stored) -> Iterator[str]:
    # A stored vector may hold fewer tensors than the model: it adds nothing to the others.
    if not stored.is_task_vector:
        unmatched = stored.slots.keys() - donor.slots.keys()
        missing = sorted(donor.slots.keys() - stored.slots.keys())
        for name in missing:
            few = len(missing) * len(unmatched) <= _MOST_COMPARISONS
            near = did_you_mean(name, unmatched) if few else ""
            yield f"{name}: in {donor.source}, missing in {stored.source}.{near}"
    for name, slot in sorted(stored.slots.items()):
        if name not in donor.slots:
            yield f"{name}: in {stored.source}, missing in {donor.source}"
            continue
        other = donor.slots[name].entry
        yield from differences(name, slot.entry, stored.source, other, donor.source)
