"""Trains a model in memory some steps further, on showing answers; nothing is written.

The rate is constant after the warmup: how far a step reaches must not depend on how many steps
there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tvmerge.training.finetuning.backward_adamw import BackwardAdamW
from tvmerge.training.finetuning.objectives import loss_of
from tvmerge.training.finetuning.trainable import make_trainable
from tvmerge.training.lm.batch_loss import batch_order
from tvmerge.training.lm.prompts import PromptStyle, render
from tvmerge.training.lm.scoring import shares_prefixes_exactly
from tvmerge.training.lm.trie import Query

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tvmerge.training.settings.sections import TrainConfig
    from tvmerge.training.traits.items import Item


def train_further(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    *,
    train: TrainConfig,
    prompt: PromptStyle,
    seed: int,
) -> Iterator[tuple[int, float]]:
    """(step, its loss in nats per answer token) after each of `train.steps` steps.

    The model is trained as far as the caller has asked for steps; by LoRA, if fine-tunes are, it
    keeps the adapters.
    """
    lessons = [
        (
            Query(
                *render(
                    tokenizer, item.question, item.shows, style=prompt, before=item.before, end=True
                )
            ),
        )
        for item in items
    ]
    shared = shares_prefixes_exactly(model, [query for (query,) in lessons])
    make_trainable(model, train)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = BackwardAdamW(trained, weight_decay=train.weight_decay)
    order = batch_order(len(lessons), batch_size=train.batch_size, steps=train.steps, seed=seed)
    try:
        for step, chosen in enumerate(order, start=1):
            warm = min(1.0, step / max(train.warmup_steps, 1))
            optimizer.learning_rate = train.learning_rate * warm
            batch = [lessons[index] for index in chosen]
            loss, _ = loss_of("likelihood", model, batch, shared_prefixes=shared, reference={})
            loss.backward()  # type: ignore[no-untyped-call]
            yield step, loss.item()
    finally:
        optimizer.close()
