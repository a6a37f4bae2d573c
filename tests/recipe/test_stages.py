"""Recipes of several documents whose stages are written first: the bytes of merges by hand."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from recipe import tiny_tokenizers
from recovery.fault_runs import KILLED, FaultyDisk, contents, faulty_disk, write_inputs
from support.adapters import write_adapter
from support.checkpoints import read_model, write_file, write_model
from support.fleet_cluster import WatchedFleet, local_cluster

from tvmerge.cli import cli
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError, FormatError, NothingChangedError, StorageError
from tvmerge.files.kept import place
from tvmerge.merging import stages
from tvmerge.merging.merge import save as merge
from tvmerge.merging.order import MODEL, Order, Variant
from tvmerge.receipts import making
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.receipt import RecipeText
from tvmerge.receipts.verify import verify
from tvmerge.recipe import Recipe, build, load_recipe
from tvmerge.replay import replay

MODELS = ("base", "a", "b")
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 4,
    "layer_types": ["full", "sliding", "full", "other"],
    "torch_dtype": "float32",
}

TIES = """merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: 1, density: 0.5}}
  - {model: b, parameters: {weight: 0.5, density: 0.4}}
"""
LINEAR = """merge_method: linear
models:
  - {model: a, parameters: {weight: [0.2, 0.8]}}
  - {model: b, parameters: {weight: 0.5}}
"""
DARE = TIES.replace("ties", "dare_ties")
SLERP = "merge_method: slerp\nbase_model: first\nmodels: [{model: a}]\nparameters: {t: 0.3}\n"
TALL = """merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 3], parameters: {weight: ONE}}
      - {model: b, layer_range: [1, 4], parameters: {weight: 0.5}}
  - sources: [{model: b, layer_range: [2, 4], parameters: {weight: 1}}]
