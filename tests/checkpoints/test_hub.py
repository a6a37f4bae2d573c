"""Models by name: a path where one exists, else the Hugging Face hub, never a silent guess."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest

from tvmerge.checkpoints.hub import resolve
from tvmerge.errors import FormatError


def test_existing_path_wins_over_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("org/name").mkdir(parents=True)
    assert resolve("org/name") == Path("org/name")
    # A mistyped name in an existing folder is for the reader to refuse, not for the hub.
    assert resolve("org/nane") == Path("org/nane")
    assert resolve("./absent") == Path("absent")


def test_hub_id_without_huggingface_hub_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FormatError, match=r"pip install 'tvmerge\[hub\]'"):
        resolve("org/name")


def fake_hub(download: Callable[..., str]) -> dict[str, ModuleType]:
    hub, inner = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.utils")
    hub.snapshot_download = download  # type: ignore[attr-defined]
    inner.disable_progress_bars = lambda: None  # type: ignore[attr-defined]
    return {"huggingface_hub": hub, "huggingface_hub.utils": inner}


def test_hub_id_is_fetched_with_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, object]] = []
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").touch()

    def download(name: str, **options: object) -> str:
        asked.append((name, options["revision"]))
        return str(tmp_path / "snapshot")

    for name, module in fake_hub(download).items():
        monkeypatch.setitem(sys.modules, name, module)
    assert resolve("org/name@v1.0") == tmp_path / "snapshot"
    assert resolve("org/name") == tmp_path / "snapshot"
    assert list(dict.fromkeys(asked)) == [("org/name", "v1.0"), ("org/name", None)]


HELD = {
    "org/new": ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx"],
    "org/old": ["config.json", "pytorch_model.bin", "training_args.bin"],
    "org/pipeline": [
        "model_index.json", "v1-5-pruned.safetensors", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin", "tokenizer/merges.txt", "vae/openvino/x.bin",
    ],
    "org/old-pipeline": ["model_index.json", "v1-5-pruned.ckpt", "vae/diffusion_pytorch_model.bin"],
}  # fmt: skip
FETCHED = {
    "org/new": ["config.json", "model.safetensors"],
    "org/old": ["config.json", "pytorch_model.bin"],
    "org/pipeline": [
        "model_index.json", "tokenizer/merges.txt", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ],
    "org/old-pipeline": ["model_index.json", "vae/diffusion_pytorch_model.bin"],
}  # fmt: skip


@pytest.mark.parametrize("name", HELD)
def test_of_a_model_that_is_there_several_times_one_is_fetched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "hub" / name

    def download(_name: str, **options: list[str]) -> str:
        for file in HELD[name]:
            asked = any(fnmatch(file, pattern) for pattern in options["allow_patterns"])
            if asked and not any(fnmatch(file, p) for p in options["ignore_patterns"]):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).touch()
        return str(folder)

    for module_name, module in fake_hub(download).items():
        monkeypatch.setitem(sys.modules, module_name, module)
    found = [path for path in resolve(name).rglob("*") if path.is_file()]
    assert sorted(path.relative_to(folder).as_posix() for path in found) == FETCHED[name]


def test_hub_that_fails_is_one_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def download(name: str, **options: object) -> str:
        raise ConnectionError("offline mode is enabled.\nmore lines")

    for name, module in fake_hub(download).items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(FormatError, match=r"did not give it: offline mode is enabled\. Correct"):
        resolve("org/name")


def test_base_with_an_adapter_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base").mkdir()
    with pytest.raises(FormatError, match=r"in recipes only\. Here, name the adapter"):
        resolve("base+adapter")
