"""The merge methods: each is one function from a tensor's inputs to their coefficients.

To add one, write it in a file of its own, with what it takes of a recipe, and enter it here.
"""

from __future__ import annotations

from tvmerge.methods.declaring import Method as Method
from tvmerge.methods.declaring import Parameter as Parameter
from tvmerge.methods.linear import LINEAR
from tvmerge.methods.passthrough import PASSTHROUGH
from tvmerge.methods.task_arithmetic import TASK_ARITHMETIC

METHODS = {method.name: method for method in (LINEAR, TASK_ARITHMETIC, PASSTHROUGH)}

# Methods of mergekit 0.1.5 that have no function here yet.
NOT_YET = frozenset(
    {
        "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della",
        "della_linear", "karcher", "model_stock", "multislerp", "nearswap", "nuslerp", "ram",
        "ramplus_tl", "sce", "slerp", "ties",
    }
)  # fmt: skip
