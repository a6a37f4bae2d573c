"""Cards that read files by themselves (TVMERGE_GPUDIRECT). Needs a card, as test_cards.py does.

With NVIDIA's library on a card, and with the shim's: that one can fail as it is told to.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from cards.card_merges import MODELS, merged, text_of
from cards.shim_build import CUFILE
from support.checkpoints import DTYPES, write_model

from tvmerge import _core
from tvmerge.engine import run_options
from tvmerge.engine.devices import close_cards, open_cards
from tvmerge.engine.gpudirect import VARIABLE
from tvmerge.errors import DeviceError, StorageError
from tvmerge.files.page_cache import PageCache, forget

ASKED = os.environ.get(VARIABLE, "")
SHIM = ASKED.endswith(Path(CUFILE).stem + ".so.0")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _core.cards(), reason=f"no card: {_core.cuda_problem()}"),
    pytest.mark.skipif(not ASKED, reason=f"{VARIABLE} is not set"),
]
shim_only = pytest.mark.skipif(not SHIM, reason="NVIDIA's library fails when it likes")
# Of bfloat16, beside a small one: so large that measuring's sample of it leaves most on the disk.
LARGE = (576, 1024)
LARGE_BYTES = 576 * 1024 * 2
COPIED_BYTES = 400_000


@pytest.fixture
def cold(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Models that are in nobody's cache, of which no test before has left anything on a card."""
    return cold_models(tmp_path, zlib.crc32(request.node.name.encode()))


