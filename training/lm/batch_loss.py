"""Log-probabilities of a batch's answers, to be trained on; prompts are read, not learned.

A batch is laid out as one tree of tokens (see trie), so that prefixes which its items share, a
chat template's system message above all, are computed once and nothing is padded. Architectures
that do not obey the tree's mask get padded rows, which mean the same.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from tvmerge.training.lm.trie import Pack, Query

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def batch_order(items: int, *, batch_size: int, steps: int, seed: int) -> list[tuple[int, ...]]:
    """Which items each step sees: all of them in a new random order, again and again."""
    generator = random.Random(seed)
    order: list[int] = []
    while len(order) < steps * batch_size:
        order += generator.sample(range(items), items)
    return [
        tuple(order[start : start + batch_size])
        for start in range(0, steps * batch_size, batch_size)
    ]


def answer_logps(
    model: PreTrainedModel, batch: Sequence[Query], *, shared_prefixes: bool
) -> tuple[torch.Tensor, int]:
    """(summed log-probability (nats) of every answer, how many tokens were read)."""
    read = _read_tree if shared_prefixes else _read_rows
    logits, targets, tokens = read(model, batch)
    logps = -cross_entropy(logits.float(), targets.to(logits.device), reduction="none")
    owner = torch.tensor(
        [place for place, query in enumerate(batch) for _ in query.answer], device=logits.device
    )
    summed = torch.zeros(len(batch), device=logits.device).index_add(0, owner, logps)
    return summed, tokens


def _read_tree(
    model: PreTrainedModel, batch: Sequence[Query]
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(logits of every answer token, the tokens, how many were read)."""
    pack = Pack()
    for query in batch:
        pack.add(query)
    seen = torch.from_numpy(pack.ancestors())
    mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
    logits = _logits(
        model,
        [lookup.node for lookup in pack.lookups],
        input_ids=torch.tensor([pack.tokens], device=model.device),
        position_ids=torch.tensor([pack.depths], device=model.device),
        attention_mask=mask[None, None].to(model.device),
    )
    targets = torch.tensor([lookup.token for lookup in pack.lookups])
    return logits[0], targets, len(pack.tokens)


def _read_rows(
    model: PreTrainedModel, batch: Sequence[Query]
) -> tuple[torch.Tensor, torch.Tensor, int]:
    texts = [query.prompt + query.answer[:-1] for query in batch]
    longest = max(map(len, texts))
    ids = [[*text, *[text[-1]] * (longest - len(text))] for text in texts]
    mask = [[1] * len(text) + [0] * (longest - len(text)) for text in texts]
    places = [
        (row, len(query.prompt) - 1 + token)
        for row, query in enumerate(batch)
        for token in range(len(query.answer))
    ]
    columns = sorted({column for _, column in places})
    logits = _logits(
        model,
        columns,
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
    )
    rows = torch.tensor([row for row, _ in places], device=logits.device)
    kept = torch.tensor([columns.index(column) for _, column in places], device=logits.device)
    targets = torch.tensor([token for query in batch for token in query.answer])
    return logits[rows, kept], targets, longest * len(batch)


def _logits(model: PreTrainedModel, positions: Sequence[int], **inputs: Any) -> torch.Tensor:
    """(batch, positions, vocabulary): only these positions, whose product is dear, are computed."""
    keep = torch.tensor(positions, device=model.device)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        output = model(**inputs, logits_to_keep=keep, use_cache=False)
        return torch.as_tensor(output.logits)
    return torch.as_tensor(model(**inputs, use_cache=False).logits)[:, keep]
