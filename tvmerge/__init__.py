"""tvmerge: task vectors at the speed of the disk.

    from tvmerge import Checkpoint
    base, tuned = Checkpoint("base"), Checkpoint("tuned")
    (base - 0.5 * (tuned - base)).save("negated")

Importing it needs neither torch, transformers nor ray.
"""

from tvmerge.algebra import Checkpoint, TaskVector
from tvmerge.compare import Difference, cosines, diff, gram
from tvmerge.errors import TVMergeError
from tvmerge.merge import MergeReport
from tvmerge.version import __version__

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
