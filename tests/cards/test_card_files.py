"""Cards that read files by themselves (TVMERGE_GPUDIRECT). Needs a card, as test_cards.py does.

With NVIDIA's library on a card, and with the shim's: that one can fail as it is told to.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cards.card_merges import MODELS, merged, text_of
from cards.shim_build import CUFILE
from support.checkpoints import DTYPES, write_model

from tvmerge import _core
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


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """Models that are in nobody's cache."""
    generator = np.random.default_rng(5)
    for name in MODELS:
        shapes = {"norm": (33,), "layers.0.w": LARGE}
        held = {one: generator.standard_normal(shape) for one, shape in shapes.items()}
        write_model(tmp_path / name, {n: v.astype(DTYPES["BF16"]) for n, v in held.items()})
    for name in MODELS:
        file = tmp_path / name / "model.safetensors"
        for _ in range(20):  # what is still in some processor's queue stays at first
            forget(file)
            if not PageCache(file).cached_bytes(0, LARGE_BYTES + 4096):
                break
        else:
            pytest.skip("this file system keeps its files in memory")
    return tmp_path


def direct_bytes(out: Path) -> int:
    found: int = json.loads((out / "tvmerge_receipt.json").read_text())["run"]["direct_bytes"]
    return found


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp", "emr"])
def test_cold_files_are_read_by_the_card_and_come_out_alike(cold: Path, method: str) -> None:
    text = text_of(cold, method)
    found = merged(text, cold / "cuda", "cuda")
    read = 2 if method == "slerp" else 4
    assert direct_bytes(cold / "cuda") == read * LARGE_BYTES
    assert found == merged(text, cold / "cpu", "cpu")
    assert direct_bytes(cold / "cpu") == 0


def test_what_the_processor_ranks_it_reads(cold: Path) -> None:
    text = text_of(cold, "della")
    assert merged(text, cold / "cuda", "cuda") == merged(text, cold / "cpu", "cpu")


def test_what_is_cached_comes_from_there(cold: Path) -> None:
    text = text_of(cold, "task_arithmetic")
    for file in cold.rglob("*.safetensors"):
        file.read_bytes()
    merged(text, cold / "cuda", "cuda")
    assert direct_bytes(cold / "cuda") == 0


@shim_only
@pytest.mark.parametrize("most", [211, 65536])
def test_short_reads_are_gone_on_with(
    cold: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(cold, "ties")
    monkeypatch.setenv("TVMERGE_SHIM_CUFILE", f"short:{most}")
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
def test_library_that_does_not_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = shutil.copy(ASKED, tmp_path / "libcufile.so.0")  # none that is loaded already
    monkeypatch.setenv(VARIABLE, str(library))
    monkeypatch.setenv("TVMERGE_SHIM_CUFILE", "start:5003")
    try:
        with pytest.raises(DeviceError, match="does not start: cuFile error 5003, CUDA error 100"):
            open_cards("cuda")
    finally:
        close_cards()


@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("/nowhere/libcufile.so.0", "cannot open shared object file"),
        ("libm.so.6", "undefined symbol: cuFileDriverOpen"),
        (__file__, "invalid ELF header|file too short"),
    ],
)
def test_library_that_is_none_is_an_error(
    library: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, library)
    try:
        with pytest.raises(
            DeviceError, match=f"GPUDirect Storage: .*({message}).*Unset {VARIABLE}"
        ):
            open_cards("cuda")
    finally:
        close_cards()
