"""Compressed task vectors: what is stored, what is said of it, and where they are read."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from inputs.packed_vectors import (
    MODEL,
    PACKED,
    VECTOR,
    assert_same,
    expected,
    read_back,
    run,
    tensors,
    write_vector,
)
from oracles.packed import from_int8, int8, largest, unpacked
from support.adapters import write_adapter
from support.checkpoints import read_file, read_model, same_bits, write_file, write_index

from tvmerge import Checkpoint, TaskVector
from tvmerge.algebra.compare import diff
from tvmerge.compression.compressing import compress
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import FormatError
from tvmerge.receipts.parsing import read_receipt


@pytest.mark.parametrize("block", [None, 24])
@pytest.mark.parametrize("form", PACKED)
def test_packed_is_what_numpy_packs_and_reads(
    form: str, block: int | None, vector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block is not None:
        monkeypatch.setattr("tvmerge.inputs.packing._BLOCK_ELEMENTS", block)
    compress(TaskVector(vector), tmp_path / "small", to=form, options=RunOptions(threads=2))
    assert_same(unpacked(tmp_path / "small" / "vector.safetensors"), expected(form))
    assert_same(read_back(tmp_path / "small"), expected(form))


def test_codes_and_scales_are_as_documented(vector: Path, tmp_path: Path) -> None:
    compress(TaskVector(vector), tmp_path / "small", to="int8")
    parts = read_file(tmp_path / "small" / "vector.safetensors")
    for name, one in tensors().items():
        codes, scales = int8(one)
        assert same_bits(parts[f"{name}:codes"], codes), name
        assert same_bits(parts[f"{name}:scales"], scales), name


def test_places_take_the_smaller_form(vector: Path, tmp_path: Path) -> None:
    def held(share: float) -> dict[str, np.ndarray]:
        out = tmp_path / f"{share}"
        compress(TaskVector(vector), out, to=f"topk={share}")
        return read_file(out / "vector.safetensors")

    many, few = held(0.3), held(0.01)
    assert "wide:bitmap" in many
    assert few["wide:indices"].dtype == np.uint16  # 210 places of two bytes, or 21000 bits
    assert few["wide:values"].shape == (210,)
    assert many["half:values"].dtype == ml_dtypes.bfloat16
    assert many["double:values"].dtype == np.float32
    assert many["few:values"].shape == (3,)  # zeros are not kept
    assert many["zeros:values"].shape == (0,)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f8_e4m3"])
def test_dtype_is_that_of_a_saved_vector(dtype: str, vector: Path, tmp_path: Path) -> None:
    found = compress(TaskVector(vector), tmp_path / "small", to=dtype)
    TaskVector(vector).save(tmp_path / "saved", dtype=dtype)
    same = [read_model(tmp_path / name, "vector") for name in ("small", "saved")]
    assert_same(*same)
    assert {one.name: one.bytes_after for one in found.tensors} == {
        name: one.nbytes for name, one in same[0].items()
    }
    assert not run("verify", tmp_path / "small", "--replay").startswith("Error")


@pytest.mark.parametrize("form", ["bf16", *PACKED])
def test_figures_are_those_of_what_is_read_back(form: str, vector: Path, tmp_path: Path) -> None:
    found = json.loads(run("compress", vector, tmp_path / "small", "--to", form, "--json"))
    exact = {name: one.astype(np.float64) for name, one in tensors().items()}
    stored = {name: one.astype(np.float64) for name, one in read_back(tmp_path / "small").items()}
    files = read_model(tmp_path / "small", "vector")
    for told in found["tensors"]:
        name = told["name"]
        check(told, exact[name].reshape(-1), stored[name].reshape(-1))
        held = [one.nbytes for part, one in files.items() if part.rpartition(":")[0] == name]
        assert told["bytes_after"] == (sum(held) if form in PACKED else files[name].nbytes)
        assert told["bytes_before"] == tensors()[name].nbytes
    whole = (np.concatenate([one[n].reshape(-1) for n in exact]) for one in (exact, stored))
    check(found["total"], *whole)
    file = "vector.safetensors"
    sizes = [(tmp_path / name / file).stat().st_size for name in ("vector", "small")]
    assert found["total"]["bytes_before"] == sizes[0]
    assert sizes[1] <= found["total"]["bytes_after"] < sizes[0]
    assert found["form"] == form


def check(told: dict[str, float], exact: np.ndarray, stored: np.ndarray) -> None:
    """The figures of one tensor, or of all, against numpy's in float64."""
    assert told["elements"] == exact.size
    assert told["kept"] == np.count_nonzero(stored)
    norms = np.linalg.norm(exact), np.linalg.norm(stored)
    if min(norms) < 1e-30:  # as the engine has it: the squares are lost
        return
    error = np.linalg.norm(exact - stored) / norms[0]
    assert told["relative_error"] == pytest.approx(error, rel=1e-5, abs=2e-8)
    assert told["cosine"] == pytest.approx(exact @ stored / norms[0] / norms[1], rel=1e-6)


