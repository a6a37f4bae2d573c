"""Gives all models of a document one vocabulary: their embeddings and heads get its rows.

From there on they are models like others, whose tensors fit together. Nothing is written for models
that have the vocabulary already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from tvmerge.checkpoints.stored import Origin, Stored, file_status
from tvmerge.checkpoints.tokenizer_files import ALL, TokenizerFiles, read_files, tokenizer_paths
from tvmerge.errors import FormatError, did_you_mean
from tvmerge.files.untrusted import shown
from tvmerge.inputs.token_rows import TokenRows, store
from tvmerge.plans.assembly import Model
from tvmerge.plans.sums import Operand, TensorSum
from tvmerge.recipe.chat_templates import AUTO, NAMED, most_common, with_template
from tvmerge.recipe.document import BASE, UNION, Document, Vocabulary
from tvmerge.recipe.filling import Filling
from tvmerge.recipe.token_ids import renumbered, with_generation_config
from tvmerge.recipe.token_tensors import TokenTensors, vocabulary_size
from tvmerge.recipe.tokenizer import TOKENS
from tvmerge.recipe.vocabularies import (
    TokenizerText,
    known,
    parse_tokenizer,
    union,
    with_rows,
    with_tokens,
)

Open = Callable[[str], Model]
Find = Callable[[str], Path]


def align(document: Document, opened: Open, find: Find) -> tuple[Open, TokenizerFiles | None]:
    """Opens the document's models with the vocabulary that it asks for, and its tokenizer's files.

    Without files the tokenizer is the donor's. Raises ConfigError for what the recipe says of
    tokens, FormatError where a tokenizer cannot be read, MismatchError where it does not fit.
    """
    found: tuple[Open, TokenizerFiles | None] = opened, None
    if document.vocabulary is not None:
        found = _Aligner(document, document.vocabulary, opened, find).result()
    if document.chat_template is None:
        return found
    return found[0], _with_template(document, document.chat_template, opened, found[1])


def _with_template(
    document: Document, template: str, opened: Open, tokenizer: TokenizerFiles | None
) -> TokenizerFiles:
    models = list(map(opened, document.references))
    tokenizer = tokenizer or models[0].tokenizer or TokenizerFiles({}, (), ())
    if template == AUTO:
        found = most_common((model.donor.folder, _files(model)) for model in models)
        if found is None:
            what = f"no model has one. Name one of {', '.join(NAMED)}, or remove the key"
            raise document.file.error(("chat_template",), what)
        template = found
        read = [_unsharded(m.donor.source, m.donor.given, _paths(m)) for m in models]
        tokenizer = replace(tokenizer, read=tuple(dict.fromkeys([*tokenizer.read, *read])))
    donors = _files(replace(models[0], tokenizer=None))
    return with_template(tokenizer, models[0].donor.folder, donors, template)


class _Aligner:
    """The models of one document by their numbers; the first gives the layout."""

    def __init__(self, document: Document, wanted: Vocabulary, opened: Open, find: Find) -> None:
        self.document, self.wanted, self.opened, self.find = document, wanted, opened, find
        self.names = document.references
        self.models = [opened(name) for name in self.names]
        self.tensors = [TokenTensors(model) for model in self.models]

    def result(self) -> tuple[Open, TokenizerFiles | None]:
        """See align."""
        files = [_files(model) for model in self.models]
        other = self._other()
        found = files if other is None else [*files, read_files(other)]
        alike = len({one.found for one in self.tensors}) == 1
        alike &= self.wanted.pad_to_multiple_of is None
        if alike and not self.wanted.tokens and all(held in ({}, files[0]) for held in found):
            return self.opened, None
        texts = self._texts(files)
        output = with_tokens(self._output(texts, other), self.wanted.tokens)
        models, read = self._aligned(self._filling(texts, output), alike=alike)
        ids = texts[0].ids, output.ids
        changes = {**models[0].changes, **renumbered(models[0].config, *ids)}
        models[0] = replace(models[0], changes=changes)
        if other is not None:
            read.append(_unsharded(other, self.wanted.source, tokenizer_paths(other)))
        read = [one for one in read if one.shards or (one.origin and one.origin.files)]
        made = TokenizerFiles(output.output(), ALL, tuple(dict.fromkeys(read)))
        named = dict(zip(self.names, models, strict=True))
        return (
            lambda name: named.get(name) or self.opened(name),
            with_generation_config(made, models[0], *ids),
        )

    def _aligned(self, filling: Filling, *, alike: bool) -> tuple[list[Model], list[Stored]]:
        """The models with the rows of the new vocabulary, and what was read of them."""
        own = len(filling.ids[0])
        padding = -own % (self.wanted.pad_to_multiple_of or 1)
        # Where all have the vocabulary, rows that no token has stay as well.
        kept = alike and filling.keeps_all
        tables = [[] for _ in self.models] if kept else filling.tables(padding)
        stored = [self._stored(n, one, rebuilt=any(tables)) for n, one in enumerate(tables)]
        models = [
            _with_rows(model, rows, own + padding) if rows.shards else model
            for model, rows in zip(self.models, stored, strict=True)
        ]
        stages = [one for model in self.models if model.tokenizer for one in model.tokenizer.read]
        return models, stages + stored

    def _other(self) -> Path | None:
        """The folder that the tokenizer is taken from where that is none of the models."""
        source = self.wanted.source
        if source in (UNION, BASE, *self.names):
            return None
        folder = self.find(source)
        if folder.is_dir():
            return folder
        hint = did_you_mean(source, (UNION, BASE, *self.names))
        what = f"{shown(source)} is no model, and no folder.{hint} Name union, base or a model"
        raise self.document.file.error(self.wanted.at, what)

    def _texts(self, files: Sequence[Mapping[str, bytes]]) -> list[TokenizerText]:
        """The tokenizer of every model; one without is taken to have the first model's."""
        found: list[TokenizerText] = []
        for number, held in enumerate(files):
            same = next((n for n in range(number) if files[n] == held), None)
            place = self.models[number].donor.folder
            text = parse_tokenizer(place, held) if same is None else found[same]
            if text is None and not found:
                raise FormatError(f"{place}: has no tokenizer. Add its tokenizer.json")
            found.append(text or found[0])
        return found

    def _output(self, texts: Sequence[TokenizerText], other: Path | None) -> TokenizerText:
        if other is not None:
            text = parse_tokenizer(other, read_files(other))
            if text is None:
                what = f"{other} has no tokenizer. Name union, base or a model"
                raise self.document.file.error(self.wanted.at, what)
            return text
        number = self.names.index(self.wanted.source) if self.wanted.source in self.names else 0
        own = with_rows(texts[number], self.tensors[number].rows)
        if self.wanted.source != UNION:
            return own
        rows = [one.rows for one in self.tensors]
        return union(own, list(zip(texts, rows, strict=True))[1:])

    def _filling(self, texts: Sequence[TokenizerText], output: TokenizerText) -> Filling:
        ids = [one.ids(text, output) for one, text in zip(self.tensors, texts, strict=True)]
        rules = {output.ids[token]: rule for token, rule in self.wanted.tokens.items()}
        for number in (row for row, rule in rules.items() if rule.force):
            for own in ids:
                own[number] = -1
        base = 0 if self.document.base_model is not None else None
        given = zip(rules, self._given(texts).values(), strict=True)
        return Filling(self.tensors, ids, base, dict(given))

    def _given(self, texts: Sequence[TokenizerText]) -> dict[str, tuple[int, int] | None]:
        """By token the model's number and the row that the recipe tells, None for 0."""
        found: dict[str, tuple[int, int] | None] = {}
        for token, rule in self.wanted.tokens.items():
            if rule.model is None:
                found[token] = None
                continue
            number = self.names.index(rule.model)
            rows, held = self.tensors[number].rows, texts[number].ids
            text = rule.token or token
            row = held.get(text, rows) if rule.token_id is None else rule.token_id
            if row >= rows:
                what = f"{rule.model} has no row {row}, only {rows}"
                if rule.token_id is None:
                    what = (
                        f"{rule.model} has no token {shown(text)}.{did_you_mean(text, known(held))}"
                    )
                raise self.document.file.error((*TOKENS, token, "source"), what)
            found[token] = number, row
        return found

    def _stored(self, number: int, tables: Sequence[TokenRows], *, rebuilt: bool) -> Stored:
        """A model's rebuilt tensors; without tables what stands for all that was read of it."""
        model = self.models[number]
        paths = _paths(model)
        if rebuilt:
            slots = filter(None, map(self.tensors[number].slot, self.tensors[number].names))
            paths += dict.fromkeys(slot.file for slot in slots)
        if tables:
            return store(model.donor, tables, paths)
        return _unsharded(model.donor.source, model.donor.given, paths)


