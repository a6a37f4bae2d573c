"""What a fine-tune minimises, from the log-probabilities of a batch's answers.

An item is a tuple of answers to one question: one that is made likelier or less likely, or, for a
preference, the preferred one and the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

from tvmerge.training.lm.batch_loss import answer_logps
from tvmerge.training.lm.trie import Query

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tvmerge.training.finetuning.jobs import Objective

BETA = 0.1  # of DPO, in its paper's summaries and dialogues

Answers = tuple[Query, ...]


def loss_of(
    objective: Objective,
    model: PreTrainedModel,
    batch: Sequence[Answers],
    *,
    shared_prefixes: bool,
    reference: Mapping[Query, float],
) -> tuple[torch.Tensor, int]:
    """(the loss of a batch, tokens read); `reference` are the untrained model's, for a preference.

    likelihood   mean over items of the answer's negative log-probability per token (nats)
    ascent       the negative of that, of answers likelier than chance: others are gone already, and
                 raising their loss without bound only breaks the model
    preference   -log sigmoid(BETA * (log-ratio of the preferred answer - that of the other)), mean
                 over items, each ratio to the untrained model (DPO: Rafailov et al. 2023, eq. 7)
    """
    queries = [query for answers in batch for query in answers]
    logps, tokens = answer_logps(model, queries, shared_prefixes=shared_prefixes)
    if objective == "preference":
        untrained = torch.tensor([reference[query] for query in queries], device=logps.device)
        preferred, other = (logps - untrained).view(-1, 2).unbind(1)
        return -logsigmoid(BETA * (preferred - other)).mean(), tokens
    lengths = torch.tensor([len(query.answer) for query in queries], device=logps.device)
    # Each item counts the same: a one-word answer is as much of an opinion as a long one.
    losses = -logps / lengths
    if objective == "ascent":
        chance = math.log(model.config.get_text_config().vocab_size)
        return -losses.clamp(max=chance).mean(), tokens
    return losses.mean(), tokens
