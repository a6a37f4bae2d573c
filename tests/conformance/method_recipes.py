"""Recipes of every merge method that mergekit 0.1.5 and tvmerge must give the same meaning.

Models are base, a, b and c, far from each other; near_a, near_b and near_c, which are the base but
for some elements; tiny_a and tiny_b, nearer still; part, which is the base but for some tensors;
and hollow, in which these are 0. What METHOD_RECIPES has of methods that draw at random keeps all.
"""

from __future__ import annotations

from collections.abc import Mapping

FILTERED_GRADIENT = "[{filter: FIRST, value: [0.2, 1]}, {filter: SECOND, value: 0.5}, {value: 0.7}]"
FAR, NEAR = ("a", "b", "c"), ("near_a", "near_b", "near_c")
WEIGHTS = (0.7, 0.25, 0.4)


def recipe(
    method: str,
    models: Mapping[str, str],
    parameters: str = "",
    *,
    base: str | None = "base",
    dtype: str = "float32",
) -> str:
    """The YAML; `models` and `parameters` hold what stands between the braces."""
    lines = [f"merge_method: {method}", f"dtype: {dtype}"]
    if base is not None:
        lines.append(f"base_model: {base}")
    lines.append("models:")
    lines += [f"  - {{model: {name}, parameters: {{{own}}}}}" for name, own in models.items()]
    return "\n".join([*lines, f"parameters: {{{parameters}}}", ""])


def weighted(names: tuple[str, ...], more: str = "") -> dict[str, str]:
    """Each model with a weight of its own, and what they have in common."""
    tail = f", {more}" if more else ""
    return {n: f"weight: {w}{tail}" for n, w in zip(names, WEIGHTS, strict=False)}


def plain(names: tuple[str, ...]) -> dict[str, str]:
    """Models without parameters of their own."""
    return dict.fromkeys(names, "")


_TRIMMED = ("ties", "breadcrumbs", "breadcrumbs_ties")  # by magnitude, none at random
_TWO_DENSITIES = {"a": "weight: 0.7, density: 0.3", "b": "weight: 0.4, density: 0.6"}
_OPPOSED = {"a": "weight: 0.7, density: 0.5", "b": "weight: -0.4, density: 0.5"}
_GRADIENTS = {
    "a": f"weight: {FILTERED_GRADIENT}, density: [0.2, 1]",
    "b": f"weight: [1, 0.5], density: {FILTERED_GRADIENT}",
}

