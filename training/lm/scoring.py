"""Log-probabilities of answers and of running text under one causal language model.

`score` runs packs of queries that share their prefixes; `score_one_by_one` is the plain way to
the same numbers, and the judge of the first. They are run without gradients, but not in torch's
inference mode: sharded weights (FSDP) that were gathered in it could not be trained afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tvmerge.errors import ConfigError, FormatError
from tvmerge.training.lm.trie import Pack, Query, pack_queries

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Longer packs share more but pay attention that grows with the square of their length.
PACK_TOKENS = 384
WINDOW_BATCH_TOKENS = 512
# log_softmax over this many rows stays in cache; torch.logsumexp is ten times slower on CPU.
ROWS_AT_ONCE = 64
AGREEMENT_NATS_PER_TOKEN = 1e-3


def score(model: PreTrainedModel, queries: Iterable[Query]) -> dict[Query, float]:
    """Summed log-probability (nats) of every query's answer; prefixes are computed once."""
    totals: dict[Query, float] = {}
    for pack in pack_queries(queries, max_nodes=PACK_TOKENS):
        _score_pack(model, pack, totals)
    return totals


def score_one_by_one(model: PreTrainedModel, queries: Iterable[Query]) -> dict[Query, float]:
    """The same numbers as `score`, one plain forward pass a query."""
    totals = {}
    for query in sorted(set(queries)):
        read = torch.tensor([query.prompt + query.answer[:-1]], device=model.device)
        with torch.no_grad():
            logits = model(input_ids=read, use_cache=False).logits[0, len(query.prompt) - 1 :]
        totals[query] = float(_picked(logits, torch.tensor(query.answer)).sum())
    return totals


def shares_prefixes_exactly(model: PreTrainedModel, queries: Sequence[Query]) -> bool:
    """Whether this architecture obeys the tree's mask: a few queries, scored both ways.

    Models with recurrent states or biases by distance ignore masks or positions, and say nothing.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    ordered = sorted(set(queries))
    # The first is a plain sequence in any tree; the others branch off it.
    probe = [*ordered[:2], *sorted(ordered[2:], key=lambda query: len(query.answer))[-1:]]
    fast, plain = score(model, probe), score_one_by_one(model, probe)
    return all(
        abs(fast[query] - plain[query]) <= AGREEMENT_NATS_PER_TOKEN * len(query.answer)
        for query in probe
    )


def window_nll(
    model: PreTrainedModel, tokens: Sequence[int], *, window_tokens: int, bos: int | None = None
) -> tuple[list[float], list[int]]:
    """Mean nll (nats per token) and number of predicted tokens of each whole window.

    Windows are independent of each other, so that they can be resampled; with `bos`, every
    window begins with that token, which is not counted.
    """
    if window_tokens < 2 or len(tokens) < window_tokens:
        raise ConfigError(
            f"held-out text: expected at least one window of {window_tokens} (2 or more) tokens, "
            f"found {len(tokens)} tokens. Give a longer text or a shorter window."
        )
    windows = [
        list(tokens[start : start + window_tokens])
        for start in range(0, len(tokens) - window_tokens + 1, window_tokens)
    ]
    prefix = [] if bos is None else [bos]
    predicted = window_tokens - 1 + len(prefix)
    at_once = max(1, WINDOW_BATCH_TOKENS // window_tokens)
    losses: list[float] = []
    for start in range(0, len(windows), at_once):
        batch = torch.tensor([prefix + window for window in windows[start : start + at_once]])
        batch = batch.to(model.device)
        with torch.inference_mode():
            logits = model(input_ids=batch, use_cache=False).logits
            for row, ids in zip(logits, batch, strict=True):
                losses.append(-float(_picked(row[:-1], ids[1:]).mean()))
    if not np.isfinite(losses).all():
        raise FormatError(
            "held-out text: the model gives infinite or undefined losses; its weights are damaged."
        )
    return losses, [predicted] * len(losses)


def _score_pack(model: PreTrainedModel, pack: Pack, totals: dict[Query, float]) -> None:
    nodes = sorted({lookup.node for lookup in pack.lookups})
    row_of = {node: row for row, node in enumerate(nodes)}
    seen = torch.from_numpy(pack.ancestors())
    mask = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
    keep = torch.tensor(nodes, device=model.device)
    options: dict[str, Any] = {}
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    if keeps:
        options["logits_to_keep"] = keep
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([pack.tokens], device=model.device),
            position_ids=torch.tensor([pack.depths], device=model.device),
            attention_mask=mask[None, None].to(model.device),
            use_cache=False,
            **options,
        ).logits[0]
        if not keeps:
            logits = logits[keep]
        rows = torch.tensor([row_of[lookup.node] for lookup in pack.lookups])
        ids = torch.tensor([lookup.token for lookup in pack.lookups])
        picked = _picked(logits, ids, rows=rows)
    for lookup, value in zip(pack.lookups, picked.tolist(), strict=True):
        totals[lookup.query] = totals.get(lookup.query, 0.0) + value


def _picked(
    logits: torch.Tensor, ids: torch.Tensor, *, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """log-softmax(logits)[rows, ids] in float64; without `rows`, one id for each row in order."""
    if rows is None:
        rows = torch.arange(len(ids))
    rows, ids = rows.to(logits.device), ids.to(logits.device)
    picked = torch.empty(len(ids), dtype=torch.float64, device=logits.device)
    for start in range(0, len(logits), ROWS_AT_ONCE):
        block = logits[start : start + ROWS_AT_ONCE].float().log_softmax(-1)
        inside = (rows >= start) & (rows < start + len(block))
        picked[inside] = block[rows[inside] - start, ids[inside]].double()
    return picked.cpu()
