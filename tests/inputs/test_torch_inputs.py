"""Checkpoints as older versions of transformers saved them stand wherever safetensors can."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file
from support.adapters import write_adapter
from support.small_checkpoints import EMBEDDING, POSITIONS, read, tensors, write

from tvmerge import Checkpoint, TaskVector
from tvmerge.checkpoints.stored import open_stored
from tvmerge.cli import cli
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import MismatchError
from tvmerge.merging import merge
from tvmerge.merging.order import MODEL, Order, Variant
from tvmerge.plans.batches import Batch, Record, run_batch
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.verify import verify
from tvmerge.replay import replay

Tensors = dict[str, np.ndarray]
INDEX = "pytorch_model.bin.index.json"


def write_torch(folder: Path, content: Tensors, *, shards: int = 1, tied: str = "") -> Path:
    """A folder with pytorch_model*.bin; `tied` is a second name of the embedding."""
    folder.mkdir(parents=True)
    held = {name: torch.from_numpy(array.copy()) for name, array in content.items()}
    if tied:
        held[tied] = held[EMBEDDING]
    weight_map = {}
    for number in range(shards):
        part = {name: held[name] for name in list(held)[number::shards]}
        name = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        torch.save(part, folder / ("pytorch_model.bin" if shards == 1 else name))
        weight_map |= dict.fromkeys(part, name)
    if shards > 1:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "training_args.bin").write_bytes(b"no weights")
    return folder


def bits(content: Tensors) -> dict[str, tuple[str, bytes]]:
    return {name: (str(a.dtype) + str(a.shape), a.tobytes()) for name, a in content.items()}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_torch(tmp_path / "base", tensors(0))


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    return write_torch(tmp_path / "tuned", tensors(1))


def combined(base: Path, tuned: Path) -> Checkpoint:
    one = Checkpoint(base)
    return one - 0.5 * (Checkpoint(tuned) - one)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_result_is_that_of_safetensors(shards: int, mixed: bool, tmp_path: Path) -> None:
    plain = [write(tmp_path / f"s{seed}", tensors(seed)) for seed in (0, 1)]
    folders = [write_torch(tmp_path / f"t{n}", tensors(n), shards=shards) for n in (0, 1)]
    combined(*plain).save(tmp_path / "expected")
    combined(folders[0], plain[1] if mixed else folders[1]).save(tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    found: Tensors = {}
    for name in files:
        found |= load_file(tmp_path / "out" / name)
    assert bits(found) == bits(read(tmp_path / "expected"))
    ends = ["-00001-of-00002", "-00002-of-00002"] if shards == 2 else [""]
    assert files == [f"model{end}.safetensors" for end in ends]
    others = {path.name for path in (tmp_path / "out").iterdir()} - set(files)
    index = {"model.safetensors.index.json"} if shards == 2 else set()
    assert others == {"README.md", "config.json", "tvmerge_receipt.json"} | index
    open_stored(tmp_path / "out")


def test_a_change_anywhere_in_an_input_is_found(base: Path, tuned: Path, tmp_path: Path) -> None:
    combined(base, tuned).save(tmp_path / "out")
    receipt = read_receipt(tmp_path / "out")
    assert verify(tmp_path / "out", inputs=True).intact
    assert replay(receipt) == ()
    file = tuned / "pytorch_model.bin"
    content, header = file.read_bytes(), open_stored(tuned).shards[0][1]
    places = {
        "in a tensor": (header.entries[-1].begin, "its tensor data was changed"),
        "between two": (header.entries[-1].begin - 1, "its header was changed"),
        "in the directory": (len(content) - 12, "its header was changed"),
    }
    for where, (place, what) in places.items():
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        (fault,) = verify(tmp_path / "out", inputs=True).faults
        assert fault.what.startswith(what), where
        assert [fault.file for fault in replay(receipt)] == [f"input {file}"], where


def test_an_interrupted_merge_goes_on(base: Path, tuned: Path, tmp_path: Path) -> None:
    model = combined(base, tuned)
    order = Order(kind=MODEL, donor=model.donor, variants=(Variant(weighting=model.coefficients),))
    options = RunOptions(threads=1, batch_bytes=1000)

    def stopping(batches: Sequence[Batch]) -> Iterator[Record]:
        assert len(batches) > 2
        yield run_batch(batches[0], options.workspace())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="run the same command again"):
        merge.save(order, tmp_path / "out", options, run=stopping)
    (report,) = merge.save(order, tmp_path / "out", options)
    assert report.resumed_bytes > 0
    model.save(tmp_path / "whole")
    assert bits(read(tmp_path / "out")) == bits(read(tmp_path / "whole"))


def test_every_command_takes_them(base: Path, tuned: Path, tmp_path: Path) -> None:
    def run(*args: object) -> str:
        done = CliRunner().invoke(cli, list(map(str, args)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert json.loads(run("inspect", base, "--json"))["files"][0]["name"] == "pytorch_model.bin"
    assert json.loads(run("diff", base, tuned, "--json"))["total"]["changed_elements"] > 0
    run("vector", base, tuned, tmp_path / "vector")
    run("apply", base, tmp_path / "of vector", "--add", f"{tmp_path / 'vector'}=0.5")
    run("apply", base, tmp_path / "out", "--add", f"{tuned}=0.5")
    run("apply", base / "pytorch_model.bin", tmp_path / "file", "--add", f"{tuned}=0.5")
    recipe = {
        "merge_method": "ties",
        "base_model": str(base),
        "models": [{"model": str(tuned), "parameters": {"density": 0.5, "weight": 1}}],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    assert f"{tmp_path / 'ties'}" in run("plan", tmp_path / "recipe.yaml", tmp_path / "ties")
    run("merge", tmp_path / "recipe.yaml", tmp_path / "ties")
    run("verify", tmp_path / "ties", "--replay")
    assert bits(read(tmp_path / "file")) == bits(read(tmp_path / "out"))
    assert not (tmp_path / "file" / "config.json").exists()


def test_a_head_that_is_the_embedding_is_left_out_as_save_pretrained_does(tmp_path: Path) -> None:
    base = write_torch(tmp_path / "base", tensors(0), tied="lm_head.weight")
    tuned = write(tmp_path / "tuned", tensors(1))
    combined(base, tuned).save(tmp_path / "out")
    assert read(tmp_path / "out").keys() == tensors(0).keys()
    assert verify(tmp_path / "out", inputs=True).intact
    (base / "config.json").write_text('{"tie_word_embeddings": false}')
    assert "lm_head.weight" in open_stored(base).slots
    with pytest.raises(MismatchError, match=r"lm_head\.weight: in .*base, missing in"):
        combined(base, tuned).save(tmp_path / "other")


def test_tensors_that_are_one_in_the_file_are_written_each(tmp_path: Path) -> None:
    base, tuned = (write_torch(tmp_path / f"m{n}", tensors(n), tied="again.weight") for n in (0, 1))
    combined(base, tuned).save(tmp_path / "out")
    found = read(tmp_path / "out")
    assert_array_equal(found["again.weight"], found[EMBEDDING])
    assert_array_equal(found[POSITIONS], tensors(0)[POSITIONS])
    assert replay(read_receipt(tmp_path / "out")) == ()
    # The highest bit of a word of 64, which the digest would not show if it counted twice.
    place = open_stored(tuned).slots["again.weight"].entry.begin + 7
    content = bytearray((tuned / "pytorch_model.bin").read_bytes())
    content[place] ^= 128
    (tuned / "pytorch_model.bin").write_bytes(content)
    assert not verify(tmp_path / "out", inputs=True).intact


def test_an_adapter_of_older_peft_is_the_same_adapter(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    (Checkpoint(base) + TaskVector(adapter)).save(tmp_path / "expected")
    file = adapter / "adapter_model.safetensors"
    held = {name: torch.from_numpy(array) for name, array in load_file(file).items()}
    torch.save(held, adapter / "adapter_model.bin")
    file.unlink()
    for path in (adapter, adapter / "adapter_model.bin"):
        out = tmp_path / f"out{path.suffix}"
        (Checkpoint(base) + TaskVector(path)).save(out)
        assert bits(read(out)) == bits(read(tmp_path / "expected"))
        assert verify(out, inputs=True).intact
        assert replay(read_receipt(out)) == ()