"""
# The documents of a recipe, the first ones with a name.
CHAINS: dict[str, Sequence[tuple[str, str]]] = {
    "ties into slerp": [("first", TIES), ("", SLERP)],
    "in another dtype": [("first", TIES + "dtype: bfloat16\n"), ("", SLERP)],
    "in another dtype for its output": [
        ("first", TIES + "dtype: float32\nout_dtype: bfloat16\n"),
        ("", SLERP + "dtype: float16\n"),
    ],
    "linear into ties": [
        ("first", LINEAR + "dtype: float16\n"),
        ("", TIES.replace("{model: b", "{model: first")),
    ],
    "a base made by ties": [
        ("first", DARE),
        ("", "merge_method: task_arithmetic\nbase_model: first\n"
         "models: [{model: a, parameters: {weight: -0.5}}]\n"),
    ],
    "dare, linear, model stock": [
        ("first", DARE),
        ("mean", LINEAR.replace("model: a", "model: first") + "dtype: bfloat16\n"),
        ("", "merge_method: model_stock\nbase_model: base\n"
         "models: [{model: first}, {model: mean}, {model: b}]\n"),
    ],
    "stacked layers": [
        ("low", TALL.replace("ONE", "1")),
        ("high", TALL.replace("ONE", "2") + "dtype: bfloat16\n"),
        ("", TIES.replace("base_model: base", "base_model: low").replace("model: a", "model: high")
         .replace("  - {model: b, parameters: {weight: 0.5, density: 0.4}}\n", "")),
    ],
    "two that are the same": [
        ("first", TIES),
        ("twin", TIES),
        ("", TIES.replace("{model: a", "{model: first").replace("{model: b", "{model: twin")),
    ],
    "one that folds into one that is written": [
        ("half", LINEAR.replace("[0.2, 0.8]", "1.5") + "dtype: float16\n"),
        ("first", "merge_method: passthrough\nmodels: [{model: half, parameters: {scale: 2}}]\n"),
        ("", SLERP),
    ],
}  # fmt: skip
# Of which each has to be written, in this order.
WRITTEN = {
    **{chain: ["first"] for chain in CHAINS},
    "dare, linear, model stock": ["first", "mean"],
    "stacked layers": ["low", "high"],
}
# What is merged by hand where a stage is folded: with half of 1.5 and of 0.5.
UNFOLDED = {
    "one that folds into one that is written": [
        ("first", LINEAR.replace("[0.2, 0.8]", "1.5") + "parameters: {normalize: false}\n"),
        ("", SLERP),
    ],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders base, a and b in the current folder, in two shards each."""
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(MODELS):
        generator = np.random.default_rng(seed)
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (6, 8)}
        for layer in range(4):
            for part in ("attn", "mlp"):
                shapes[f"model.layers.{layer}.{part}.weight"] = (8, 8)
        shapes[NORM] = (8,)
        held = {n: generator.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        write_model(Path(name), held, shards=2, config=CONFIG)
    return place()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of stages as they are written."""
    names: list[str] = []
    make = stages.Stage._make

    def told(self: stages.Stage, *args: Any) -> stages.Written:
        names.append(self.name)
        return make(self, *args)

    monkeypatch.setattr(stages.Stage, "_make", told)
    return names


def text_of(chain: Sequence[tuple[str, str]]) -> str:
    return "---\n".join(f"name: {name}\n{text}" if name else text for name, text in chain)


def recipe_of(text: str) -> Recipe:
    Path("recipe.yaml").write_text(text)
    return load_recipe(Path("recipe.yaml"))


def save(text: str, out: str = "out") -> None:
    recipe = recipe_of(text)
    build(recipe).save(out, dtype=recipe.output_dtype)


def by_hand(chain: Sequence[tuple[str, str]]) -> Path:
    """Each document merged for itself, into the folder of its name."""
    for name, text in chain:
        save(text, name or "by-hand")
    return Path("by-hand")


def run(*args: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, [*args, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_same(out: Path, expected: Path) -> None:
    found, wanted = read_model(out), read_model(expected)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].tobytes() == tensor.tobytes(), name
    for file in ("config.json", "model.safetensors.index.json"):
        assert (out / file).read_text() == (expected / file).read_text()


@pytest.mark.parametrize("chain", CHAINS)
def test_stages_are_merges_by_hand(chain: str, cache: Path, written: list[str]) -> None:
    recipe = recipe_of(text_of(CHAINS[chain]))
    model = build(recipe)
    assert not cache.exists()  # nothing is written before the merge is run
    model.save("out", dtype=recipe.output_dtype)
    assert written == WRITTEN[chain]
    del model
    assert not any(cache.iterdir())
    assert_same(Path("out"), by_hand(UNFOLDED.get(chain, CHAINS[chain])))


def test_a_stage_that_two_others_need_is_written_once_and_goes_when_they_are_written(
    cache: Path, written: list[str]
) -> None:
    chain = [
        ("first", TIES),
        ("second", SLERP),
        ("third", SLERP.replace("t: 0.3", "t: 0.6")),
        ("fourth", SLERP.replace("first", "second").replace("model: a", "model: third")),
        ("", SLERP.replace("first", "fourth").replace("t: 0.3", "t: 0.5")),
    ]
    recipe, held = recipe_of(text_of(chain)), []
    told = lambda _done, _whole: held.append(len([*cache.glob("*/model*")]))  # noqa: E731
    build(recipe).save("out", progress=told)
    assert written == ["first", "second", "third", "fourth"]
    assert max(held) == 3  # the first one is gone when the fourth is begun
    assert held[-1] == 1
    assert not any(cache.iterdir())
    assert_same(Path("out"), by_hand(chain))


def test_a_stage_is_folded_into_one_and_written_for_another(written: list[str]) -> None:
    chain = [
        ("first", LINEAR + "dtype: float16\n"),
        ("second", "merge_method: linear\nparameters: {weight: 1}\n"
         "models: [{model: first}, {model: base}]\n"),
        ("", TIES.replace("{model: a", "{model: first").replace("{model: b", "{model: second")),
    ]  # fmt: skip
    save(text_of(chain))
    assert sorted(written) == ["first", "second"]
    save(f"name: first\n{LINEAR}---\n{chain[1][1]}", "second")
    save(chain[0][1], "first")
    save(chain[2][1], "by-hand")
    assert_same(Path("out"), Path("by-hand"))


def test_a_stage_of_stored_layers_needs_no_file(cache: Path, written: list[str]) -> None:
    tall = "merge_method: passthrough\nslices:\n  - sources: [{model: NAME, layer_range: [0, 3]}]\n"
    tall += "  - sources: [{model: NAME, layer_range: [1, 4]}]\n"
    chain = [
        *((f"tall-{name}", tall.replace("NAME", name)) for name in MODELS),
        ("", TIES.replace("base_model: ", "base_model: tall-").replace("model: a", "model: tall-a")
         .replace("model: b,", "model: tall-b,")),
    ]  # fmt: skip
    save(text_of(chain))
    assert not written
    assert not cache.exists()
    assert_same(Path("out"), by_hand(chain))


def test_stages_of_one_vocabulary_are_written_with_it(written: list[str]) -> None:
    for seed, (name, tokens) in enumerate((("x", "u a b c"), ("y", "u b d"))):
        tiny_tokenizers.write_model(Path(name), tokens.split(), seed=seed)
    union = "merge_method: linear\nbase_model: x\ntokenizer_source: union\nmodels:\n"
    union += "  - {model: x, parameters: {weight: 1}}\n  - {model: y, parameters: {weight: 2}}\n"
    chain = [
        ("first", union),
        ("second", union.replace("weight: 2", "weight: 3")),
        ("", SLERP.replace("model: a", "model: second")),
    ]
    recipe = recipe_of(text_of(chain))
    save_with_receipt(recipe)
    assert written == ["first", "second"]
    assert verify(Path("out"), inputs=True).intact
    assert not replay(read_receipt(Path("out")))
    by_hand(chain)
    found, wanted = read_model(Path("out")), read_model(Path("by-hand"))
    assert {n: t.tobytes() for n, t in found.items()} == {n: t.tobytes() for n, t in wanted.items()}
    assert tiny_tokenizers.ids(Path("out")) == tiny_tokenizers.ids(Path("by-hand"))
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 5


def test_pipelines_have_stages_of_all_their_models(written: list[str]) -> None:
    for seed, name in enumerate(MODELS):
        shutil.rmtree(name)
        generator = np.random.default_rng(seed)
        for model in ("unet", "vae"):
            held = {f"{n}.weight": generator.standard_normal((4, 4)) for n in ("down", "up")}
            held = {tensor: array.astype(np.float32) for tensor, array in held.items()}
            write_file(Path(name) / model / "diffusion_pytorch_model.safetensors", held)
        index = {"_class_name": "X", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}
        (Path(name) / "model_index.json").write_text(json.dumps(index))
    save(text_of(CHAINS["in another dtype"]))
    assert written == ["first"]
    by_hand(CHAINS["in another dtype"])
    for model in ("unet", "vae"):
        file = f"{model}/diffusion_pytorch_model.safetensors"
        assert Path("out", file).read_bytes() == Path("by-hand", file).read_bytes()


def test_an_adapter_goes_into_a_stage(written: list[str]) -> None:
    first = SLERP.replace("first", "base").replace("model: a", "model: base+lora")
    module = "base_model.model.model.layers.0.mlp"
    generator = np.random.default_rng(9)
    factors = {
        f"{module}.lora_{letter}.weight": generator.standard_normal(shape).astype(np.float32)
        for letter, shape in (("A", (3, 8)), ("B", (8, 3)))
    }
    write_adapter(Path("lora"), factors)
    chain = [("first", first), ("", SLERP)]
    save_with_receipt(recipe_of(text_of(chain)))
    assert written == ["first"]
    assert not replay(read_receipt(Path("out")))
    assert_same(Path("out"), by_hand(chain))


def save_with_receipt(recipe: Recipe, out: str = "out") -> None:
    text = RecipeText(recipe.method, recipe.text)
    build(recipe).save(out, dtype=recipe.output_dtype, recipe=text)


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


def test_models_in_memory_are_those_of_files() -> None:
    model = build(recipe_of(text_of(CHAINS["in another dtype"])))
    held = model.state_dict()
    model.save("out")
    for name, tensor in read_model(Path("out")).items():
        assert held[name].view(torch.uint8).numpy().tobytes() == tensor.tobytes()


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
    "an adapter on a stage": (
        [("first", ALONE), ("", ALONE.replace("model: a", "model: first+lora"))],
        "recipe.yaml:9: models.0: first is a stage, and an adapter can be added to a stored model",
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


def test_a_run_that_is_interrupted_leaves_whole_stages_to_the_next_one(
    cache: Path, written: list[str]
) -> None:
    recipe = recipe_of(text_of(CHAINS["dare, linear, model stock"]))

    def interrupt(_done: int, _whole: int) -> None:
        if written == ["first", "mean"]:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt, match=r"run the same command again to go on"):
            build(recipe).save("out", progress=interrupt)
        gc.collect()  # the error holds on to what was going on
        assert len([*cache.iterdir()]) == 1
        assert written == ["first", "mean"]
        written.remove("mean")  # as if it had not been begun
    file = next(cache.glob("*/model/*-00002-of-*.safetensors"))
    file.write_bytes(bytes(file.stat().st_size))  # what a power failure leaves
    build(recipe).save("out")
    assert written == ["first", "first", "mean"]
    assert not any(cache.iterdir())
    assert_same(Path("out"), by_hand(CHAINS["dare, linear, model stock"]))


def test_what_nobody_can_go_on_with_is_removed(cache: Path, written: list[str]) -> None:
    recipe = recipe_of(text_of(CHAINS["dare, linear, model stock"]))

    def interrupt(_done: int, _whole: int) -> None:
        if "mean" in written:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(recipe).save("out", progress=interrupt)
    gc.collect()  # the error holds on to what was going on
    shutil.rmtree(".out.unfinished")
    assert len([*cache.iterdir()]) == 1
    recipe = recipe_of(text_of(CHAINS["in another dtype"]))
    build(recipe).save("out")
    assert not any(cache.iterdir())


@pytest.mark.slow
def test_there_may_be_many_stages_and_not_any_number() -> None:
    first, second = ("0", TIES), ("1", SLERP.replace("first", "0"))
    later = [
        (
            str(n),
            f"merge_method: ties\nbase_model: {n - 1}\n"
            f"models: [{{model: '{n - 2}', parameters: {{weight: -1}}}}]\n",
        )
        for n in range(2, 64)
    ]
    chain = [first, second, *later[:-1], ("", later[-1][1])]
    chain = [(f"'{name}'" if name else "", text) for name, text in chain]
    chain = [(n, re.sub(r"base_model: (\d+)", r"base_model: '\1'", text)) for n, text in chain]
    model = build(recipe_of(text_of(chain)))
    model.save("out")
    with pytest.raises(ConfigError, match=r"stage 65, expected 64 at most"):
        recipe_of(text_of([("more", TIES), *chain]))


def test_a_misspelt_stage_is_suggested() -> None:
    recipe = recipe_of(text_of([("first", TIES), ("", SLERP.replace("model: a", "model: firstt"))]))
    with pytest.raises(FormatError, match=r"firstt: no such file or folder.* Did you mean 'first'"):
        build(recipe)


class Killed:
    """A recipe of three stages on a disk that kills, the cache beside what is merged."""

    def __init__(self, disk: FaultyDisk, folder: Path) -> None:
        self.disk, self.folder = disk, folder
        write_inputs(folder)
        (folder / "cache").mkdir()
        ties = "merge_method: ties\nbase_model: base\nparameters: {weight: 1, density: 0.5}\n"
        chain = [
            ("first", f"{ties}models: [{{model: tuned}}]\n"),
            ("second", SLERP.replace("model: a", "model: tuned")),
            ("", f"{ties}models: [{{model: second}}]\n"),
        ]
        (folder / "recipe.yaml").write_text(text_of(chain))
        self.inputs = sorted(path.name for path in folder.iterdir())
        self.calls = disk.calls(self.command, folder)
        self.expected = contents(folder / "out")
        shutil.rmtree(folder / "out")

    command = "merge recipe.yaml out --threads 2 --quiet"

    def kill(self, rule: str) -> int:
        """The batches of the last stage that were done when a run under the rule was killed."""
        ended = self.disk.run(self.command, self.folder, rule)
        assert ended.exit_code == KILLED, ended.said
        assert not (self.folder / "out").exists()
        journal = self.folder / ".out.unfinished/.journal"
        return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0

    def finish(self) -> None:
        """The same command ends as if nothing had happened, and leaves nothing else."""
        ended = self.disk.run(self.command, self.folder)
        assert ended.exit_code == 0, ended.said
        assert contents(self.folder / "out") == self.expected
        assert sorted(path.name for path in self.folder.iterdir()) == sorted([*self.inputs, "out"])
        assert not any((self.folder / "cache/computed").iterdir())
        shutil.rmtree(self.folder / "out")


@pytest.mark.slow
def test_nodes_of_a_cluster_write_stages(written: list[str]) -> None:
    recipe = recipe_of(text_of(CHAINS["dare, linear, model stock"]))
    with local_cluster() as cluster, WatchedFleet(cluster.address) as fleet:
        model = build(recipe)
        variants = (Variant(weighting=model.weighting),)
        order = Order(kind=MODEL, donor=model.donor, variants=variants, dtype=recipe.output_dtype)
        merge(order, "out", RunOptions(batch_bytes=1), run=fleet.run)
    assert written == ["first", "mean"]
    assert sum(map(len, fleet.sent.values())) >= 3 * 10  # of each stage a batch for each tensor
    assert_same(Path("out"), by_hand(CHAINS["dare, linear, model stock"]))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyDisk]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TVMERGE_CACHE", "cache")  # below the folder that is merged in
        with faulty_disk(tmp_path_factory.mktemp("disk")) as disk:
            yield disk


@pytest.mark.slow
def test_a_merge_that_is_killed_in_any_stage_goes_on(disk: FaultyDisk, tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    killed = Killed(disk, tmp_path / "killed")
    done: dict[str, list[int]] = {}
    for part in ("computed", ".out.unfinished"):
        count = sum(call.startswith("write ") and part in call for call in killed.calls)
        assert count > 40
        done[part] = []
        for number in range(1, count, 1 + count // 12):
            rule = "torn" if number % 2 else "kill"
            done[part].append(killed.kill(f"write:{part}@{number}={rule}"))
            killed.finish()
    assert not any(done["computed"])
    assert max(done[".out.unfinished"]) > 20


def test_what_is_done_of_the_last_stage_stays_done(disk: FaultyDisk, tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    killed = Killed(disk, tmp_path / "killed")

    def of_last(calls: list[str]) -> int:
        return sum(call.startswith("write ") and ".safetensors.part" in call for call in calls)

    count = of_last(killed.calls)
    assert killed.kill(f"write:.safetensors.part@{count - 8}=kill") > 20
    again = killed.disk.calls(killed.command, killed.folder)
    assert of_last(again) < count / 2
    assert not any(call.startswith("write ") and "/computed/" in call for call in again)
    assert contents(killed.folder / "out") == killed.expected
