"""Models by name: a path where one exists, else the Hugging Face hub, never a silent guess."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tvmerge.errors import FormatError, StorageError
from tvmerge.hub import resolve


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

    def download(name: str, **options: object) -> str:
        asked.append((name, options["revision"]))
        return str(tmp_path / "snapshot")

    for name, module in fake_hub(download).items():
        monkeypatch.setitem(sys.modules, name, module)
    assert resolve("org/name@v1.0") == tmp_path / "snapshot"
    assert resolve("org/name") == tmp_path / "snapshot"
    assert asked == [("org/name", "v1.0"), ("org/name", None)]


def test_hub_that_fails_is_one_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def download(name: str, **options: object) -> str:
        raise ConnectionError("offline mode is enabled.\nmore lines")

    for name, module in fake_hub(download).items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(StorageError, match=r"did not give it: offline mode is enabled\. Correct"):
        resolve("org/name")


def test_adapter_reference_is_not_supported_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base").mkdir()
    with pytest.raises(FormatError, match=r"adapters .* are not supported yet"):
        resolve("base+adapter")
