"""reminis 0.34.0, run by its own environment's Python: OUT BASE TUNED...

It merges databases: the models are converted, merged and exported, and all of that is its time.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

SCALE = 0.3


def main() -> None:
    command = str(Path(sys.executable).parent / "reminis")
    out, *inputs = map(Path, sys.argv[1:])
    out.mkdir()
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        stored = [str(Path(scratch) / f"{number}.db") for number in range(len(inputs))]
        for folder, database in zip(inputs, stored, strict=True):
            subprocess.run([command, "convert", folder, "-o", database, "-q"], check=True)
        merged = str(Path(scratch) / "merged.db")
        base, *tuned = stored
        terms = ["--base", base, "--method", "task-arithmetic", "-q"]
        terms += [f"--scale={-SCALE}", "--weights", ",".join("1" for _ in tuned)]
        subprocess.run([command, "merge", *tuned, *terms, "-o", merged], check=True)
        target = str(out / "model.safetensors")
        subprocess.run([command, "export", merged, "-o", target, "-q"], check=True)


if __name__ == "__main__":
    main()
