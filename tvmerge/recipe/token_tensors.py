"""The tensors of a model that have a row for every token, and the tokens that these rows are of."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from tvmerge.checkpoints.heads import is_embedding
from tvmerge.checkpoints.stored import Slot
from tvmerge.errors import ConfigError, MismatchError
from tvmerge.plans.assembly import Model
from tvmerge.recipe.layers import is_by_token, split
from tvmerge.recipe.tied import named_in
from tvmerge.recipe.vocabularies import TokenizerText

_NESTED = (None, "text_config")  # where a config says how many tokens there are


_ADVICE = "Give all models one vocabulary yourself, and remove the tokenizer's keys"


class TokenTensors:
    """A model's; `found` is the number of rows of its embedding, 0 where it is not found."""

    def __init__(self, model: Model) -> None:
        self.model = model
        first = next(filter(is_embedding, model.entries), None)
        self.found = 0 if first is None else model.entries[first].shape[0]

    @property
    def rows(self) -> int:
        """The number of rows; raises MismatchError where no embedding is found."""
        if not self.found:
            raise MismatchError(
                f"{self.model.reference}: no tensor is an embedding by its name (embed_tokens, "
                f"wte, embed_in, ...). {_ADVICE}"
            )
        return self.found

    @cached_property
    def names(self) -> list[str]:
        """Their names; raises MismatchError where they cannot be told from others."""
        entries, where = self.model.entries, self.model.reference
        for name, entry in entries.items():
            by_name, by_shape = is_by_token(name), entry.shape[:1] == (self.rows,)
            by_shape &= by_name or (len(entry.shape) == 2 and split(name) is None)
            if by_name != by_shape:
                raise MismatchError(
                    f"{where}: {name} {list(entry.shape)} has a row for each of {self.rows} tokens "
                    f"by its {'name, not by its shape' if by_name else 'shape, not by its name'}. "
                    f"{_ADVICE}"
                )
        return [name for name in entries if is_by_token(name)]

    def slot(self, name: str) -> Slot | None:
        """Where the tensor lies, that of the embedding for a head tied to it; None: not there.

        Raises ConfigError where it does not lie anywhere yet.
        """
        found = named_in(self.model, name)
        if found is None:
            return None
        operand = self.model.alone(found)
        if operand is None or operand.stored.origin:
            raise ConfigError(
                f"{self.model.reference}: its {found} has to be rebuilt for another vocabulary, "
                "and is not written yet. Merge it first, and name its folder"
            )
        return operand.slot

    def ids(self, own: TokenizerText, wanted: TokenizerText) -> array[int]:
        """For every row of the wanted vocabulary the number of the model's, -1 where it has none.

        A number between others that no token has keeps its row.
        """
        count = 1 + max(wanted.ids.values())
        found = array("q", [n if n < self.rows else -1 for n in range(count)])
        for text, number in wanted.ids.items():
            row = own.ids.get(text, -1)
            found[number] = row if row < self.rows else -1
        return found


def vocabulary_size(
    config: Mapping[str, Any], before: int, after: int
) -> dict[tuple[str, ...], int]:
    """What a config has to say of the number of tokens instead, by the path of each key."""
    places = {key: config if key is None else config.get(key) for key in _NESTED}
    held = {
        (*([] if key is None else [key]), "vocab_size"): place["vocab_size"]
        for key, place in places.items()
        if isinstance(place, dict) and "vocab_size" in place
    }
    right = [path for path, value in held.items() if value == before] or list(held)
    return dict.fromkeys(right, after)