@pytest.mark.parametrize("form", PACKED)
def test_packed_vector_stands_where_its_dense_form_does(
    form: str, base: Path, tmp_path: Path, cache: Path
) -> None:
    vector = write_vector(tmp_path / "vector", MODEL)
    run("compress", vector, tmp_path / "small", "--to", form, "--quiet")
    small = tmp_path / "small"
    dense = write_vector(tmp_path / "dense", unpacked(small / "vector.safetensors"))
    for name, source in (("one", small), ("other", dense)):
        run("apply", base, tmp_path / name, "--add", f"{source}=0.7", "--subtract", f"{vector}=0.1")
    assert_same(read_model(tmp_path / "one"), read_model(tmp_path / "other"))
    run("verify", tmp_path / "one", "--replay")
    origin = Checkpoint(base)
    (origin + 2 * TaskVector(small, base=origin)).save(tmp_path / "python")
    (origin + 2 * TaskVector(dense, base=origin)).save(tmp_path / "plain")
    assert_same(read_model(tmp_path / "python"), read_model(tmp_path / "plain"))
    assert diff(small, dense).same
    assert not diff(small, vector).same
    assert json.loads(run("plan", base, "--add", small, "--no-probe", "--json"))
    run("compress", small, tmp_path / "again", "--to", "f32", "--quiet")
    assert_same(read_model(tmp_path / "again", "vector"), read_model(dense, "vector"))
    assert not any(cache.iterdir())


@pytest.mark.parametrize("form", PACKED)
def test_receipt_is_verified_and_made_again(form: str, vector: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    run("compress", vector, small, "--to", form, "--sync")
    receipt = read_receipt(small)
    assert receipt.recipe.form == form
    assert [record.path for record in receipt.inputs] == [str(vector)]
    assert "as in the receipt" in run("verify", small, "--replay")
    shown = run("inspect", small)
    assert f"packed      {form.partition('=')[0]}: 13 tensors of 30,484 parameters" in shown
    assert f"Made with tvmerge {receipt.version} ({form}):" in shown
    compress(TaskVector(vector), tmp_path / "again", to=form, options=RunOptions(threads=1))
    again = read_receipt(tmp_path / "again")
    assert [replace(one, run={}) for one in (receipt, again)] == [replace(receipt, run={})] * 2
    held = bytearray((vector / "vector.safetensors").read_bytes())
    held[-1] ^= 1
    (vector / "vector.safetensors").write_bytes(held)
    assert "its tensor data was changed" in run("verify", small, "--replay", code=3)


def test_shards_are_those_of_the_vector(tmp_path: Path) -> None:
    held = tensors()
    files = {"vector-1.safetensors": ["wide", "ties"], "vector-2.safetensors": ["few", "kernel"]}
    for file, names in files.items():
        write_file(tmp_path / "vector" / file, {name: held[name] for name in names}, VECTOR)
    weight_map = {name: file for file, names in files.items() for name in names}
    write_index(tmp_path / "vector", weight_map, "vector.safetensors.index.json")
    run("compress", tmp_path / "vector", tmp_path / "small", "--to", "int8")
    names = sorted(path.name for path in (tmp_path / "small").glob("*.safetensors"))
    assert names == ["vector-00001-of-00002.safetensors", "vector-00002-of-00002.safetensors"]
    wanted = {name: one for name, one in expected("int8").items() if name in weight_map}
    assert_same(read_back(tmp_path / "small"), wanted)
    run("verify", tmp_path / "small", "--replay")


def test_adapter_and_packed_vectors_can_be_packed(vector: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    run("compress", adapter, tmp_path / "small", "--to", "int8")
    dense = TaskVector(adapter).state_dict()
    assert_same(
        read_back(tmp_path / "small"),
        {name: from_int8(*int8(one.numpy())) for name, one in dense.items()},
    )
    run("verify", tmp_path / "small", "--replay", "--inputs")
    run("compress", vector, tmp_path / "one", "--to", "topk=0.3")
    run("compress", tmp_path / "one", tmp_path / "two", "--to", "topk=0.1")
    wanted = {name: largest(one, 0.1) for name, one in expected("topk=0.3").items()}
    assert_same(read_back(tmp_path / "two"), wanted)


def test_what_is_not_finite_is_among_the_largest(tmp_path: Path) -> None:
    held = np.arange(100, dtype=np.float32)
    held[[3, 50, 70]] = np.nan, -np.inf, np.nan
    vector = write_vector(tmp_path / "vector", {"a": held})
    found = compress(TaskVector(vector), tmp_path / "small", to="topk=0.04")
    kept = np.zeros_like(held)
    kept[[3, 50, 70, 99]] = held[[3, 50, 70, 99]]
    np.testing.assert_array_equal(read_back(tmp_path / "small")["a"], kept)
    assert np.isnan(found.total.relative_error)
    with pytest.raises(FormatError, match="a: holds values that are not finite"):
        compress(TaskVector(vector), tmp_path / "codes", to="int8")
    assert not (tmp_path / "codes").exists()


MEASURED = """
from pathlib import Path
from tvmerge.cli import main
try:
    main()
finally:
    status = Path("/proc/self/status").read_text()
    print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


def test_table_has_a_row_for_each_tensor_and_memory_is_bounded(tmp_path: Path) -> None:
    """Blocks and not tensors: a vector of 64 MB, in a process of its own."""
    generator = np.random.default_rng(0)
    held = {"big": generator.standard_normal((8, 2**21)).astype(np.float32)}
    vector = write_vector(tmp_path / "vector", held)
    for form in ("int8", "topk=0.2"):
        arguments = ["compress", vector, tmp_path / form, "--to", form, "--tensors", "--threads", 2]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *map(str, arguments)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        *table, peak = done.stdout.splitlines()
        assert table[-1].split()[0] == "big"
        assert int(peak) < 120 * 1024, peak  # KiB; with the interpreter, numpy and buffers