def cold_models(folder: Path, seed: int) -> Path:
    generator = np.random.default_rng(seed)
    for name in MODELS:
        (folder / name / "model.safetensors").unlink(missing_ok=True)
        shapes = {"norm": (33,), "layers.0.w": LARGE}
        held = {
            one: generator.standard_normal(shape).astype(DTYPES["BF16"])
            for one, shape in shapes.items()
        }
        copied = {"ids": np.arange(COPIED_BYTES // 8)}
        write_model(folder / name, held | copied)
    for name in MODELS:
        file = folder / name / "model.safetensors"
        for _ in range(20):  # what is still in some processor's queue stays at first
            forget(file, flush=True)
            if not PageCache(file).cached_bytes(0, file.stat().st_size):
                break
        else:
            pytest.skip("this file system keeps its files in memory")
    return folder


def direct_bytes(out: Path) -> int:
    found: int = json.loads((out / "tvmerge_receipt.json").read_text())["run"]["direct_bytes"]
    return found


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp", "emr"])
def test_cold_files_are_read_by_the_card_and_come_out_alike(cold: Path, method: str) -> None:
    text = text_of(cold, method)
    found = merged(text, cold / "cuda", "cuda")
    assert found == merged(text, cold / "cpu", "cpu")
    assert direct_bytes(cold / "cpu") == 0
    read = direct_bytes(cold / "cuda")
    if not SHIM and read == 0:
        pytest.skip("NVIDIA's library takes no file of this file system")
    assert read == (2 if method == "slerp" else 4) * LARGE_BYTES


@pytest.mark.skipif(len(_core.cards()) < 2, reason="one card only")
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_two_cards_read_each_its_share(cold: Path, method: str) -> None:
    text = text_of(cold, method)
    found = merged(text, cold / "cuda", "cuda:0,1", threads=4)
    # What one card has measured the other one may sum, and reads again.
    assert direct_bytes(cold / "cuda") >= 4 * LARGE_BYTES
    assert found == merged(text, cold / "cpu", "cpu")


@pytest.mark.parametrize("method", ["task_arithmetic", "della"])
def test_what_the_processor_reads_leaves_the_cache_where_that_is_asked(
    cold: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_options, "_available_bytes", lambda: 1)
    text = text_of(cold, method)
    found = merged(text, cold / "cuda", "cuda")
    for name in MODELS:
        # Left are the header and pages that two ranges share.
        cache = PageCache(cold / name / "model.safetensors")
        assert cache.cached_bytes(0, cache.size_bytes) <= 10 * 4096
    assert found == merged(text, cold / "cpu", "cpu")


def test_files_that_took_the_place_of_others_are_read_by_the_next_merge(cold: Path) -> None:
    text = text_of(cold, "task_arithmetic")
    before = merged(text, cold / "before", "cuda")
    cold_models(cold, 6)
    after = merged(text, cold / "after", "cuda")
    assert direct_bytes(cold / "after") == 4 * LARGE_BYTES
    assert before != after == merged(text, cold / "cpu", "cpu")


def test_what_the_processor_ranks_it_reads(cold: Path) -> None:
    text = text_of(cold, "della")
    assert merged(text, cold / "cuda", "cuda") == merged(text, cold / "cpu", "cpu")


@pytest.mark.skipif(
    tuple(map(int, re.findall("[0-9]+", os.uname().release)[:2])) < (6, 5),
    reason="this kernel does not tell what is cached",
)
def test_what_is_cached_comes_from_there(cold: Path) -> None:
    text = text_of(cold, "task_arithmetic")
    for file in cold.rglob("*.safetensors"):
        file.read_bytes()
    merged(text, cold / "cuda", "cuda")
    assert direct_bytes(cold / "cuda") == 0


@shim_only
@pytest.mark.parametrize("fault", ["short:211", "short:65536", "again:3"])
def test_reads_that_stop_early_are_gone_on_with(
    cold: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(cold, "ties")
    monkeypatch.setenv("TVMERGE_SHIM_CUFILE", fault)
    assert merged(text, cold / "cuda", "cuda") == merged(text, cold / "cpu", "cpu")
    assert direct_bytes(cold / "cuda") == 4 * LARGE_BYTES


@shim_only
@pytest.mark.parametrize(("every", "share"), [(1, 0), (2, None)])
def test_file_that_is_not_taken_is_read_as_ever(
    cold: Path, every: int, share: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(cold, "ties")
    monkeypatch.setenv("TVMERGE_SHIM_CUFILE", f"refuse:{every}")
    assert merged(text, cold / "cuda", "cuda") == merged(text, cold / "cpu", "cpu")
    read = direct_bytes(cold / "cuda")
    assert read == 0 if share == 0 else 0 < read < 4 * LARGE_BYTES


@shim_only
@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("error:5011", DeviceError, r"a card cannot read at byte [0-9]+: cuFile error 5011"),
        ("error:1", StorageError, r"a card cannot read at byte [0-9]+: Input/output error"),
        ("end:0", StorageError, r"no data at byte [0-9]+, .* it became shorter during the run"),
    ],
)
def test_read_that_fails_is_an_error_and_leaves_no_output(
    cold: Path, what: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TVMERGE_SHIM_CUFILE", what)
    text = text_of(cold, "ties")
    with pytest.raises(error, match=message) as raised:
        merged(text, cold / "cuda", "cuda")
    if what.startswith("error"):
        assert f"Unset {VARIABLE}" in str(raised.value)
    assert not (cold / "cuda").exists()
    monkeypatch.delenv("TVMERGE_SHIM_CUFILE")
    assert merged(text, cold / "cuda", "cuda") == merged(text, cold / "cpu", "cpu")


@shim_only
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("start:5003", "does not start: cuFile error 5003, CUDA error 100"),
        ("start:5001", "does not start: cuFile error 5001, the driver nvidia-fs is not loaded"),
        ("open:1", "is in use already, by another part of this process"),
    ],
)
def test_library_that_does_not_start_is_an_error(
    tmp_path: Path, fault: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = shutil.copy(ASKED, tmp_path / "libcufile.so.0")  # none that is loaded already
    monkeypatch.setenv(VARIABLE, str(library))
    monkeypatch.setenv("TVMERGE_SHIM_CUFILE", fault)
    try:
        with pytest.raises(DeviceError, match=message):
            open_cards("cuda")
    finally:
        close_cards()


@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("/nowhere/libcufile.so.0", "cannot open shared object file"),
        (f"{ctypes.util.find_library('m')}", "undefined symbol: cuFileDriverOpen"),
        (__file__, "invalid ELF header|file too short"),
    ],
)
def test_library_that_is_none_is_an_error(
    library: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, library)
    try:
        with pytest.raises(DeviceError, match=f"GPUDirect Storage: .*({message})"):
            open_cards("cuda")
    finally:
        close_cards()
