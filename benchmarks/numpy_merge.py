"""The merge as one would write it in a few lines of numpy: one shard of every model in memory.

python -m benchmarks.numpy_merge OUT BASE TUNED...
"""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes  # noqa: F401 (makes bfloat16 known to numpy)
import numpy as np
from safetensors.numpy import load_file, save_file

SCALE = np.float32(0.3)


def main() -> None:
    out, base, *tuned = map(Path, sys.argv[1:])
    out.mkdir()
    for file in sorted(base.glob("*.safetensors")):
        weights = load_file(file)
        deltas = [load_file(folder / file.name) for folder in tuned]
        for name, tensor in weights.items():
            start = tensor.astype(np.float32)
            total = start.copy()
            for delta in deltas:
                total -= SCALE * (delta[name].astype(np.float32) - start)
            weights[name] = total.astype(tensor.dtype)
        save_file(weights, out / file.name, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
