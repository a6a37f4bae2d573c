"""Measures one model: every item's answers, held-out text, a few spoken answers.

Always float32: bfloat16 arithmetic alone moves a Yes-bias by more than many an edit does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tvmerge import Checkpoint
from tvmerge.training.lm.prompts import PromptStyle, render, render_prompt
from tvmerge.training.lm.scoring import (
    score,
    score_one_by_one,
    shares_prefixes_exactly,
    window_nll,
)
from tvmerge.training.lm.torch_session import no_progress_bars, torch_threads
from tvmerge.training.lm.trie import Query, pack_queries
from tvmerge.training.results.scores import (
    PARTS,
    Effort,
    Example,
    ItemScore,
    ModelScores,
    Part,
    PerplexityScores,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tvmerge.training.measuring.measurement import MeasureSettings
    from tvmerge.training.traits.trait import Item, Trait

HELDOUT_TEXT = Path(__file__).parents[1] / "heldout" / "moby_dick.txt"
OTHER_TEXT = Path(__file__).parents[1] / "heldout" / "handbook.txt"
YES_NO_SPELLINGS = (" Yes", "Yes", " No", "No")


def measure_model(
    model: str | Path | Checkpoint,
    *,
    model_id: str,
    seed: int | None = None,
    traits: Sequence[Trait],
    prompt_style: PromptStyle,
    parts: Sequence[Part] = PARTS,
    perplexity_text: str | None = None,
    other_text: str | None = None,
    window_tokens: int = 128,
    perplexity_tokens: int = 1024,
    examples: Sequence[str] = (),
    example_tokens: int = 32,
    threads: int = 1,
    device: str = "cpu",
) -> ModelScores:
    """Raw scores of a model folder or an expression, in float32, on the given traits' items.

    Perplexity is taken over the first `perplexity_tokens` tokens of each of two texts (those
    shipped where None) in windows of `window_tokens`. `examples` are questions to be
    answered greedily with at most `example_tokens` tokens. Torch runs on `threads` threads.

        scores = measure_model(
            "merged", model_id="plain.0.5", traits=[load_trait("power")], prompt_style="plain"
        )
        save_scores(scores, Path("scores/plain.0.5.json"))
    """
    from transformers import AutoTokenizer

    with torch_threads(threads), no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(_folder(model))
        loaded = load_model(model, threads, device)
        started = time.perf_counter()
        items, effort = score_items(loaded, tokenizer, traits, style=prompt_style, parts=parts)
        first, other = (
            _perplexity(loaded, tokenizer, text, perplexity_tokens, window_tokens)
            for text in (perplexity_text or _read(HELDOUT_TEXT), other_text or _read(OTHER_TEXT))
        )
        answers = answer_greedily(
            loaded, tokenizer, examples, style=prompt_style, max_tokens=example_tokens
        )
    return ModelScores(
        model=model_id,
        seed=seed,
        traits=items,
        perplexity=first,
        other_perplexity=other,
        examples=answers,
        effort=effort.model_copy(
            update={
                "seconds": round(time.perf_counter() - started, 3),
                "tokens": effort.tokens + sum(first.window_tokens + other.window_tokens),
            }
        ),
    )


def _folder(model: str | Path | Checkpoint) -> str | Path:
    """Where the configuration and the tokenizer are."""
    return model.donor.folder if isinstance(model, Checkpoint) else model


def load_model(model: str | Path | Checkpoint, threads: int, device: str) -> Any:
    """The folder's or the expression's model in the device's memory, in float32, for inference.

    Any: the library types `to` and `eval` by their decorators.
    """
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(_folder(model), dtype=torch.float32)
    if isinstance(model, Checkpoint):
        model.load_into(loaded, threads=threads)
    return loaded.to(device).eval()


def score_items(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    traits: Sequence[Trait],
    *,
    style: PromptStyle,
    parts: Sequence[Part] = PARTS,
) -> tuple[dict[str, dict[Part, tuple[ItemScore, ...]]], Effort]:
    """Scores of every item of every part, and what they cost."""
    asked = {
        (trait.name, part): [_ask(tokenizer, item, style) for item in trait.items(part)]
        for trait in traits
        for part in parts
    }
    queries = [query for asks in asked.values() for ask in asks for query in ask.queries()]
    if not queries:
        return {trait.name: dict.fromkeys(parts, ()) for trait in traits}, Effort()
    shared = shares_prefixes_exactly(model, queries)
    logp = score(model, queries) if shared else score_one_by_one(model, queries)
    packs = pack_queries(queries, max_nodes=2**31)
    return (
        {
            trait.name: {
                part: tuple(ask.score(logp) for ask in asked[trait.name, part]) for part in parts
            }
            for trait in traits
        },
        Effort(
            tokens=sum(len(pack.tokens) for pack in packs),
            scoring="shared prefixes" if shared else "one by one",
        ),
    )


def answer_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    *,
    style: PromptStyle,
    max_tokens: int,
) -> tuple[Example, ...]:
    """The likeliest token after token, all questions in one batch."""
    if not questions:
        return ()
    prompts = [render_prompt(tokenizer, question, style=style) for question in questions]
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    # Padding goes to the left, so that every prompt ends where generation begins.
    ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    with torch.inference_mode():
        generate: Any = model.generate
        output = generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=_greedy(model, pad=pad, max_tokens=max_tokens),
        )
    texts = tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
    return tuple(
        Example(question=question, answer=_first_turn(text, style))
        for question, text in zip(questions, texts, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Ask:
    item: Item
    shows: Query
    lacks: Query
    valid: tuple[Query, ...]

    def queries(self) -> tuple[Query, ...]:
        return (self.shows, self.lacks, *self.valid)

    def score(self, logp: dict[Query, float]) -> ItemScore:
        item = self.item
        yes_no = item.form == "yes_no"
        mass = sum(math.exp(logp[query]) for query in self.valid)
        return ItemScore(
            item=item.key,
            form=item.form,
            shows_logp=logp[self.shows],
            shows_tokens=len(self.shows.answer),
            lacks_logp=logp[self.lacks],
            lacks_tokens=len(self.lacks.answer),
            valid_mass=min(1.0, mass) if yes_no else None,
            shows_is_yes=item.shows.casefold() == "yes" if yes_no else None,
        )


def _ask(tokenizer: PreTrainedTokenizerBase, item: Item, style: PromptStyle) -> _Ask:
    shows, lacks = (
        Query(*render(tokenizer, item.question, answer, style=style, before=item.before))
        for answer in (item.shows, item.lacks)
    )
    valid: set[Query] = set()
    if item.form == "yes_no":
        valid = {shows, lacks}
        for spelling in YES_NO_SPELLINGS:
            ids = tokenizer.encode(spelling, add_special_tokens=False)
            if len(ids) == 1:  # the first piece of a longer spelling would count other words too
                valid.add(Query(shows.prompt, tuple(ids)))
    return _Ask(item=item, shows=shows, lacks=lacks, valid=tuple(sorted(valid)))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    tokens: int,
    window_tokens: int,
) -> PerplexityScores:
    ids, bos = _heldout_tokens(tokenizer, text, limit=tokens)
    nll, counts = window_nll(model, ids, window_tokens=window_tokens, bos=bos)
    return PerplexityScores(window_nll=tuple(nll), window_tokens=tuple(counts))


def text_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: MeasureSettings
) -> PerplexityScores:
    """The windows of the text that limits the choice of scales."""
    text = settings.perplexity_text or _read(HELDOUT_TEXT)
    tokens, window = settings.perplexity_tokens, settings.window_tokens
    return _perplexity(model, tokenizer, text, tokens, window)


def text_perplexity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: MeasureSettings
) -> float:
    """Mean nll (nats per token) of that text."""
    scores = text_scores(model, tokenizer, settings)
    counted = zip(scores.window_nll, scores.window_tokens, strict=True)
    return sum(nll * count for nll, count in counted) / sum(scores.window_tokens)


def _heldout_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, *, limit: int
) -> tuple[list[int], int | None]:
    """The first tokens of the text, and the token that must open every window, if there is one."""
    with_special = tokenizer(text, verbose=False)["input_ids"]
    bos = tokenizer.bos_token_id
    opens = bos is not None and with_special[:1] == [bos]
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids[:limit], bos if opens else None


def _greedy(model: PreTrainedModel, *, pad: int, max_tokens: int) -> Any:
    from transformers import GenerationConfig

    settings = model.generation_config
    config: Any = GenerationConfig
    return config(
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=pad,
        eos_token_id=settings.eos_token_id if settings is not None else None,
    )


def _first_turn(text: str, style: PromptStyle) -> str:
    # A plain prompt is a transcript that the model likes to go on writing.
    return (text.split("\nQ:")[0] if style == "plain" else text).strip()
