"""Merges on a card that fails, each in a process of its own: the shim counts calls from its start.

    PYTHONPATH=tests python -m cards.failing_cards FOLDER METHOD ENVIRONMENT ...

FOLDER gets the models of card_merges.py; every ENVIRONMENT is a JSON object of settings and
RunOptions' fields. For each, a line of JSON says what a merge there came to, and what the same
merge came to afterwards on a card that is well.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from cards.card_merges import models, text_of
from support.checkpoints import digests

from tvmerge.engine import run_options
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import DeviceError, MemoryLimitError
from tvmerge.merging.merge import save_checkpoint
from tvmerge.recipe import build, parse_recipe

SECONDS = 300


def attempt(folder: Path, method: str, out: Path, device: str, options: dict[str, Any]) -> str:
    """The digests of what was written, or the error."""
    model = build(parse_recipe(Path("recipe.yaml"), text_of(folder, method).encode()))
    # Little memory for units, little to poison, and several batches.
    run_options._BYTES_PER_THREAD_OF_CARDS = 12 * 1024 * 1024
    fields = {"batch_bytes": 1_000_000, "threads": 2, "device_memory_mib": 64, **options}
    fields["device"] = device
    try:
        save_checkpoint(model.weighting, model.donor, out, dtype=None, options=RunOptions(**fields))
    except (DeviceError, MemoryLimitError) as error:
        return f"{type(error).__name__}: {error}"
    return str({k: v for k, v in digests(out).items() if k.endswith(".safetensors")})


def in_child(*arguments: Any, settings: dict[str, str]) -> str:
    """What `attempt` says; a crash and a hang are outcomes too."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.environ.update(settings)
        try:
            text = attempt(*arguments)
        except BaseException as error:
            text = f"unexpected {error!r}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return text if status == 0 else f"ended with {status}"


def main(folder: Path, method: str, environments: list[str]) -> None:
    models(folder, ["BF16"], wild=False)
    expected = in_child(folder, method, folder / "cpu", "cpu", {}, settings={})
    for number, text in enumerate(environments):
        asked = json.loads(text)
        settings = {k: v for k, v in asked.items() if k.isupper()}
        options = {k: v for k, v in asked.items() if not k.isupper()}
        out = folder / f"out{number}"
        found = in_child(folder, method, out, "cuda", options, settings=settings)
        exists = out.exists()
        if exists:
            shutil.rmtree(out)
        then = in_child(folder, method, out, "cuda", {}, settings={})
        shutil.rmtree(out, ignore_errors=True)
        print(  # noqa: T201
            json.dumps(
                {
                    "found": "same" if found == expected else found,
                    "exists": exists,
                    "then": "same" if then == expected else then,
                    "left": sorted(path.name for path in folder.glob(f"*out{number}*")),
                }
            )
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
