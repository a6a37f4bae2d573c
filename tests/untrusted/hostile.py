"""Opens input made to do harm, within limits that end the process where they are passed."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

GIB = 1 << 30
# What the largest of these inputs took before there were limits: 2.5 GB, or minutes.
MEMORY_BYTES = GIB
SECONDS = 60  # of processor time

# Opens each path under a limit on memory and processor time, which end the process if they must.
LIMITED = """
import resource, sys
from tvmerge.errors import TVMergeError
from tvmerge.checkpoints.stored import open_stored
from tvmerge.receipts.parsing import RECEIPT_NAME, read_receipt
from tvmerge.recipe import load_recipe
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]),) * 2)
for name in sys.argv[3:]:
    read = load_recipe if name.endswith(".yaml") else open_stored
    read = read_receipt if Path(name, RECEIPT_NAME).exists() else read
    try:
        read(Path(name))
        print("opened")
    except TVMergeError as error:
        print(ascii(str(error)))
"""


def opened_within_limits(*paths: Path) -> list[str]:
    """What became of each path: "opened", or the message, as ascii() writes it."""
    limits = [str(MEMORY_BYTES), str(SECONDS)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *limits, *map(str, paths)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def raw(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def one(fields: bytes, name: bytes = b"a") -> bytes:
    return b'{"' + name + b'":{' + fields + b"}}"
