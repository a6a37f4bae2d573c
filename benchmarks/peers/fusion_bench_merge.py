"""FusionBench 0.2.33, run by its own environment's Python: OUT BASE TUNED...

All models are in memory, and it computes in their dtype, as its task arithmetic does.
"""

import sys

import torch
from fusion_bench.method import TaskArithmeticAlgorithm
from transformers import AutoModelForCausalLM

SCALE = 0.3


def load(folder: str) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


def main() -> None:
    out, base, *tuned = sys.argv[1:]
    models = {f"tuned{number}": load(folder) for number, folder in enumerate(tuned)}
    algorithm = TaskArithmeticAlgorithm(scaling_factor=-SCALE)
    merged = algorithm.run({"_pretrained_": load(base)} | models)
    merged.save_pretrained(out, max_shard_size="1GB")


if __name__ == "__main__":
    main()
