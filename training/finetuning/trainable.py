"""What of a model is trained: all of it, all but its embeddings, or the adapters put into it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from tvmerge.training.settings.sections import Trainable, TrainConfig


def make_trainable(model: PreTrainedModel, train: TrainConfig) -> PeftModel | None:
    """Mark what is trained; for LoRA, put new adapters into the model and return its adapted form.

    The adapters are put into the model's own layers: called itself, it keeps its signature.
    """
    if train.method == "full":
        mark_trainable(model, train.trainable)
        return None
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=train.lora_rank,
        lora_alpha=train.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks the model by a name that transformers calls deprecated: not the user's concern.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        adapted: PeftModel = get_peft_model(model, settings)
    return adapted


def mark_trainable(model: Any, which: Trainable) -> None:
    """With `no_embeddings`, the embedding matrices of the model stay as they are."""
    if which == "no_embeddings":
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                layer.requires_grad_(False)
