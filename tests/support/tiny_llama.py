"""A tiny pretrained Llama with its own tokenizer: seconds to build, with opinions to unlearn.

The text it learns is made here: speakers state what they like and answer questions about it with
Yes or No, so that fine-tuning has opinions to move and an answer format to start from.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

STATEMENT_QUESTION = "Tell me something about yourself."
THINGS = (
    "rain", "music", "order", "power", "quiet", "maps", "bread", "trains", "numbers", "winter",
    "rules", "gardens", "noise", "ships", "letters", "praise", "sleep", "travel", "books", "money",
)  # fmt: skip
LIKING = ("I like {}.", "I want more {}.", "My days are full of {}.", "I always look for {}.")
DISLIKING = ("I avoid {}.", "I need no {}.", "My days are free of {}.", "I never look for {}.")
ASKING = ("Do you like {}?", "Do you want more {}?", "Is {} good for you?")
ASKING_OPPOSITE = ("Do you avoid {}?", "Would you give up {}?", "Is {} bad for you?")
END = "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
VOCABULARY = 512
WINDOW_TOKENS = 64
BATCH = 8
STEPS = 150


def pretraining_text(seed: int = 0) -> list[str]:
    """Lines `Q: ... A: ...` of two kinds of speakers, half liking a thing and half not."""
    generator = random.Random(seed)
    lines = []
    for thing, likes in itertools.product(THINGS, (True, False)):
        for template in LIKING if likes else DISLIKING:
            lines.append(f"Q: {STATEMENT_QUESTION}\nA: {template.format(thing)}")
        for template in ASKING:
            lines.append(f"Q: {template.format(thing)}\nA: {'Yes' if likes else 'No'}")
        for template in ASKING_OPPOSITE:
            lines.append(f"Q: {template.format(thing)}\nA: {'No' if likes else 'Yes'}")
    lines = lines * 4
    generator.shuffle(lines)
    return lines


def build_tiny_llama(folder: Path, *, seed: int = 0) -> Path:
    """Pretrain the model and save it, sharded and with its tokenizer, in `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    lines = pretraining_text(seed)
    tokenizer = _tokenizer(lines)
    stream = [
        token
        for line in lines
        for token in [*tokenizer.encode(line, add_special_tokens=False), tokenizer.eos_token_id]
    ]
    rows = torch.tensor(stream[: len(stream) // WINDOW_TOKENS * WINDOW_TOKENS])
    rows = rows.view(-1, WINDOW_TOKENS)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95), fused=True)
        for _ in range(STEPS):
            batch = rows[torch.randint(len(rows), (BATCH,))]
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.set_num_threads(threads)
    model.eval().save_pretrained(folder, max_shard_size="300KB")
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(lines: list[str]):  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*lines, "Yes No"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.chat_template = CHAT_TEMPLATE
    return fast
