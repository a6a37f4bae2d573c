"""Recipes that mergekit 0.1.5 and tvmerge must give the same meaning; models base, a and b.

Those of each merge method are in method_recipes.py.
"""

from conformance.method_recipes import METHOD_RECIPES
from conformance.method_recipes import SLICES as MASKED_SLICES

GRADIENT = """
merge_method: linear
models:
  - {model: a, parameters: {weight: [0, 0.5, 1]}}
  - {model: b, parameters: {weight: 0.25}}
dtype: float32
"""
FILTERS = """
merge_method: task_arithmetic
base_model: base
models:
  - model: a
    parameters:
      weight:
        - {filter: FIRST, value: [1, 0, 0.5]}
        - {filter: SECOND, value: -0.5}
        - value: 0.25
  - model: b
    parameters:
      weight: {filter_b}
parameters:
  lambda:
    - {filter: SECOND, value: 0.5}
    - value: 1
dtype: float32
"""
STACKED = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [1, 4]}]
dtype: float32
"""
SCALED = """
merge_method: passthrough
slices:
  - sources:
      - model: a
        layer_range: [0, 2]
  - sources:
      - model: a
        layer_range: [1, 3]
        parameters:
          scale:
            - {filter: SECOND, value: 0.5}
            - {filter: FIRST, value: [0, 2]}
            - value: 1
  - sources:
      - model: a
        layer_range: [2, 4]
dtype: float32
"""
SLICES = """
merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: [0.25, 0.75]}}
      - {model: b, layer_range: [2, 4], parameters: {weight: 0.5}}
  - sources:
      - {model: b, layer_range: [0, 1]}
      - {model: base, layer_range: [3, 4], parameters: {weight: 2}}
    parameters: {weight: [0.5, 1.5]}
  - sources:
      - {model: b, layer_range: [1, 4]}
parameters:
  weight: 1
dtype: float32
"""
BASED_SLICES = """
merge_method: task_arithmetic
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: a, layer_range: [0, 2], parameters: {weight: 0.5}}
      - {model: b, layer_range: [2, 4], parameters: {weight: -0.25}}
  - sources:
      - {model: base, layer_range: [1, 4]}
      - {model: a, layer_range: [1, 4], parameters: {weight: [0, 1]}}
      - {model: b, layer_range: [1, 4], parameters: {weight: 0.25}}
    parameters: {lambda: [1, 0.5], normalize: true}
dtype: float32
"""
STAGES = """
name: first
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: [1, 0.25]}}
dtype: float32
---
name: second
merge_method: passthrough
slices:
  - sources: [{model: first, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [2, 4]}]
dtype: float32
---
merge_method: linear
models:
  - {model: second, parameters: {weight: [0.5, 1]}}
parameters: {normalize: false}
dtype: float32
"""
IN_PARTS = """
merge_method: task_arithmetic
base_model: {model: {path: base}}
models:
  - {model: {model: {path: base}}}
  - {model: {model: a}, parameters: {weight: 0.5}}
  - {model: {model: {path: b, revision: null}, lora: null}, parameters: {weight: -0.25}}
dtype: float32
"""
RECIPES = {
    "a gradient": GRADIENT,
    "filters": FILTERS.replace("{filter_b}", "0.5"),
    "models named in parts": IN_PARTS,
    "stacked layers": STACKED,
    "scaled layers": SCALED,
    "slices of several models": SLICES,
    "slices on a base": BASED_SLICES,
    "slices of masked deltas": MASKED_SLICES,
}
# Parts of tensor names to filter by: of the first kind's layers, and of the second's.
FILTERED = {
    "llama": ("self_attn", "mlp"),
    "llama, tied": ("self_attn", "mlp"),
    "qwen2": ("self_attn", "mlp"),
    "mixtral": ("self_attn", "experts"),
    "gpt2": ("attn", "mlp"),
    "mistral": ("self_attn", "mlp"),
    "mistral3": ("vision_tower", "mlp"),
}
# mergekit 0.1.5 cannot stack layers of a model whose config has layer_types, and takes slices of a
# model of several modules under its own names for these only.
_UNSTACKED = ("a gradient", "filters", "models named in parts")
_SOME = (
    *(name for name in METHOD_RECIPES if name.partition(",")[0] == "ties"),
    "slerp",
    "slerp by filter",
    "slerp from end to end",
)
_OF = {
    "qwen2": (*_UNSTACKED, *METHOD_RECIPES),
    "mistral": (*RECIPES, *_SOME),
    "mistral3": (*_UNSTACKED, *_SOME),
}
CASES = [
    (architecture, name)
    for architecture in FILTERED
    for name in _OF.get(architecture, (*RECIPES, *METHOD_RECIPES))
]
