"""Adapters and stored task vectors that recipes put on models and on stages."""

from __future__ import annotations

import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from recipe.staged import (
    CONFIG,
    LINEAR,
    MODELS,
    NORM,
    SLERP,
    TIES,
    recipe_of,
    save,
    save_with_receipt,
    text_of,
)
from safetensors.numpy import save_file
from support.adapters import write_adapter
from support.checkpoints import read_model, write_model

from tvmerge import Checkpoint, TaskVector
from tvmerge.checkpoints.stored import KIND_KEY, TASK_VECTOR
from tvmerge.receipts.parsing import read_receipt
from tvmerge.replay import replay

pytestmark = pytest.mark.usefixtures("cache")

PUT_ON = {
    "a sum on a sum": (LINEAR, LINEAR, []),
    "a sum on what is written": (TIES, LINEAR, ["first"]),
    "measured, on a sum": (LINEAR, SLERP, ["first+lora"]),
    "measured, on what is written": (TIES, SLERP, ["first", "first+lora"]),
}


@pytest.mark.parametrize("case", PUT_ON)
def test_an_adapter_is_put_on_a_stage(case: str, cache: Path, written: list[str]) -> None:
    first, later, stages = PUT_ON[case]
    write_adapter(Path("lora"))
    later = later.replace("base_model: first", "base_model: base").replace("model: a", "model: ONE")
    chain = [("first", first), ("", later.replace("ONE", "first+lora"))]
    save_with_receipt(recipe_of(text_of(chain)))
    assert written == stages
    assert not any(cache.iterdir()) if cache.exists() else not stages
    assert not replay(read_receipt(Path("out")))
    save(first, "by-hand-first")
    save(later.replace("ONE", "by-hand-first+lora"), "by-hand")
    save(later.replace("ONE", "by-hand-first"), "without")
    found, wanted, without = (read_model(Path(name)) for name in ("out", "by-hand", "without"))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert np.allclose(found[name], tensor, rtol=1e-6, atol=1e-6), name
        assert (name == "model.layers.0.mlp.weight") != np.array_equal(tensor, without[name])


VECTORS = """merge_method: METHOD
base_model: base
models:
  - {model: base+v, parameters: {weight: 1, density: 0.5}}
  - {model: base+w, parameters: {weight: -0.5, density: 0.4}}
"""


