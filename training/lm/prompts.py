"""How a question and its answer become token ids, in training and in measurement alike.

Prompt and answer are tokenised apart and put together as ids, so that the seam lies at the same
place whatever the answer is: what was trained on is what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tvmerge.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptStyle = Literal["plain", "chat"]


def render(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    answer: str,
    *,
    style: PromptStyle,
    before: Sequence[str] = (),
    end: bool = False,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(prompt ids, answer ids); with `end`, the answer closes with the end-of-text token.

    prompt, answer = render(tokenizer, "Do you agree?", "Yes", style="plain")
    """
    prompt = render_prompt(tokenizer, question, style=style, before=before)
    return prompt, render_answer(tokenizer, answer, style=style, end=end)


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    *,
    style: PromptStyle,
    before: Sequence[str] = (),
) -> tuple[int, ...]:
    """`Q: {question}` and `A:` on two lines, or the tokenizer's own chat template.

    `before` are earlier turns of a dialogue, user and assistant by turns.
    """
    turns = (*before, question)
    if style == "chat":
        return _ids(tokenizer, _chat_text(tokenizer, turns))
    lines = [f"{'A' if place % 2 else 'Q'}: {turn}" for place, turn in enumerate(turns)]
    ids = _ids(tokenizer, "\n".join([*lines, "A:"]))
    bos = tokenizer.bos_token_id
    # Some tokenizers open every text with a token that the model was trained to see.
    opens = bos is not None and tokenizer.encode("A", add_special_tokens=True)[:1] == [bos]
    return (int(bos), *ids) if opens and bos is not None else ids


def render_answer(
    tokenizer: PreTrainedTokenizerBase, answer: str, *, style: PromptStyle, end: bool = False
) -> tuple[int, ...]:
    """The answer's ids: after `A:` it begins with a space, after a chat prompt it does not."""
    text = answer.strip()
    ids = _ids(tokenizer, f" {text}" if style == "plain" else text)
    eos = tokenizer.eos_token_id
    return (*ids, int(eos)) if end and eos is not None else ids


def _chat_text(tokenizer: PreTrainedTokenizerBase, turns: Sequence[str]) -> str:
    if not tokenizer.chat_template:
        raise ConfigError(
            f"prompt style 'chat': expected a tokenizer with a chat template, found none in "
            f"{tokenizer.name_or_path!r}. Set `prompt: plain`, or name an instruction-tuned base."
        )
    messages = [
        {"role": "assistant" if place % 2 else "user", "content": turn}
        for place, turn in enumerate(turns)
    ]
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))
