"""Compressed task vectors: what is refused, and what a killed run leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from inputs.packed_vectors import (
    PACKED,
    VECTOR,
    assert_same,
    expected,
    read_back,
    run,
    tensors,
    write_vector,
)
from support.checkpoints import write_file

from tvmerge import Checkpoint, TaskVector
from tvmerge.compression.compressing import compress
from tvmerge.errors import ConfigError, FormatError, MismatchError


def test_refusals_leave_nothing(vector: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for form in ("bf17", "topk", "topk=0", "topk=1", "topk=x", "int8=1"):
        assert "expected" in run("compress", vector, out, "--to", form, code=2)
    assert "expected a stored task vector" in run("compress", base, out, "--to", "int8", code=2)
    zero = write_vector(tmp_path / "zero", {"a": np.zeros(4, np.float32)})
    for form in PACKED:
        assert "all of it is zero" in run("compress", zero, out, "--to", form, code=6)
    assert "lies inside, the input" in run("compress", vector, vector / "x", "--to", "int8", code=5)
    assert "memory limit" in run("compress", vector, out, "--to", "int8", "--memory", 1, code=8)
    assert "one machine" in run("compress", vector, out, "--to=int8", "--ray-address=auto", code=2)
    with pytest.raises(ConfigError, match="Save it first"):
        compress(2 * TaskVector(vector), out, to="int8")
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


KILLED = """
import os, sys
from tvmerge import TaskVector
from tvmerge.compression.compressing import compress
from tvmerge.engine.run_options import RunOptions
def told(done, whole):
    if 2 * done > whole:
        os._exit(9)
compress(TaskVector(sys.argv[1]), sys.argv[2], to="int8", options=RunOptions(progress=told))
"""


def test_a_killed_run_leaves_nothing_under_the_name_and_is_done_again(
    vector: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    done = subprocess.run([sys.executable, "-c", KILLED, str(vector), str(small)], check=False)
    assert done.returncode == 9
    assert not small.exists()
    assert (tmp_path / ".small.unfinished").exists()
    assert "--restart" in run("compress", vector, small, "--to", "topk=0.5", code=5)
    run("compress", vector, small, "--to", "int8")
    assert_same(read_back(small), expected("int8"))
    run("verify", small)
    assert not list(tmp_path.glob(".*"))


def test_packed_vector_is_no_checkpoint_and_has_to_fit(vector: Path, tmp_path: Path) -> None:
    run("compress", vector, tmp_path / "small", "--to", "int8")
    with pytest.raises(ConfigError, match="is a stored task vector"):
        Checkpoint(tmp_path / "small")
    held = tensors() | {"wide": tensors()["wide"][:, :5]}
    base = Checkpoint(write_file(tmp_path / "base" / "model.safetensors", held).parent)
    with pytest.raises(MismatchError, match=r"wide: shape \[7, 3000\] in .*expected \[7, 5\]"):
        TaskVector(tmp_path / "small", base=base)


Damage = Callable[[dict[str, np.ndarray], dict[str, list[int]]], object]
DAMAGED: dict[str, tuple[str, Damage]] = {
    "a part is missing": ("do not belong together", lambda held, _: held.pop("a:values")),
    "an odd part": ("do not belong", lambda held, _: held.update({"a:x": np.zeros(1)})),
    "too many values": ("do not belong", lambda held, _: held.update({"a:values": np.zeros(101)})),
    "another shape": ("do not belong together", lambda _, shapes: shapes.update(a=[3, 300])),
    "no shape": ("has the shape -1", lambda _, shapes: shapes.update(a=-1)),  # type: ignore[call-overload]
    "no such tensor": ("does not name the tensors", lambda _, shapes: shapes.update(x=[1])),
    "too many bits": ("places of its values", lambda held, _: held["a:bitmap"].fill(255)),
    "too few bits": ("places of its values", lambda held, _: held["a:bitmap"].fill(1)),
    "a bit behind the end": ("places", lambda held, _: held["a:bitmap"].__setitem__(-1, 128)),
    "places not in order": ("places", lambda held, _: held["b:indices"].__setitem__(0, 9)),
    "the same place twice": ("places", lambda held, _: held["b:indices"].__setitem__(0, 8)),
    "a place behind the end": ("places", lambda held, _: held["b:indices"].__setitem__(1, 1000)),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_refused(kind: str, tmp_path: Path, cache: Path) -> None:
    held: dict[str, np.ndarray] = {
        "a:values": np.ones(2, np.float32),
        "a:bitmap": np.array([0, 3] + [0] * 11, np.uint8),
        "b:values": np.ones(2, np.float32),
        "b:indices": np.array([7, 8], np.uint16),
    }
    shapes = {"a": [4, 25], "b": [1000]}

    def write(folder: Path) -> Path:
        packed = VECTOR | {"tvmerge.packed": json.dumps(shapes)}
        return write_file(folder / "vector.safetensors", held, packed).parent

    sound = read_back(write(tmp_path / "sound"))
    assert np.flatnonzero(sound["a"]).tolist() == [8, 9]
    assert np.flatnonzero(sound["b"]).tolist() == [7, 8]
    message, damage = DAMAGED[kind]
    damage(held, shapes)
    with pytest.raises(FormatError, match=message):
        TaskVector(write(tmp_path / "damaged"))
    assert not any(cache.iterdir())


def test_metadata_that_is_no_json_is_refused(tmp_path: Path) -> None:
    packed = VECTOR | {"tvmerge.packed": "{"}
    write_file(tmp_path / "vector.safetensors", {"a:codes": np.zeros(1, np.int8)}, packed)
    with pytest.raises(FormatError, match=r"tvmerge\.packed is not JSON"):
        TaskVector(tmp_path)
