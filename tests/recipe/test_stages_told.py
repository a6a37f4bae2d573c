"""What plans, receipts and errors say of the stages of a recipe."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from recipe.staged import (
    CHAINS,
    MODELS,
    NORM,
    SLERP,
    TALL,
    TIES,
    assert_same,
    recipe_of,
    run,
    save,
    text_of,
)
from safetensors.numpy import save_file
from support.adapters import PREFIX, write_adapter
from support.checkpoints import read_model

from tvmerge.checkpoints.stored import KIND_KEY, TASK_VECTOR
from tvmerge.cli import cli
from tvmerge.errors import (
    ConfigError,
    FormatError,
    MismatchError,
    NothingChangedError,
    StorageError,
    TVMergeError,
)
from tvmerge.files.kept import place
from tvmerge.receipts import making
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.verify import verify
from tvmerge.recipe import build
from tvmerge.replay import replay

pytestmark = pytest.mark.usefixtures("cache")


def test_receipts_name_what_stages_are_made_of_and_are_replayed(
    cache: Path, written: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe_of(text_of(CHAINS["in another dtype"]))
    run("merge", "recipe.yaml", "out")
    receipt = read_receipt(Path("out"))
    assert {one.given: one.coefficient for one in receipt.inputs} == dict.fromkeys(MODELS)
    assert all(len(one.files) == 2 for one in receipt.inputs)
    assert "cache" not in json.dumps(receipt.to_dict()["inputs"])
    assert "cache" not in Path("out/README.md").read_text()
    assert verify(Path("out"), inputs=True).intact
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert not replay(receipt)
    assert written == ["first", "first"]
    assert not any(cache.iterdir())
    file = next((tmp_path / "b").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (fault,) = replay(receipt)
    assert fault.file == f"input {file}"


def test_what_a_stage_has_read_is_not_read_again_for_the_receipt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(making, "data_states", None)  # which reads whole files
    save(text_of(CHAINS["dare, linear, model stock"]))
    assert len(read_receipt(Path("out")).inputs) == len(MODELS)


def test_a_sweep_writes_its_stages_once(written: list[str]) -> None:
    chain = CHAINS["in another dtype"]
    recipe_of(text_of(chain))
    run("sweep", "recipe.yaml", "out", "--scale", "0,0.5,1.5")
    assert written == ["first"]
    assert not replay(read_receipt(Path("out/scale-0.5")))
    save(chain[0][1], "first")
    recipe_of(chain[1][1])
    run("sweep", "recipe.yaml", "by-hand", "--scale", "0,0.5,1.5")
    for scale in ("0", "0.5", "1.5"):
        assert_same(Path(f"out/scale-{scale}"), Path(f"by-hand/scale-{scale}"))


def test_a_plan_says_what_stages_take_and_writes_none(cache: Path) -> None:
    recipe_of(text_of(CHAINS["dare, linear, model stock"]))
    before = sorted(Path().rglob("*"))
    found = run("plan", "recipe.yaml", "out")
    assert sorted(Path().rglob("*")) == before
    first, mean = found["stages"]
    assert (first["name"], mean["name"]) == ("first", "mean")
    parameters = sum(tensor.size for tensor in read_model(Path("base")).values())
    assert first["dtypes"] == {"F32": 10}
    assert mean["dtypes"] == {"BF16": 10}
    # Of three models, of two, of four; dare and model stock measure first.
    assert first["bytes_read"] == 2 * (4 + 4 + 4) * parameters
    assert mean["bytes_read"] == (4 + 4) * parameters
    assert found["bytes_read"] == 2 * (4 + 4 + 2 + 4) * parameters
    assert found["stages_disk_needed_bytes"] == first["bytes_written"] + mean["bytes_written"]
    assert found["estimate"] is None
    said = CliRunner().invoke(cli, ["plan", "recipe.yaml", "out"]).output
    assert "first the stage mean: reads" in said
    report = run("merge", "recipe.yaml", "out")
    read = sum(one["bytes_read"] for one in (first, mean, found))
    assert report["bytes_moved"] == read + (4 + 2 + 4) * parameters
    assert not any(cache.iterdir())


def test_a_plan_is_refused_as_the_merge() -> None:
    recipe_of(text_of(CHAINS["ties into slerp"]))
    for command in ("plan", "merge"):
        for more, code in ((["base/inside"], 5), (["b"], 5), (["out", "--memory", "1"], 8)):
            done = CliRunner().invoke(cli, [command, "recipe.yaml", *more])
            assert done.exit_code == code, done.output
    assert not place().exists() or not any(place().iterdir())


def test_an_input_that_changes_before_its_stage_is_written_is_named(cache: Path) -> None:
    model = build(recipe_of(text_of(CHAINS["ties into slerp"])))
    file = next(Path("b").glob("*.safetensors")).resolve()
    os.utime(file, ns=(1, 1))
    with pytest.raises(StorageError, match=f"{file}: was changed while it was in use"):
        model.save("out")
    del model
    assert not any(cache.iterdir())
    assert not Path(".out.unfinished").exists()


def test_a_stage_that_is_its_base_again_is_named() -> None:
    nothing = TIES.replace("weight: 1,", "weight: 1.0e-20,") + "parameters: {normalize: false}\n"
    nothing = nothing.replace("weight: 0.5,", "weight: 1.0e-20,")
    with pytest.raises(NothingChangedError, match=r"^stage first: the result is .*base again"):
        save(text_of([("first", nothing), ("", SLERP)]))


ALONE = SLERP.replace("first", "base")
FAULTS = {
    "a circle": (
        [("first", SLERP.replace("first", "second")), ("second", SLERP), ("", SLERP)],
        "recipe.yaml:3: base_model: a circle: the stage second is itself made of first",
    ),
    "a stage that comes later": (
        [("first", SLERP.replace("first", "second")), ("second", ALONE), ("", SLERP)],
        "recipe.yaml:3: base_model: the stage second comes later, and stages use earlier ones. "
        "Move it before this",
    ),
    "a stage of itself": (
        [("first", SLERP), ("", SLERP)],
        "recipe.yaml:3: base_model: the stage first uses itself",
    ),
    "an adapter on a stage that comes later": (
        [("first", SLERP.replace("first", "second+lora")), ("second", ALONE), ("", SLERP)],
        "recipe.yaml:3: base_model: the stage second comes later, and stages use earlier ones.",
    ),
    "an adapter on a stage of itself": (
        [("first", SLERP.replace("first", "first+lora")), ("", SLERP)],
        "recipe.yaml:3: base_model: the stage first uses itself",
    ),
    "a name that is a folder": (
        [("a", ALONE.replace("model: a", "model: b")), ("", ALONE)],
        "recipe.yaml:1: name: a is a file or folder here as well",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_stages_that_cannot_be_meant_are_refused(fault: str) -> None:
    chain, message = FAULTS[fault]
    with pytest.raises(ConfigError) as caught:
        recipe_of(text_of(chain))
    assert message in str(caught.value)


def test_what_may_be_a_folder_or_an_adapter_on_a_stage_is_refused() -> None:
    Path("first+lora").mkdir()
    with pytest.raises(ConfigError, match=r"recipe.yaml:9: models.0: first\+lora is a file or"):
        recipe_of(text_of([("first", ALONE), ("", ALONE.replace("model: a", "model: first+lora"))]))


@pytest.mark.parametrize(
    ("first", "saved", "error", "message"),
    [
        (ALONE, True, ConfigError, "the adapter saved 1 tensors whole (model.layers.0.mlp.weight)"),
        (TALL.replace("ONE", "1"), False, MismatchError, "first has not the tensors and shapes of"),
    ],
)
def test_an_adapter_that_cannot_be_put_on_a_stage_is_told_with_its_place(
    first: str, saved: bool, error: type[Exception], message: str
) -> None:
    whole = {f"{PREFIX}.weight": np.zeros((8, 8), np.float32)}
    write_adapter(Path("lora"), whole if saved else None)
    later = ALONE.replace("model: a", "model: first+lora")
    recipe = recipe_of(text_of([("first", first), ("", later)]))
    line = first.count("\n") + 5
    with pytest.raises(error, match=rf"recipe.yaml:{line}: models.0: .*{re.escape(message)}"):
        build(recipe)


@pytest.mark.parametrize("onto", ["b", "first"])
@pytest.mark.parametrize(
    ("behind", "message"),
    [
        ("b", "b: is a checkpoint, expected an adapter or a stored task vector behind the +"),
        ("nowhere", "nowhere: no such file or folder"),
        ("v+v", "expected one adapter or vector behind a model, found v+v"),
        ("short", "model.norm.weight: shape [4] in "),
    ],
)
def test_what_is_no_vector_is_told_with_its_place(onto: str, behind: str, message: str) -> None:
    norm = {NORM: np.ones(4, np.float32)}
    Path("short").mkdir()
    save_file(norm, "short/model.safetensors", metadata={KIND_KEY: TASK_VECTOR})
    text = ALONE.replace("model: a", f"model: {onto}+{behind}")
    chain = [("first", ALONE), ("", text)] if onto == "first" else [("", text)]
    recipe = recipe_of(text_of(chain))
    line = 9 if onto == "first" else 3
    with pytest.raises(TVMergeError, match=rf"recipe.yaml:{line}: models.0: ") as caught:
        build(recipe)
    assert message in str(caught.value)
    assert "Did you mean" not in str(caught.value)


def test_a_model_that_is_not_there_is_told_also_before_a_vector() -> None:
    Path("v").mkdir()
    save_file(
        {NORM: np.ones(8, np.float32)}, "v/model.safetensors", metadata={KIND_KEY: TASK_VECTOR}
    )
    recipe = recipe_of(text_of([("", ALONE.replace("model: a", "model: nowhere+v"))]))
    with pytest.raises(FormatError, match=r"recipe.yaml:3: models.0: nowhere: no such file"):
        build(recipe)


def test_a_misspelt_stage_is_suggested() -> None:
    recipe = recipe_of(text_of([("first", TIES), ("", SLERP.replace("model: a", "model: firstt"))]))
    with pytest.raises(FormatError, match=r"firstt: no such file or folder.* Did you mean 'first'"):
        build(recipe)
