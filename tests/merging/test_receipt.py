"""The receipt: what it says of a merge, that it always says the same, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.arithmetic import decode, file_digest, linear, random_array, round_once
from support.checkpoints import FLOATS, read_model, write_model

from tvmerge import Checkpoint, TaskVector
from tvmerge._core import available_isas
from tvmerge.algebra.sweep import sweep
from tvmerge.engine.edit import Edit
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import FormatError
from tvmerge.merging.merge import save_checkpoint
from tvmerge.receipts.parsing import parse_receipt, read_receipt
from tvmerge.receipts.receipt import RECEIPT_NAME, SEAL, Receipt, RecipeText, seal
from tvmerge.receipts.verify import verify
from tvmerge.replay import replay

SHAPES = {"embed.weight": (130, 64), "layers.0.w": (70, 90), "layers.1.w": (33, 7), "norm": (5,)}


def model(folder: Path, seed: int, *, dtype: str = "BF16", wild: bool = False) -> Path:
    generator = np.random.default_rng(seed)
    held = {
        name: random_array(generator, dtype, shape, wild=wild) for name, shape in SHAPES.items()
    }
    held["ids"] = np.arange(9, dtype=np.int64) + seed
    write_model(folder, held, shards=2, config={"architectures": ["X"]})
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "merges.txt").write_bytes(b"a b\n" * 3)
    return folder


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    base, tuned = Checkpoint(model(tmp_path / "base", 0)), Checkpoint(model(tmp_path / "a", 1))
    (base - 0.3 * (tuned - base)).save(tmp_path / "out")
    return tmp_path / "out"


def stable(content: bytes) -> dict[str, Any]:
    """All of a receipt but what may differ between runs."""
    found: dict[str, Any] = json.loads(content)
    del found["run"]
    return found


def sealed(content: bytes) -> bytes:
    """The content with the digest that belongs to it."""
    before = content.rpartition(SEAL)[0]
    return before + SEAL + f'"{seal(before)}",\n"run": {{}}\n}}\n'.encode()


def test_every_file_is_listed_with_its_digest(merged: Path) -> None:
    listed = {record.name: record for record in read_receipt(merged).files}
    found = {p.relative_to(merged).as_posix(): p for p in merged.rglob("*") if p.is_file()}
    assert listed.keys() == found.keys() - {RECEIPT_NAME}
    assert "tokenizer/merges.txt" in listed
    assert "model.safetensors.index.json" in listed
    for name, record in listed.items():
        content = found[name].read_bytes()
        assert record.size_bytes == len(content)
        if name.endswith(".safetensors"):
            assert record.digest == file_digest(content)
        else:
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
            assert record.digest == f"blake2b:{digest}"


def test_input_files_are_listed_with_their_digests(merged: Path) -> None:
    receipt = read_receipt(merged)
    assert len(receipt.inputs) == 2
    for record in receipt.inputs:
        assert len(record.files) == 2
        for file in record.files:
            path = Path(record.path) / file.name
            assert file.digest == file_digest(path.read_bytes())
            assert file.mtime_ns == path.stat().st_mtime_ns


def test_an_output_has_the_same_digest_as_the_input_of_the_next_merge(
    merged: Path, tmp_path: Path
) -> None:
    tau = Checkpoint(merged) - Checkpoint(tmp_path / "base")
    tau.save(tmp_path / "vector")
    again = read_receipt(tmp_path / "vector").inputs[0]
    before = {record.name: record.digest for record in read_receipt(merged).files}
    assert again.path == str(merged)
    assert {file.name: file.digest for file in again.files}.items() <= before.items()


def test_coefficients_are_exact_and_paths_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(tmp_path / "base", 0), model(tmp_path / "a", 1)
    monkeypatch.chdir(tmp_path)
    base, tuned = Checkpoint("base"), Checkpoint("./a")
    expression = base + (0.1 + 0.2) * (tuned - base)
    expression.save("out")
    one, other = read_receipt(Path("out")).inputs
    assert (one.given, other.given) == ("base", "./a")
    assert (one.path, other.path) == (str(tmp_path / "base"), str(tmp_path / "a"))
    assert [one.coefficient, other.coefficient] == list(expression.coefficients.values())


def test_a_donor_that_cancels_out_is_an_input_with_coefficient_0(tmp_path: Path) -> None:
    base, tuned = Checkpoint(model(tmp_path / "base", 0)), Checkpoint(model(tmp_path / "a", 1))
    (base + (tuned - base)).save(tmp_path / "out")
    receipt = read_receipt(tmp_path / "out")
    assert [record.coefficient for record in receipt.inputs] == [1.0, 0.0]
    assert receipt.inputs[receipt.recipe.donor].path == str(tmp_path / "base")


def test_a_vector_whose_donor_cancels_out_is_saved_and_replayed(tmp_path: Path) -> None:
    base, one, two = (Checkpoint(model(tmp_path / name, n)) for n, name in enumerate("bac"))
    ((one - base) - (two - base)).save(tmp_path / "out")
    receipt = read_receipt(tmp_path / "out")
    assert [record.coefficient for record in receipt.inputs] == [1.0, -1.0, 0.0]
    assert not replay(receipt)


def test_figures_of_every_tensor_are_those_of_the_definition(tmp_path: Path) -> None:
    base, tuned = model(tmp_path / "base", 0), model(tmp_path / "a", 1)
    one = Checkpoint(base)
    (one + 2**-9 * (Checkpoint(tuned) - one)).save(tmp_path / "out")
    receipt = read_receipt(tmp_path / "out")
    x, y = read_model(base), read_model(tuned)
    seen = {tensor.name: tensor for tensor in receipt.tensors}
    assert seen["ids"].action == "copied"
    assert seen["ids"].differs
    assert seen["ids"].edit is None
    for name in SHAPES:
        exact = linear([x[name], y[name]], [1 - 2**-9, 2**-9])
        before = decode(x[name])
        intended, realised = exact - before, decode(round_once(exact, "BF16")) - before
        edit = seen[name].edit
        assert edit is not None
        assert seen[name].elements == intended.size
        assert edit.changed == np.count_nonzero(realised)
        assert edit.intended == np.count_nonzero(intended)
        assert edit.lost == np.count_nonzero((intended != 0) & (realised == 0))
        assert edit.intended_sq == pytest.approx((intended**2).sum(), rel=1e-4)
        assert edit.realised_sq == pytest.approx((realised**2).sum(), rel=1e-6)
        assert edit.dot == pytest.approx((intended * realised).sum(), rel=1e-4)
    assert receipt.edit.lost > receipt.edit.intended / 2


@pytest.mark.parametrize("wild", [False, True], ids=["usual", "wild"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_receipts_are_equal_for_any_threads_batches_and_instructions(
    tmp_path: Path, dtype: str, wild: bool
) -> None:
    base, tuned = (
        Checkpoint(model(tmp_path / name, seed, dtype=dtype, wild=wild))
        for seed, name in enumerate(("base", "a"))
    )
    merged = base - 0.3 * (tuned - base)
    contents = []
    for number, options in enumerate(
        (
            RunOptions(threads=1),
            RunOptions(threads=3, slice_bytes=4096, batch_bytes=10_000),
            *(RunOptions(threads=2, isa=isa) for isa in available_isas()),
        )
    ):
        out = tmp_path / str(number) / "out"
        save_checkpoint(merged.coefficients, merged.donor, out, dtype=None, options=options)
        contents.append((out / RECEIPT_NAME).read_bytes())
    assert all(stable(content) == stable(contents[0]) for content in contents)
    assert json.loads(contents[1])["run"]["threads"] == 3
    assert json.loads(contents[-1])["run"]["isa"] == "generic"


def test_a_model_of_a_sweep_has_the_receipt_of_its_own_merge(tmp_path: Path) -> None:
    base, tuned = Checkpoint(model(tmp_path / "base", 0)), Checkpoint(model(tmp_path / "a", 1))
    sweep(base + (tuned - base), [0, 0.5, 1], tmp_path / "all")
    alone = tmp_path / "alone" / "scale-0.5"
    (base + 0.5 * (tuned - base)).save(alone)
    together = tmp_path / "all" / "scale-0.5"
    assert stable((together / RECEIPT_NAME).read_bytes()) == stable(
        (alone / RECEIPT_NAME).read_bytes()
    )
    with pytest.raises(FormatError, match=f"such as {tmp_path / 'all' / 'scale-0'}$"):
        read_receipt(tmp_path / "all")
    for folder in (tmp_path / "all").iterdir():
        assert verify(folder).intact
        assert replay(read_receipt(folder)) == ()


def test_a_vector_has_a_receipt_and_the_merge_with_it_too(tmp_path: Path) -> None:
    base, tuned = Checkpoint(model(tmp_path / "base", 0)), Checkpoint(model(tmp_path / "a", 1))
    (tuned - base).save(tmp_path / "vector")
    receipt = read_receipt(tmp_path / "vector")
    assert receipt.recipe.kind == "task vector"
    assert {tensor.name for tensor in receipt.tensors} == SHAPES.keys()
    (base + 0.5 * TaskVector(tmp_path / "vector")).save(tmp_path / "out")
    assert read_receipt(tmp_path / "out").recipe.kind == "model"


def test_figures_that_are_not_finite_are_null(tmp_path: Path) -> None:
    held = {"w": np.array([1, np.inf, np.nan], np.float32)}
    base = Checkpoint(write_model(tmp_path / "base", held))
    tuned = Checkpoint(write_model(tmp_path / "a", {"w": np.array([3, 4, 5], np.float32)}))
    (base + 0.5 * (tuned - base)).save(tmp_path / "out")
    content = (tmp_path / "out" / RECEIPT_NAME).read_bytes()
    row = json.loads(content)["tensors"]["rows"][0]
    assert row[-3] is None
    assert b"NaN" not in content
    assert b"Infinity" not in content
    parse_receipt(content)


def test_what_is_written_is_read_again(merged: Path) -> None:
    content = (merged / RECEIPT_NAME).read_bytes()
    receipt = parse_receipt(content)
    assert receipt.to_bytes() == content
    text = RecipeText("linear", 'models: [ä, "\'\\"]\n\x1b')
    renamed = tuple(t._replace(name=t.name + "é\n\u2028") for t in receipt.tensors)
    odd = replace(receipt, recipe=replace(receipt.recipe, source=text), tensors=renamed)
    assert parse_receipt(odd.to_bytes()) == odd


def test_a_receipt_of_many_tensors_is_read_again(merged: Path) -> None:
    receipt = read_receipt(merged)
    one = receipt.tensors[1]
    many = tuple(one._replace(name=f"t{i}", edit=Edit(i, i, i, i / 3)) for i in range(20_000))
    assert parse_receipt(replace(receipt, tensors=many).to_bytes()).tensors == many


def test_a_cut_receipt_is_refused_wherever_it_was_cut(merged: Path) -> None:
    content = (merged / RECEIPT_NAME).read_bytes()
    for length in range(0, len(content.rstrip()), 7):  # without its last newline it is whole
        with pytest.raises(FormatError, match="not a receipt"):
            parse_receipt(content[:length])


def test_a_flipped_bit_is_seen_outside_the_section_of_the_run(merged: Path) -> None:
    content = bytearray((merged / RECEIPT_NAME).read_bytes())
    told = content.rindex(b'"run"')  # what follows is about the run, not about the files
    generator = random.Random(7)
    for _ in range(500):
        place, bit = generator.randrange(told), 1 << generator.randrange(8)
        content[place] ^= bit
        with pytest.raises(FormatError, match="not a receipt"):
            parse_receipt(bytes(content))
        content[place] ^= bit


def test_a_sum_of_squares_is_no_negative_number(merged: Path) -> None:
    receipt = read_receipt(merged)
    found = receipt.to_dict()
    row = next(row for row in found["tensors"]["rows"] if row[3] == "combined")
    row[-3] = -1.0
    del found["digest"], found["run"]
    with pytest.raises(FormatError, match="below 0"):
        parse_receipt(sealed(json.dumps(found)[:-1].encode() + SEAL))


NOT_RECEIPTS: list[tuple[str, Any, str]] = [
    ("format", "tvmerge receipt 9", "expected the format"),
    ("kind", "adapter", "kind"),
    ("recipe", [], "recipe"),
    ("recipe", {"donor": 2, "dtype": None}, "there is no input 2"),
    ("recipe", {"donor": True}, "donor"),
    ("recipe", {"donor": 0, "dtype": "F7"}, "dtype"),
    ("inputs", {}, "inputs"),
    ("inputs", [{"given": "x", "path": "x", "coefficient": "1", "files": []}], "coefficient"),
    ("files", [{"name": "../x", "bytes": 1, "digest": "d"}], "leaves the folder"),
    ("files", [{"name": "/etc/passwd", "bytes": 1, "digest": "d"}], "leaves the folder"),
    ("files", [{"name": "", "bytes": 1, "digest": "d"}], "leaves the folder"),
    ("files", [{"name": "x\0", "bytes": 1, "digest": "d"}], "no path"),
    ("files", [{"name": "x", "bytes": -1, "digest": "d"}], "count"),
    ("files", [{"name": "x", "bytes": 2**80, "digest": "d"}], "whole number"),
    ("files", [{"name": "x", "bytes": 1, "digest": "d"}] * 2, "listed twice"),
    ("tensors", {"columns": ["name"], "rows": []}, "columns"),
    ("totals", 3, None),
    ("run", [], "twice"),
    ("more", 1, "should not be there"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "what"), NOT_RECEIPTS)
def test_a_receipt_that_means_nothing_is_refused(
    merged: Path, key: str, value: Any, what: str | None
) -> None:
    found = read_receipt(merged).to_dict()
    del found["digest"], found["run"]
    found[key] = value
    content = sealed(json.dumps(found)[:-1].encode() + SEAL)
    if what is None:  # follows from the tensors, and is not taken from the file
        assert isinstance(parse_receipt(content), Receipt)
        return
    with pytest.raises(FormatError, match=what):
        parse_receipt(content)


def test_a_folder_without_a_receipt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=f"has no {RECEIPT_NAME}"):
        read_receipt(model(tmp_path / "base", 0))