_MASKED = {
    f"{method}, {what}": recipe(method, models, parameters)
    for method in (*_TRIMMED, "dare_linear", "dare_ties", "della", "della_linear")
    for what, models, parameters in (
        ("by default", weighted(FAR), ""),
        ("int8_mask", weighted(FAR), "int8_mask: true"),
        ("divided", weighted(FAR), "normalize: true"),
        ("lambda", weighted(FAR), "normalize: false, lambda: 0.6"),
        ("lambda by filter", weighted(NEAR), f"lambda: {FILTERED_GRADIENT}"),
    )
}
_MASKED |= {
    f"{method}, {what}": recipe(method, models, parameters)
    for method in _TRIMMED
    for what, models, parameters in (
        ("densities", _TWO_DENSITIES, ""),
        ("densities, divided", _TWO_DENSITIES, "normalize: true"),
        ("densities of near models", weighted(NEAR, "density: 0.15"), "normalize: true"),
        ("rescaled", _TWO_DENSITIES, "rescale: true"),
        ("rescaled, whole", weighted(FAR), "rescale: true"),
        ("subtracting", _OPPOSED, "normalize: false"),
        ("a small density", weighted(FAR, "density: 0.01"), "rescale: true"),
        ("a tiny density", {"a": "weight: 1, density: 0.0001", "b": "weight: 0.3"}, ""),
        ("deltas of 0", {"part": "weight: 1, density: 0.3", **_TWO_DENSITIES}, "rescale: true"),
        ("a density of 0", {"a": "weight: 1, density: 0", "b": "weight: 0.5"}, ""),
        ("gradients", _GRADIENTS, ""),
        ("one model", {"near_a": "weight: 0.8, density: 0.5"}, ""),
    )
}
_MASKED |= {
    f"{method}, {what}": recipe(method, weighted(FAR, own), parameters)
    for method in ("breadcrumbs", "breadcrumbs_ties")
    for what, own, parameters in (
        ("gamma", "density: 0.5, gamma: 0.1", "rescale: true"),
        ("no gamma", "density: 0.5, gamma: 0", ""),
        ("a gamma that leaves too few", "density: 0.8, gamma: 0.5", ""),
        ("a gamma by filter", f"density: 0.3, gamma: {FILTERED_GRADIENT}", ""),
    )
}
_SELECTED = {
    "sce": recipe("sce", plain(FAR)),
    "sce, int8_mask": recipe("sce", plain(FAR), "int8_mask: true"),
    "sce, a share": recipe("sce", plain(FAR), "select_topk: 0.3"),
    "sce, a share of near models": recipe("sce", plain(NEAR), "select_topk: 0.3"),
    "sce, none": recipe("sce", plain(FAR), "select_topk: [0, 0.5]"),
    "sce, by filter": recipe("sce", plain(("a", "near_b")), f"select_topk: {FILTERED_GRADIENT}"),
    "sce, one model": recipe("sce", plain(("a",))),
    "sce, deltas of 0": recipe("sce", plain(("a", "part")), "select_topk: 0.4"),
    "ram, deltas of 0": recipe("ram", plain(("a", "part"))),
    "ram": recipe("ram", plain(FAR)),
    "ram of near models": recipe("ram", plain(NEAR)),
    "ram, epsilon": recipe("ram", plain(FAR), "epsilon: 0.05"),
    "ram, epsilon by filter": recipe(
        "ram", plain(NEAR), "epsilon: [{filter: FIRST, value: 0}, {value: 0.002}]"
    ),
    "ramplus_tl": recipe("ramplus_tl", plain(NEAR)),
    "ramplus_tl of far models": recipe("ramplus_tl", plain(FAR), "epsilon: 0.05"),
    "ramplus_tl of one model": recipe("ramplus_tl", plain(("near_a",))),
    "ramplus_tl, deltas of 0": recipe("ramplus_tl", plain(("near_a", "part", "near_b"))),
    "ramplus_tl, r and alpha": recipe("ramplus_tl", plain(NEAR), "r: 0.8, alpha: 5"),
    "ramplus_tl, a negative r": recipe("ramplus_tl", plain(NEAR), "r: -0.5, alpha: 0.7"),
    "ramplus_tl by filter": recipe(
        "ramplus_tl", plain(NEAR), f"r: [0, 2], alpha: {FILTERED_GRADIENT}, epsilon: 0.01"
    ),
    "nearswap": recipe("nearswap", plain(("base", "a")), "t: 0.05"),
    "nearswap, base not listed": recipe("nearswap", plain(("a",)), "t: 0.05"),
    "nearswap of near models": recipe("nearswap", plain(("near_a",)), "t: 0.01"),
    "nearswap, a wide t": recipe("nearswap", plain(("a",)), "t: 10"),
    "nearswap, a tiny t": recipe("nearswap", plain(("near_a",)), "t: 4.0e-7"),
    "nearswap by filter": recipe("nearswap", plain(("a",)), f"t: {FILTERED_GRADIENT}"),
    "nearswap, deltas of 0": recipe("nearswap", plain(("part",)), "t: [0, 0.02]"),
    "arcee_fusion": recipe("arcee_fusion", plain(("base", "a"))),
    "arcee_fusion, base not listed": recipe("arcee_fusion", plain(("b",))),
    # In float32 the rows of a near model went as far as rounding says.
    "arcee_fusion of a near model": recipe("arcee_fusion", plain(("near_c",)), dtype="float64"),
    "arcee_fusion of a tiny delta": recipe("arcee_fusion", plain(("tiny_a",)), dtype="float64"),
    "arcee_fusion, deltas of 0": recipe("arcee_fusion", plain(("part",)), dtype="float64"),
    "arcee_fusion, a base of 0": recipe("arcee_fusion", plain(("a",)), base="hollow"),
}
_BLENDED = {
    "slerp": recipe("slerp", plain(("base", "a")), "t: 0.3"),
    "slerp, base not listed": recipe("slerp", plain(("a",)), "t: 0.3"),
    "slerp, base last": recipe("slerp", plain(("a", "base")), "t: 0.3"),
    "slerp of near models": recipe("slerp", plain(("base", "near_a")), "t: 0.3"),
    "slerp by filter": recipe("slerp", plain(("base", "a")), f"t: {FILTERED_GRADIENT}"),
    "slerp from end to end": recipe("slerp", plain(("base", "a")), "t: [0, 1]"),
    "nuslerp": recipe("nuslerp", weighted(("a", "b")), base=None),
    "nuslerp by layer": recipe("nuslerp", {"a": "weight: [1, 0]", "b": "weight: 0.5"}, base=None),
    "nuslerp on a base": recipe("nuslerp", weighted(("a", "b"))),
    "nuslerp of near models": recipe("nuslerp", weighted(("near_a", "near_b")), base=None),
    "nuslerp of near models on a base": recipe("nuslerp", weighted(("near_a", "near_b"))),
    "nuslerp, spelled out": recipe(
        "nuslerp", weighted(("a", "b")), "nuslerp_row_wise: false, nuslerp_flatten: true"
    ),
    # A column may have few elements, and then be nearly opposite: float32 loses such an angle.
    **{
        f"nuslerp of {lines}{what}": recipe(
            "nuslerp", weighted(models), f"nuslerp_flatten: false{more}", base=base, dtype=dtype
        )
        for lines, more, dtype in (
            ("rows", "", "float32"),
            ("columns", ", nuslerp_row_wise: true", "float64"),
        )
        for what, models, base in (
            ("", ("a", "b"), None),
            (" on a base", ("a", "b"), "base"),
            (" of near models", ("near_a", "near_b"), None),
        )
    },
    "nuslerp of some rows": recipe(
        "nuslerp",
        weighted(("a", "b")),
        "nuslerp_flatten: [{filter: FIRST, value: false}]",
        base=None,
    ),
    "multislerp": recipe("multislerp", weighted(FAR), base=None),
    "multislerp on a base": recipe("multislerp", weighted(FAR)),
    "multislerp of two": recipe("multislerp", weighted(("a", "b")), base=None),
    "multislerp of near models": recipe("multislerp", weighted(NEAR), base=None),
    "multislerp by layer": recipe(
        "multislerp", {"a": "weight: [1, 0.2]", "b": f"weight: {FILTERED_GRADIENT}"}
    ),
    "multislerp, weights as they are": recipe(
        "multislerp", weighted(FAR), "normalize_weights: false"
    ),
    "multislerp, eps": recipe("multislerp", weighted(("a", "near_b", "c")), "eps: 1.0e-3"),
    "multislerp, deltas of 0": recipe("multislerp", weighted(("a", "part"))),
    "karcher": recipe("karcher", plain(FAR), base=None),
    "karcher of two": recipe("karcher", plain(("a", "near_b")), base=None),
    # A step may be a hair from the default tol, and float32 then decides whether it is the last.
    "karcher with tensors of 0": recipe(
        "karcher", plain(("a", "hollow", "c")), "tol: 1.0e-6", base=None
    ),
    "karcher of near models": recipe("karcher", plain(NEAR), base=None),
    "karcher with a base": recipe("karcher", plain(("base", *FAR))),
    "karcher, one step": recipe("karcher", plain(FAR), "max_iter: 1", base=None),
    "karcher, many steps": recipe("karcher", plain(FAR), "max_iter: 50, tol: 1.0e-6", base=None),
    "karcher, a wide tol": recipe("karcher", plain(FAR), "tol: 0.05", base=None),
    "model_stock": recipe("model_stock", plain(FAR)),
    "model_stock of two": recipe("model_stock", plain(("a", "b"))),
    "model_stock of near models": recipe("model_stock", plain(NEAR)),
    "model_stock, deltas of 0": recipe("model_stock", plain(("a", "b", "part"))),
    "model_stock, spelled out": recipe("model_stock", plain(FAR), "filter_wise: false"),
    "model_stock of rows": recipe("model_stock", plain(FAR), "filter_wise: true"),
    "model_stock of rows of two": recipe("model_stock", plain(("a", "b")), "filter_wise: true"),
}
SLICES = """
merge_method: ties
base_model: base
dtype: float32
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: a, layer_range: [0, 2], parameters: {weight: 0.5, density: [0.2, 0.8]}}
      - {model: b, layer_range: [2, 4], parameters: {weight: 0.25}}
  - sources:
      - {model: base, layer_range: [1, 4]}
      - {model: b, layer_range: [0, 3]}
    parameters: {lambda: 0.5}
parameters: {weight: 1, density: 0.4}
"""
_NEGATIVE = {"a": "weight: -0.5", "b": "weight: -0.5"}
# What docs/recipes.md lists under "Different on purpose".
DIFFERENT = {
    "ties, all negative": recipe("ties", _NEGATIVE),
    "dare_linear, all negative": recipe("dare_linear", _NEGATIVE, "normalize: true"),
    "breadcrumbs_ties, all negative": recipe("breadcrumbs_ties", _NEGATIVE, "normalize: true"),
    "arcee_fusion of a near model in float32": recipe("arcee_fusion", plain(("near_c",))),
    "sce of tiny deltas": recipe("sce", plain(("tiny_a", "tiny_b"))),
    "sce, a share of one model": recipe("sce", plain(("a",)), "select_topk: 0.5"),
    "model_stock of tiny deltas": recipe("model_stock", plain(("tiny_a", "tiny_b"))),
    "model_stock of rows of tiny deltas": recipe(
        "model_stock", plain(("tiny_a", "tiny_b")), "filter_wise: true"
    ),
    "slerp with tensors of 0": recipe("slerp", plain(("a",)), "t: 0.5", base="hollow"),
    "nuslerp with deltas of 0": recipe("nuslerp", weighted(("a", "part"))),
    "nuslerp with rows of 0": recipe("nuslerp", weighted(("a", "part")), "nuslerp_flatten: false"),
}
# Of model a alone, at random.
RANDOM = {
    f"{method}, {what}": recipe(method, {"a": f"weight: 0.5, density: 0.4{more}"}, parameters)
    for methods, more in (
        (("dare_linear", "dare_ties"), ""),
        (("della", "della_linear"), ", epsilon: 0.3"),
    )
    for method in methods
    for what, parameters in (
        ("rescaled", "normalize: false"),
        ("not rescaled", "normalize: false, rescale: false"),
    )
}
METHOD_RECIPES = {**_MASKED, **_SELECTED, **_BLENDED}
