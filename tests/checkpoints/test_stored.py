"""What counts as a checkpoint on disk, and every trap that an index can set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import INDEX, write_file, write_index, write_model
from support.torch_files import one_tensor, write

from tvmerge.checkpoints.stored import open_stored
from tvmerge.errors import FormatError, StorageError

TENSORS = {name: np.full((2, 3), i, np.float32) for i, name in enumerate("abcd")}
ONE = "model-00001-of-00002.safetensors"
TWO = "model-00002-of-00002.safetensors"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_model(tmp_path / "sharded", TENSORS, shards=[["a", "c"], ["b", "d"]])


def refused(path: Path, fault: str) -> None:
    with pytest.raises(FormatError) as caught:
        open_stored(path)
    message = str(caught.value)
    assert fault in message
    assert str(path) in message


def test_folder_file_and_index_name_the_same_tensors(sharded: Path, tmp_path: Path) -> None:
    single = write_model(tmp_path / "single", TENSORS)
    for path in (sharded, sharded / INDEX, single, single / "model.safetensors"):
        stored = open_stored(path)
        assert sorted(stored.slots) == list("abcd")
        assert stored.parameters == 24
        assert stored.folder in (sharded, single)
        assert not stored.is_task_vector


def test_one_safetensors_file_of_any_name_is_a_checkpoint(tmp_path: Path) -> None:
    write_file(tmp_path / "anything.safetensors", TENSORS)
    assert sorted(open_stored(tmp_path).slots) == list("abcd")


def test_links_into_a_cache_are_followed(sharded: Path, tmp_path: Path) -> None:
    """The hub's cache holds links to files with other names."""
    cache = tmp_path / "snapshot"
    cache.mkdir()
    for file in sharded.iterdir():
        (cache / file.name).symlink_to(file)
    assert sorted(open_stored(cache).slots) == list("abcd")


def test_the_same_folder_by_any_path_is_the_same_input(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(sharded)
    monkeypatch.chdir(tmp_path)
    assert open_stored("sharded") == open_stored(tmp_path / "link") == open_stored(sharded)
    assert len({open_stored("sharded"), open_stored("link"), open_stored(str(sharded))}) == 1


def test_shards_may_lie_in_a_subfolder(tmp_path: Path) -> None:
    write_file(tmp_path / "parts" / "x.safetensors", TENSORS)
    write_index(tmp_path, dict.fromkeys(TENSORS, "parts/x.safetensors"))
    assert sorted(open_stored(tmp_path).slots) == list("abcd")


def test_a_single_file_beats_a_stale_index_as_in_transformers(sharded: Path) -> None:
    write_file(sharded / "model.safetensors", {"a": TENSORS["a"]})
    assert sorted(open_stored(sharded).slots) == ["a"]


def test_the_models_index_beats_others(sharded: Path) -> None:
    write_index(sharded, {"x": "y.safetensors"}, name="other.safetensors.index.json")
    assert sorted(open_stored(sharded).slots) == list("abcd")


@pytest.mark.parametrize(
    ("weight_map", "fault"),
    [
        ({"a": ONE, "c": ONE, "b": TWO}, f"tensor 'd' of '{TWO}' is not in the weight_map"),
        ({"a": ONE, "c": ONE, "b": TWO, "d": TWO, "e": TWO}, "tensor 'e' should be in"),
        ({"a": TWO, "c": ONE, "b": TWO, "d": TWO}, f"should be in '{TWO}', but it is in '{ONE}'"),
        ({"a": "none.safetensors"}, "shard 'none.safetensors' is not there (1 missing). Fetch it"),
        ({"a": "../sharded/" + ONE}, "leaves the folder; expected a plain file name"),
        ({"a": "x/../../sharded/" + ONE}, "leaves the folder"),
        ({"a": "/etc/passwd"}, "'/etc/passwd' leaves the folder"),
        ({"a": "..\\" + ONE}, "leaves the folder"),
        ({"a": ONE + "\0"}, "leaves the folder"),
        ({"a": ""}, "leaves the folder"),
        ({"a": "."}, "is not there"),
        ({"a": "n" * 300}, "is not there"),
        ({"a": "\ud800"}, "is not there"),
        ({"a": 1}, "expected a weight_map from tensor names to file names"),
        ({}, "expected a weight_map"),
        ([], "expected a weight_map"),
        (None, "expected a weight_map"),
    ],
)  # fmt: skip
def test_an_index_that_does_not_tell_the_truth_is_refused(
    sharded: Path, weight_map: object, fault: str
) -> None:
    index = write_index(sharded, weight_map)
    refused(sharded, fault)
    refused(index, fault)


def test_a_file_that_the_index_does_not_name_is_no_part_of_the_model(sharded: Path) -> None:
    write_index(sharded, {"a": ONE, "c": ONE})
    assert sorted(open_stored(sharded).slots) == ["a", "c"]


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    write_file(sharded / TWO, TENSORS)
    refused(sharded, f"tensor 'a' is in '{ONE}' and '{TWO}'")


def test_a_damaged_shard_is_named(sharded: Path) -> None:
    content = (sharded / TWO).read_bytes()
    (sharded / TWO).write_bytes(content[:-4])
    refused(sharded, f"{TWO}: not a valid safetensors file")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b"7" * 5000, b"[" * 100_000, b'{"weight_map": 1}']
)
def test_a_damaged_index_is_refused(sharded: Path, content: bytes) -> None:
    (sharded / INDEX).write_bytes(content)
    refused(sharded, str(sharded / INDEX))


