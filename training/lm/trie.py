"""Lays many (prompt, answer) queries into few sequences: no shared prefix is computed twice.

The queries of one pack form a tree of tokens. The tree is run as one sequence whose attention
mask lets each token see its own ancestors only; the numbers are those of running every query
alone. The last token of an answer is predicted, never read, so single-token answers cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Query(NamedTuple):
    """Asks for the log-probability of the tokens `answer` after the tokens `prompt`."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Lookup(NamedTuple):
    """At tree node `node`, the log-probability of `token` belongs to the query `query`."""

    node: int
    token: int
    query: Query


@dataclass(slots=True)
class Pack:
    """One tree of tokens in an order where parents come before their children."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def new_nodes(self, query: Query) -> int:
        """How many tokens the query would add."""
        node, read = -1, _read_tokens(query)
        for known, token in enumerate(read):
            child = self._children.get((node, token))
            if child is None:
                return len(read) - known
            node = child
        return 0

    def add(self, query: Query) -> None:
        """Put the query's tokens into the tree and note where its answer is predicted."""
        node = -1
        answer_from = len(query.prompt) - 1
        for depth, token in enumerate(_read_tokens(query)):
            node = self._child(node, token, depth)
            if depth >= answer_from:
                self.lookups.append(Lookup(node, query.answer[depth - answer_from], query))

    def ancestors(self) -> npt.NDArray[np.bool_]:
        """(nodes, nodes): may row see column? Itself and everything before it on its own path."""
        size = len(self.tokens)
        seen = np.zeros((size, size), dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] = seen[parent]
            seen[node, node] = True
        return seen

    def _child(self, parent: int, token: int, depth: int) -> int:
        node = self._children.get((parent, token))
        if node is None:
            node = len(self.tokens)
            self._children[parent, token] = node
            self.tokens.append(token)
            self.parents.append(parent)
            self.depths.append(depth)
        return node


def pack_queries(queries: Iterable[Query], *, max_nodes: int) -> list[Pack]:
    """Packs of at most `max_nodes` tokens (a longer single query gets its own pack)."""
    packs: list[Pack] = []
    for query in sorted(set(queries)):  # sorted: neighbours share the longest prefixes
        fits = packs and len(packs[-1].tokens) + packs[-1].new_nodes(query) <= max_nodes
        if not fits:
            packs.append(Pack())
        packs[-1].add(query)
    return packs


def _read_tokens(query: Query) -> tuple[int, ...]:
    return query.prompt + query.answer[:-1]