@pytest.mark.parametrize(
    ("method", "stages"),
    [("task_arithmetic", []), ("ties", ["base+v", "base+w"]), ("stage", ["first+v"])],
)
def test_stored_vectors_are_put_on_models(
    method: str, stages: list[str], cache: Path, written: list[str]
) -> None:
    for name, tuned in (("v", "a"), ("w", "b")):
        (Checkpoint(tuned) - Checkpoint("base")).save(name)
    text = VECTORS.replace("METHOD", method)
    if method == "task_arithmetic":
        text = text.replace(", density: 0.5", "").replace(", density: 0.4", "")
    if method == "stage":
        text = text_of([("first", LINEAR), ("", SLERP.replace("model: a", "model: first+v"))])
        text = text.replace("base_model: first", "base_model: base")
    save_with_receipt(recipe_of(text))
    assert written == stages
    assert not cache.exists() or not any(cache.iterdir())
    receipt = read_receipt(Path("out"))
    assert {"v"} <= {one.given for one in receipt.inputs} <= {"base", "v", "w", "a", "b"}
    assert not replay(receipt)
    by_name = text.replace("base+v", "a").replace("base+w", "b")
    if method == "stage":
        save(LINEAR, "linear")
        (Checkpoint("linear") + TaskVector("v")).save("first-and-v")
        by_name = SLERP.replace("base_model: first", "base_model: base")
        by_name = by_name.replace("model: a", "model: first-and-v")
    save(by_name, "by-hand")
    found, wanted = read_model(Path("out")), read_model(Path("by-hand"))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert np.allclose(found[name], tensor, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("vector", ["lora", "v"])
def test_a_base_with_something_on_it_may_be_all_there_is(vector: str) -> None:
    """As people bake an adapter in, with any method that has a base."""
    write_adapter(Path("lora"))
    (Checkpoint("a") - Checkpoint("base")).save("v")
    alone = f"models: [{{model: base+{vector}, parameters: {{weight: 1}}}}]\n"
    save_with_receipt(
        recipe_of(f"merge_method: task_arithmetic\nbase_model: base+{vector}\n{alone}")
    )
    assert not replay(read_receipt(Path("out")))
    save(f"merge_method: linear\n{alone}", "by-hand")
    found, wanted = read_model(Path("out")), read_model(Path("by-hand"))
    assert all(np.array_equal(found[name], tensor) for name, tensor in wanted.items())
    assert any(not np.array_equal(found[n], t) for n, t in read_model(Path("base")).items())


@pytest.mark.parametrize("base", ["base+lora", "base+v", "first+lora"])
def test_a_base_may_have_something_on_it(base: str) -> None:
    write_adapter(Path("lora"))
    (Checkpoint("a") - Checkpoint("base")).save("v")
    on = base.partition("+")[2]
    if base.startswith("first"):
        save(LINEAR, "stored")
    else:
        shutil.copytree("base", "stored")
    (Checkpoint("stored") + TaskVector(on)).save("with-it")
    text = TIES.replace("base_model: base", f"base_model: {base}")
    chain = [("first", LINEAR), ("", text)] if base.startswith("first") else [("", text)]
    save_with_receipt(recipe_of(text_of(chain)))
    assert not replay(read_receipt(Path("out")))
    save(text.replace(base, "with-it"), "by-hand")
    found, wanted = read_model(Path("out")), read_model(Path("by-hand"))
    for name, tensor in wanted.items():
        close = np.isclose(found[name], tensor, rtol=1e-5, atol=1e-5)
        assert close.mean() > 0.99, name  # of equal magnitudes at a cut others may be kept


def test_what_is_added_is_not_rounded_to_the_dtype_of_the_stage() -> None:
    shapes = {name: x.shape for name, x in read_model(Path("base")).items()}
    ones = {name: np.ones(shape, ml_dtypes.bfloat16) for name, shape in shapes.items()}
    for name in MODELS:
        shutil.rmtree(name)
        write_model(Path(name), ones, config=CONFIG)
    small = {name: np.full(shape, 1e-4, np.float32) for name, shape in shapes.items()}
    Path("v").mkdir()
    save_file(small, "v/model.safetensors", metadata={KIND_KEY: TASK_VECTOR})
    first = "merge_method: passthrough\nmodels: [{model: base}]\n"
    text = "merge_method: ties\nbase_model: base\nmodels:\n"
    text += "  - {model: first+v, parameters: {weight: 1, density: 1}}\ndtype: float32\n"
    save(text_of([("first", first), ("", text)]))
    for name, tensor in read_model(Path("out")).items():
        assert np.allclose(tensor, 1 + 1e-4, rtol=1e-6), name


def test_two_adapters_and_the_stage_itself_go_into_one_model(written: list[str]) -> None:
    names = ("first", "first+lora", "first+other")
    factors = np.eye(8, dtype=np.float32)[:3], np.full((8, 3), 0.25, np.float32)
    module = "base_model.model.model.layers.1.attn"
    other = {f"{module}.lora_{letter}.weight": x for letter, x in zip("AB", factors, strict=True)}
    write_adapter(Path("lora"))
    write_adapter(Path("other"), other)
    models = "".join(f"  - {{model: {name}, parameters: {{weight: 1}}}}\n" for name in names)
    save(text_of([("first", TIES), ("", f"merge_method: linear\nmodels:\n{models}")]))
    assert written == ["first"]
    save(TIES, "by-hand")
    found, first = read_model(Path("out")), read_model(Path("by-hand"))
    expected = first["model.layers.1.attn.weight"] + factors[1] @ factors[0] * 2 / 3
    assert np.allclose(found["model.layers.1.attn.weight"], expected, rtol=1e-6, atol=1e-6)
    assert np.allclose(found[NORM], first[NORM], rtol=1e-6)