def _unsharded(source: Path, given: str, paths: Sequence[Path]) -> Stored:
    return Stored(source, (), given, Origin(tuple(map(file_status, paths)), None))


def _with_rows(model: Model, rows: Stored, count: int) -> Model:
    """The model with the tensors of `rows` in place of its own."""
    operands = {name: Operand(rows, name) for name in rows.slots}
    sums = {
        name: TensorSum(name, operands[name], {operands[name]: Fraction(1)})
        if name in operands
        else TensorSum(name, model.like(name), model.terms(name))
        for name in model.entries
    }
    entries = {name: one.like.slot.entry._replace(name=name) for name, one in sums.items()}
    before = next(model.entries[name].shape[0] for name in rows.slots)
    changes = dict(model.changes) | vocabulary_size(model.config, before, count)
    return replace(model, entries=entries, sums=sums, changes=changes)


def _files(model: Model) -> dict[str, bytes]:
    """The files of a model's tokenizer, as they lie there or will."""
    folder = model.donor.folder
    own = read_files(folder) if model.donor.source == folder else {}
    return own if model.tokenizer is None else model.tokenizer.beside(own)


def _paths(model: Model) -> list[Path]:
    """The files of a tokenizer that lies beside its model: of a single file nobody knows it."""
    stored = model.donor if model.tokenizer is None else None
    return tokenizer_paths(stored.folder) if stored and stored.source == stored.folder else []
