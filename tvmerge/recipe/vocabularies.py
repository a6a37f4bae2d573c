"""Reads tokenizers, and makes new ones of them; the library `tokenizers` knows how.

A token's row is found by its text, as mergekit finds it: the same text is the same token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tvmerge.checkpoints.tokenizer_files import (
    ADDED,
    CONFIG,
    MOST_VALUES,
    OTHER_VOCABULARIES,
    SETTINGS,
    TOKENIZER,
    json_of,
    matches,
    to_json,
)
from tvmerge.errors import FormatError
from tvmerge.files.untrusted import check_values, shown

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

_MOST_TOKENS = 10_000_000
_OF_ADDED = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class TokenizerText:
    """A tokenizer as its files have it; `made`: those of its vocabulary are another one's."""

    place: Path  # for messages
    files: Mapping[str, bytes]
    tokenizer: Tokenizer
    made: bool = False

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """The number of every token, in their order."""
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
        return dict(sorted(vocabulary.items(), key=lambda item: item[1]))

    @cached_property
    def added(self) -> Mapping[int, AddedToken]:
        """The tokens that are found in a text before all others."""
        return self.tokenizer.get_added_tokens_decoder()

    def output(self) -> dict[str, bytes]:
        """The files that say it."""
        if not self.made:
            return dict(self.files)
        found = {name: data for name, data in self.files.items() if matches(name, SETTINGS)}
        found[TOKENIZER] = self.tokenizer.to_str(pretty=True).encode()
        config = json_of(self.place, found, CONFIG)
        if "added_tokens_decoder" in config:
            told = {
                str(number): {"content": token.content} | _flags(token)
                for number, token in sorted(self.added.items())
            }
            config["added_tokens_decoder"] = told
            found[CONFIG] = to_json(config)
        return found


def parse_tokenizer(place: Path, files: Mapping[str, bytes]) -> TokenizerText | None:
    """The tokenizer that files say, None where no file does.

    Raises FormatError where the library is missing, or the files are none that it reads.
    """
    if TOKENIZER not in files:
        others = [name for name in files if matches(name, OTHER_VOCABULARIES)]
        if not others:
            return None
        raise FormatError(
            f"{place}: expected {TOKENIZER}, found {', '.join(others)}. Convert it: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    try:
        check_values(files[TOKENIZER], most_values=MOST_VALUES)
        read = _tokenizer(files[TOKENIZER].decode())
    except ValueError as error:
        raise FormatError(f"{place / TOKENIZER}: {error}") from error
    _complete(place, files, read)
    found = TokenizerText(place, files, read)
    last = max(found.ids.values(), default=None)
    if last is None or last >= _MOST_TOKENS:
        what = "has no tokens" if last is None else f"numbers a token {last:,}"
        most = f"expected 1 to {_MOST_TOKENS:,} tokens"
        raise FormatError(f"{place / TOKENIZER}: {what}, {most}. Save the tokenizer again")
    return found


def union(own: TokenizerText, others: Sequence[tuple[TokenizerText, int]]) -> TokenizerText:
    """The tokenizer with the tokens of others behind its own, in the order of their numbers.

    Of each of the others as many tokens count as its embedding has rows. Added tokens of others are
    added tokens here as well; those that several have are as the first has them.
    """
    from tokenizers import AddedToken

    held = {token.content for token in own.added.values()}
    plain: dict[str, None] = {}
    added: dict[str, AddedToken] = {}
    for one, rows in others:
        for number, token in sorted(one.added.items()):
            if number < rows and token.content not in held:
                added.setdefault(token.content, token)
        plain |= dict.fromkeys(text for text, number in one.ids.items() if number < rows)
    new = [text for text in plain if text not in own.ids and text not in added]
    return _with(own, [*map(AddedToken, new), *added.values()])


def with_rows(own: TokenizerText, rows: int) -> TokenizerText:
    """The tokenizer without added tokens that have no row in an embedding of so many.

    Raises FormatError where tokens of its vocabulary have none.
    """
    without = [text for text, number in own.ids.items() if number >= rows]
    added = {token.content for token in own.added.values()}
    lost = [text for text in without if text not in added]
    if lost:
        raise FormatError(
            f"{own.place}: {len(lost)} tokens have no row in the embedding of {rows} rows: "
            f"{shown(lost[0])} is number {own.ids[lost[0]]}. Save the model with its own tokenizer"
        )
    if not without:
        return own
    content = json.loads(own.tokenizer.to_str())
    content["added_tokens"] = [one for one in content["added_tokens"] if one["id"] < rows]
    return TokenizerText(own.place, own.files, _tokenizer(json.dumps(content)), made=True)


def with_tokens(own: TokenizerText, texts: Iterable[str]) -> TokenizerText:
    """The tokenizer with texts as added tokens, where they are no tokens yet."""
    from tokenizers import AddedToken

    return _with(own, [AddedToken(text) for text in texts if text not in own.ids])


def _with(own: TokenizerText, tokens: Sequence[AddedToken]) -> TokenizerText:
    if not tokens:
        return own
    tokenizer = _tokenizer(own.tokenizer.to_str())
    tokenizer.add_tokens(list(tokens))
    return TokenizerText(own.place, own.files, tokenizer, made=True)


def _tokenizer(text: str) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise FormatError(
            "to read it the library tokenizers is needed. pip install 'tvmerge[study]'"
        ) from error
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library's errors are plain Exceptions
        raise ValueError(f"is no tokenizer that the library tokenizers reads: {error}") from error


def _complete(place: Path, files: Mapping[str, bytes], tokenizer: Tokenizer) -> None:
    """Add what files beside tokenizer.json alone tell, as transformers does."""
    held = tokenizer.get_vocab(with_added_tokens=True)
    for number, token in sorted(_told(place, files).items()):
        if token.content in held:
            continue
        tokenizer.add_tokens([token])
        found = tokenizer.token_to_id(token.content)
        if found != number:
            raise FormatError(
                f"{place}: {shown(token.content)} is number {number} in {CONFIG} or {ADDED}, and "
                f"would be {found} behind the tokens of {TOKENIZER}. Save the tokenizer again"
            )


def _told(place: Path, files: Mapping[str, bytes]) -> dict[int, AddedToken]:
    from tokenizers import AddedToken

    try:
        plain = json_of(place, files, ADDED)
        found = {int(number): AddedToken(text) for text, number in plain.items()}
        for number, one in json_of(place, files, CONFIG).get("added_tokens_decoder", {}).items():
            flags = {key: bool(one[key]) for key in _OF_ADDED if key in one}
            found[int(number)] = AddedToken(one["content"], **flags)
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{place}: {ADDED} or added_tokens_decoder in {CONFIG} is not what transformers "
            "writes. Save the tokenizer again"
        ) from error
    return found


def _flags(token: AddedToken) -> dict[str, bool]:
    return {key: getattr(token, key) for key in _OF_ADDED}


def known(texts: Iterable[str]) -> list[str]:
    """Tokens for a suggestion, of which there may be too many to compare."""
    return [text for text, _ in zip(texts, range(2_000), strict=False)]
