"""tvmerge: task vectors at the speed of the disk.

    from tvmerge import Checkpoint
    base, tuned = Checkpoint("base"), Checkpoint("tuned")
    (base - 0.5 * (tuned - base)).save("negated")

Importing it needs neither torch, transformers nor ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from tvmerge.version import __version__

if TYPE_CHECKING:
    from tvmerge.algebra.compare import Difference, cosines, diff, gram
    from tvmerge.algebra.operands import Checkpoint, TaskVector
    from tvmerge.errors import TVMergeError
    from tvmerge.merging.report import MergeReport

__all__ = [
    "Checkpoint",
    "Difference",
    "MergeReport",
    "TVMergeError",
    "TaskVector",
    "__version__",
    "cosines",
    "diff",
    "gram",
]

# Imported when first asked for (PEP 562): `tvmerge --version` needs none of it.
_HOMES = {
    "Checkpoint": "algebra.operands",
    "Difference": "algebra.compare",
    "MergeReport": "merging.report",
    "TVMergeError": "errors",
    "TaskVector": "algebra.operands",
    "cosines": "algebra.compare",
    "diff": "algebra.compare",
    "gram": "algebra.compare",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
