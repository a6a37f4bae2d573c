"""The merge methods: each is one function from a tensor's inputs to their coefficients.

To add one, write it in a file of its own, with what it takes of a recipe, and enter it here.
"""

from __future__ import annotations

from tvmerge.methods.arcee_fusion import ARCEE_FUSION
from tvmerge.methods.breadcrumbs import BREADCRUMBS, BREADCRUMBS_TIES
from tvmerge.methods.consensus_ta import CONSENSUS_TA
from tvmerge.methods.dare import DARE_LINEAR, DARE_TIES
from tvmerge.methods.declaring import NO_EFFECT as NO_EFFECT
from tvmerge.methods.declaring import Method as Method
from tvmerge.methods.declaring import Parameter as Parameter
from tvmerge.methods.della import DELLA, DELLA_LINEAR
from tvmerge.methods.emr import EMR
from tvmerge.methods.ethos import ETHOS
from tvmerge.methods.fisher import FISHER
from tvmerge.methods.iso import ISO_C, ISO_CTS
from tvmerge.methods.karcher import KARCHER
from tvmerge.methods.linear import LINEAR
from tvmerge.methods.lines import LINES
from tvmerge.methods.model_stock import MODEL_STOCK
from tvmerge.methods.multislerp import MULTISLERP
from tvmerge.methods.nearswap import NEARSWAP
from tvmerge.methods.negmerge import NEGMERGE
from tvmerge.methods.nuslerp import NUSLERP
from tvmerge.methods.passthrough import PASSTHROUGH
from tvmerge.methods.pcb import PCB
from tvmerge.methods.ram import RAM
from tvmerge.methods.ramplus_tl import RAMPLUS_TL
from tvmerge.methods.regmean import REGMEAN
from tvmerge.methods.sce import SCE
from tvmerge.methods.slerp import SLERP
from tvmerge.methods.task_arithmetic import TASK_ARITHMETIC
from tvmerge.methods.ties import TIES
from tvmerge.methods.tsv import TSV
from tvmerge.methods.wudi import WUDI

METHODS = {
    method.name: method
    for method in (
        LINEAR, TASK_ARITHMETIC, PASSTHROUGH, TIES, DARE_LINEAR, DARE_TIES, BREADCRUMBS,
        BREADCRUMBS_TIES, SCE, RAM, SLERP, NUSLERP, MULTISLERP, KARCHER, MODEL_STOCK,
        NEARSWAP, RAMPLUS_TL, DELLA, DELLA_LINEAR, ARCEE_FUSION, NEGMERGE, LINES, TSV,
        ISO_C, ISO_CTS, WUDI, CONSENSUS_TA, PCB, FISHER, REGMEAN,
        EMR, ETHOS,
    )
}  # fmt: skip
