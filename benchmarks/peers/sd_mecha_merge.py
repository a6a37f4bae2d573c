"""sd-mecha 1.1.8, run by its own environment's Python: OUT BASE TUNED...

It takes single files, so the shards are merged one by one; one method of its kind instead of a
chain of subtractions is its fastest way.
"""

import sys
from pathlib import Path

import sd_mecha
import torch

SCALE = 0.3


@sd_mecha.merge_method
def subtract_all(
    base: sd_mecha.Parameter(torch.Tensor, "weight"),
    *tuned: sd_mecha.Parameter(torch.Tensor, "weight"),
    **kwargs,
) -> sd_mecha.Return(torch.Tensor, "weight"):
    total = base.clone()
    for one in tuned:
        total -= SCALE * (one - base)
    return total


def main() -> None:
    out, base, *tuned = map(Path, sys.argv[1:])
    out.mkdir()
    for file in sorted(base.glob("*.safetensors")):
        folders = (base, *tuned)
        models = [sd_mecha.model(folder / file.name, merge_space="weight") for folder in folders]
        sd_mecha.merge(
            subtract_all(*models),
            output=out / file.name,
            threads=2,
            merge_dtype=torch.float32,
            output_dtype=torch.bfloat16,
            check_finite_output=False,
        )


if __name__ == "__main__":
    main()