def test_several_indices_without_the_models_are_refused(sharded: Path) -> None:
    text = (sharded / INDEX).read_text()
    (sharded / INDEX).unlink()
    for name in ("x", "y"):
        (sharded / f"{name}.safetensors.index.json").write_text(text)
    refused(sharded, "2 indices (x.safetensors.index.json, y.safetensors.index.json): name the")
    assert len(open_stored(sharded / "x.safetensors.index.json").slots) == 4


def test_several_files_without_an_index_are_refused(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    refused(sharded, f"2 files of weights ({ONE}, {TWO}) and no *.safetensors.index.json that says")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "state.pth", "v1.ckpt"])
def test_a_state_dict_of_torch_is_a_checkpoint(name: str, tmp_path: Path) -> None:
    for other in ("optimizer.pt", "training_args.bin", "rng_state_0.pth", "scheduler.pt"):
        (tmp_path / other).write_bytes(b"no weights")
    path = write(tmp_path / name, one_tensor())
    for place in (tmp_path, path):
        assert list(open_stored(place).slots) == ["a"]
        assert open_stored(place).is_one_file == (place == path)
    # A link into the hub's cache has no ending.
    path.rename(tmp_path / "0f1e2d")
    path.symlink_to("0f1e2d")
    assert list(open_stored(tmp_path).slots) == list(open_stored(path).slots) == ["a"]


def test_safetensors_beat_pickled_weights_and_these_others(sharded: Path) -> None:
    write(sharded / "pytorch_model.bin", one_tensor())
    assert sorted(open_stored(sharded).slots) == list("abcd")
    for path in sharded.glob("*.safetensors*"):
        path.unlink()
    write(sharded / "openvino_model.bin", b"of another program")
    assert list(open_stored(sharded).slots) == ["a"]
    (sharded / "pytorch_model.bin").rename(sharded / "x.bin")
    refused(sharded, "2 files of weights (openvino_model.bin, x.bin) and no *.bin.index.json")


def test_a_folder_without_weights_is_refused_with_what_to_do(tmp_path: Path) -> None:
    refused(tmp_path, "expected *.safetensors or pytorch_model.bin, found an empty folder")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    refused(tmp_path, "expected *.safetensors or pytorch_model.bin, found model.gguf. Convert")


def test_a_path_that_is_not_there_is_refused_with_what_to_do(tmp_path: Path) -> None:
    refused(tmp_path / "typo", "no such file or folder")
    refused(tmp_path / ("n" * 300), "no such file or folder")
    (tmp_path / "circle").symlink_to("circle")
    refused(tmp_path / "circle", "no such file or folder")
    refused(tmp_path / "a\0b", "no such file or folder")


def test_what_may_be_a_model_of_the_hub_is_told_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(Path("org/name"), "(hf download org/name)")
    with pytest.raises(FormatError) as caught:
        open_stored(tmp_path / "typo")
    assert "hf download" not in str(caught.value)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / os.fsdecode(b"\xff"), TENSORS)
    with pytest.raises(FormatError, match=r"the name is not UTF-8\. Rename it"):
        open_stored(folder)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    refused(path, "not a valid safetensors file")


def test_an_index_that_cannot_be_read_is_a_storage_error(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    (sharded / INDEX).mkdir()
    with pytest.raises(StorageError, match="cannot read: Is a directory"):
        open_stored(sharded)
