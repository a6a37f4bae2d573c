"""What a recipe says of the tokenizer: whose it is, and where rows come from that models lack."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tvmerge.errors import did_you_mean
from tvmerge.files.untrusted import shown
from tvmerge.files.yaml_file import Location
from tvmerge.recipe.document import BASE, UNION, TokenRule, Vocabulary
from tvmerge.recipe.reading import Reader
from tvmerge.recipe.references import read_reference

TOKENS: Location = ("tokenizer", "tokens")
_PAD: Location = ("tokenizer", "pad_to_multiple_of")
_OF_ROWS = ("kind", "model", "token", "token_id")
_KEYS_OF_KINDS = {"zero": ("kind",), "model_token": _OF_ROWS}


def read_vocabulary(reader: Reader, content: Mapping[str, Any]) -> Vocabulary | None:
    """The vocabulary that is asked for, None: the models' own. Notes what is wrong with it."""
    at: Location = ("tokenizer_source",)
    if content.get("tokenizer_source") is not None:
        if content.get("tokenizer") is not None:
            reader.fault(at, "tokenizer is given too. Keep one of them")
        return Vocabulary(_whose(reader, content["tokenizer_source"], at), {}, None, at)
    if content.get("tokenizer") is None:
        return None
    at = ("tokenizer", "source")
    keys = ("source", "tokens", "pad_to_multiple_of")
    known = reader.mapping(content["tokenizer"], at[:1], known=keys)
    source = _whose(reader, known["source"], at) if "source" in known else UNION
    tokens = dict(_rules(reader, known["tokens"])) if known.get("tokens") is not None else {}
    pad = known.get("pad_to_multiple_of")
    if pad is not None and (type(pad) is not int or pad < 1):
        reader.fault(_PAD, f"expected a whole number from 1 on, found {shown(pad)}")
    return Vocabulary(source, tokens, pad, at)


def _whose(reader: Reader, value: Any, at: Location) -> str:
    source = read_reference(reader, value, at)
    if isinstance(value, dict) and source in (UNION, BASE):
        what = f"expected a model, found {source!r}, which tells how a vocabulary is made"
        reader.fault(at, f"{what}. Write {source} alone, or ./{source} for a folder of that name")
    return source or UNION


def _rules(reader: Reader, content: Any) -> Iterator[tuple[str, TokenRule]]:
    if not isinstance(content, dict):
        reader.fault(TOKENS, f"expected tokens with their sources, found {shown(content)}")
        return
    for token, value in content.items():
        at = (*TOKENS, str(token))
        if not isinstance(token, str) or not token:
            reader.fault(at, f"expected a token's text, found {shown(token)}. Put it in quotes")
            continue
        known = reader.mapping(value, at, known=("source", "force"), required=("source",))
        force = known.get("force", False)
        if type(force) is not bool:
            reader.fault((*at, "force"), f"expected true or false, found {shown(force)}")
        if "source" in known:
            yield token, TokenRule(*_source(reader, known["source"], (*at, "source")), bool(force))


def _source(reader: Reader, value: Any, at: Location) -> tuple[str | None, str | None, int | None]:
    """The model, the token and its number, where each is told."""
    if not isinstance(value, dict) or value.keys() & set(_OF_ROWS) == {"model"}:
        return read_reference(reader, value, at), None, None
    kind = value.get("kind")
    if kind not in _KEYS_OF_KINDS:
        hint = did_you_mean(str(kind), _KEYS_OF_KINDS)
        kinds = " or ".join(_KEYS_OF_KINDS)
        reader.fault((*at, "kind"), f"expected {kinds}, found {shown(kind)}.{hint}")
        return None, None, None
    needed = ("model",) if kind == "model_token" else ()
    known = reader.mapping(value, at, known=_KEYS_OF_KINDS[kind], required=needed)
    at_model = (*at, "model")
    model = read_reference(reader, known["model"], at_model) if "model" in known else None
    token, number = known.get("token"), known.get("token_id")
    if needed and (token is None) == (number is None):
        reader.fault(at, "expected either token or token_id. Give one of them")
    if token is not None:
        token = reader.text(token, (*at, "token"))
    if number is not None and (type(number) is not int or number < 0):
        reader.fault((*at, "token_id"), f"expected a whole number from 0 on, found {shown(number)}")
    return model, token, number


def strange_models(
    vocabulary: Vocabulary, references: Collection[str]
) -> Iterator[tuple[Location, str]]:
    """Rules for tokens that name models which take no part."""
    for token, rule in vocabulary.tokens.items():
        if rule.model is not None and rule.model not in references:
            hint = did_you_mean(rule.model, references)
            what = f"{shown(rule.model)} is no model of this merge.{hint}"
            yield (*TOKENS, token, "source"), what
