"""GPUDirect Storage from outside: which library, what bench and devices say. By the host shim."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from cards import shim_build
from support.checkpoints import write_model

from tvmerge.engine.devices import open_cards
from tvmerge.engine.gpudirect import VARIABLE, asked_library, library, log_elsewhere
from tvmerge.errors import ConfigError

LOG = "CUFILE_LOGFILE_PATH"


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG, "")  # undone afterwards
    monkeypatch.delenv(LOG)


def install(folder: Path, package: str, library: str) -> None:
    """What pip notes of a package with that file."""
    noted = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    noted.mkdir(parents=True)
    (noted / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (noted / "RECORD").write_text(f"nvidia/include/cufile.h,,\n{library},,\n")


@pytest.mark.parametrize("off", [None, "", "0"])
def test_cards_read_nothing_unless_asked(off: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if off is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, off)
    assert asked_library() == ""


@pytest.mark.parametrize(
    ("package", "path"),
    [
        ("nvidia-cufile", "nvidia/cu13/lib/libcufile.so.0"),
        ("nvidia-cufile-cu12", "nvidia/cufile/lib/libcufile.so.0"),
    ],
)
def test_library_of_pip_is_found(
    package: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, package, path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, "1")
    assert asked_library() == library() == str(tmp_path / path)


def test_library_of_the_system_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_name: str) -> None:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "files", none)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert (asked_library(), library()) == ("", "libcufile.so.0")


def test_library_is_named_and_logs_where_it_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(VARIABLE, "/opt/libcufile.so.0")
    assert asked_library() == "/opt/libcufile.so.0"
    assert LOG not in os.environ
    log_elsewhere()
    assert Path(os.environ[LOG]).parent == tmp_path / "cache"
    assert (tmp_path / "cache").is_dir()
    monkeypatch.setenv(LOG, "elsewhere.log")
    log_elsewhere()
    assert os.environ[LOG] == "elsewhere.log"


@pytest.mark.parametrize("answer", ["yes", "on", "2", "libcufile"])
def test_what_is_no_library_is_refused(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, answer)
    with pytest.raises(ConfigError, match=f"{VARIABLE}={answer}: expected 0, 1 or the path of"):
        asked_library()
    assert open_cards("cpu") == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("", None),
        ("start:5003", "does not start: cuFile error 5003"),
        ("refuse:1", "the library took none of these files"),
    ],
)
def test_bench_says_whether_it_is_worth_it(fault: str, problem: str | None, tmp_path: Path) -> None:
    held, place = str(shim_build.cufile()), tmp_path / "place"
    place.mkdir()
    install(tmp_path / "packages", "nvidia-cufile", held)
    environment = shim_build.environment(shim_build.module(), CUFILE=fault)
    environment["PYTHONPATH"] += f":{tmp_path / 'packages'}"

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "tvmerge", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=500, check=True
        ).stdout

    arguments = ["bench", "--device", "cuda", "--memory-device", "64", "--rounds", "1"]
    arguments += ["--dir", str(place)]
    for seed, name in enumerate(("base", "tuned")):
        generator = np.random.default_rng(seed)
        one = {"layers.0.w": generator.standard_normal((576, 1024)).astype(np.float32)}
        arguments.append(str(write_model(tmp_path / name, one)))
    found = json.loads(run(*arguments, "--json"))
    names = [one["name"] for one in found["contenders"]]
    direct = found["gpudirect"]
    if problem is None:
        assert names[3:5] == ["tvmerge, cold", "tvmerge, cold, GPUDirect"]
        assert direct["problem"] is None and direct["ratio"] > 0
        said = run(*arguments)
        assert "GPUDirect Storage: tvmerge, cold, GPUDirect takes" in said
        assert ("TVMERGE_GPUDIRECT=1" in said) != ("Leave it off" in said)
    else:
        assert problem in direct["problem"] and direct["ratio"] is None
        assert ("tvmerge, cold" in names) == fault.startswith("refuse")
    assert list(place.iterdir()) == []
    assert "GPUDirect Storage: off. " in run("devices")
    environment[VARIABLE] = "1"
    assert f"files that are not cached are read by {held}" in run("devices")
