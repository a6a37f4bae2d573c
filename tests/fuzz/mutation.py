"""Damages valid documents: values of a JSON tree, and pieces of a text."""

from __future__ import annotations

import json
from random import Random
from typing import Any

# Numbers at the edges of what sizes, offsets and counts can be, and what is no number at all.
NUMBERS = (
    0, 1, -1, 2, 3, 7, 8, 64, 255, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**25,
    0.0, -0.0, 0.5, 1.0, 1e300, -1e-320, float("nan"), float("inf"),
)  # fmt: skip
OTHERS = (
    None, True, False, "", "a", "F32", "BF16", "F4", "\ud800", "\0", "\x1b[2J", "é", "\U0001f600",
    "../a", "/etc/passwd", ".", "n" * 300,
)  # fmt: skip
CONTAINERS = ("[]", "[0]", "[1, 2]", "[0, 8]", "[[]]", "{}", '{"a": 1}', '{"": {}}')
TOKENS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"true", b"NaN", b"-Infinity", b"-0", b"0",
    b"1e999", b"1.0", b"9223372036854775808", b"9" * 40, b"0" * 9, b'"\\ud800"', b"\\u0000", b"\\",
    b"\xff", b"\xc0\x80", b"\xf0\x9f\x98\x80", b"\xef\xbb\xbf", b"\0", b" ", b"\n", b"[" * 2000,
    b'{"a":' * 1200, b'"__metadata__":', b"{}", b'"a":1,',
)  # fmt: skip


def mutated_json(random: Random, text: bytes) -> bytes:
    """The JSON document with one to three values replaced, moved, renamed or taken away."""
    tree = json.loads(text)
    for _ in range(1 + random.getrandbits(1) + random.getrandbits(1)):
        _mutate_value(random, tree)
    return json.dumps(tree, ensure_ascii=random.random() < 0.9).encode("utf-8", "surrogatepass")


def _mutate_value(random: Random, tree: Any) -> None:
    holder = _container(random, tree)
    if not holder:
        return
    key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    kind = random.random()
    if kind < 0.45:
        holder[key] = _odd_value(random, holder[key])
    elif kind < 0.65:
        del holder[key]
    elif kind < 0.85:  # what belongs elsewhere
        other = _container(random, tree)
        value = random.choice(list(other.values() if isinstance(other, dict) else other) or [None])
        holder[key] = json.loads(json.dumps(value))  # a copy: it may hold itself
    elif isinstance(holder, dict):
        holder[random.choice(("a", "b", "__metadata__", "", "\udfff", "x" * 5000))] = holder[key]
    else:
        holder.insert(key, holder[key])


def _container(random: Random, tree: Any) -> Any:
    """A dict or list of the tree, the deeper the likelier."""
    while isinstance(tree, dict | list) and tree:
        inner = [
            value
            for value in (tree.values() if isinstance(tree, dict) else tree)
            if isinstance(value, dict | list)
        ]
        if not inner or random.random() < 0.2:
            return tree
        tree = random.choice(inner)
    return tree if isinstance(tree, dict | list) else []


def _odd_value(random: Random, old: Any) -> Any:
    kind = random.random()
    if isinstance(old, int) and not isinstance(old, bool) and kind < 0.4:
        return old + random.choice((-8, -1, 1, 2, 8, 2**32))
    if kind < 0.8:
        return random.choice(NUMBERS if kind < 0.6 else OTHERS)
    return json.loads(random.choice(CONTAINERS))


def mutated_bytes(random: Random, text: bytes, tokens: tuple[bytes, ...] = TOKENS) -> bytes:
    """The text with one to four pieces put in, taken out, doubled or changed."""
    content = bytearray(text)
    for _ in range(random.choice((1, 1, 1, 1, 2, 2, 3, 5))):
        start = int(random.random() * (len(content) + 1))
        length = random.choice((0, 1, 1, 2, 4, 16, 64))
        kind = random.random()
        if kind < 0.4:
            content[start : start + (length if kind < 0.2 else 0)] = random.choice(tokens)
        elif kind < 0.6:
            del content[start : start + length]
        elif kind < 0.8:  # repeats a key, an entry, a bracket
            piece = content[start : start + length]
            place = int(random.random() * (len(content) + 1))
            content[place:place] = piece
        elif start < len(content):
            content[start] ^= 1 << random.getrandbits(3)
    return bytes(content)
