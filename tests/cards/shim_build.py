"""Builds the engine, its kernels for cards run by the processor (cuda_shim), with g++ alone.

Every build is one of a copy of the sources, so that files may be edited meanwhile, and mutants are
copies too. Objects are kept under a hash of all that they are made of: what is built a second time
is only linked, and a mutant compiles what includes its mutated file. Several processes may build at
once: they wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pybind11

ROOT = Path(__file__).resolve().parents[2]
BUILDS = ROOT / "build" / "shim-tests"
ENGINE = tuple(
    f"csrc/{name}" for name in ("core", "kernels", "files", "engine", "passes", "cards", "bindings")
)
FOLDERS = (*ENGINE, "csrc/cuda", "tests/cards/cuda_shim", "tests/cards/cuda_kernels")
LANGUAGE = ("-std=c++17", "-ffp-contract=off", "-fno-strict-aliasing", "-pthread")
# Both programs are made of the same objects.
OPTIMISED = ("-O2", "-fPIC", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}")
SANITIZED = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
             "-fno-sanitize-recover=all")  # fmt: skip
CUFILE = "libcufile.cpp"
KEPT_SECONDS = 7 * 24 * 3600

# A folder, a text that its files have once in all, and what takes its place. White space is as it
# may be, so that formatting and moving code leaves mutants what they are.
Mutation = tuple[str, str, str]


def module(mutation: Mutation | None = None) -> Path:
    """The folder of a native module whose cards are the shim's.

    It has the plain kernels only: that all instruction sets give the same bits is tested elsewhere.
    """
    with _copy(mutation) as tree:
        folders = (*ENGINE, "csrc/cuda", "tests/cards/cuda_shim")
        sources = [path for folder in folders for path in _sources(tree, folder)]
        others = ("no_cuda.cpp", "kernels_avx2.cpp", "kernels_avx512.cpp")
        sources = [path for path in sources if path.name not in others]
        objects = _compiled(tree, sources, OPTIMISED)
        name = f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
        return _linked(name, objects, ("-shared", "-pthread")).parent


def cufile() -> Path:
    """A library in place of NVIDIA's, by which the shim's cards read files."""
    with _copy(None) as tree:
        objects = _compiled(tree, [tree / "tests/cards/cuda_shim" / CUFILE], OPTIMISED)
        return _linked("libcufile.so.0", objects, ("-shared",))


def kernel_tests(flags: Sequence[str], mutation: Mutation | None = None) -> Path:
    """The program of cuda_kernels: kernels that are called without an engine around."""
    with _copy(mutation) as tree:
        sources = [tree / "csrc/kernels" / f"{name}.cpp" for name in ("kernels", "kernels_generic")]
        for folder in ("csrc/cuda", "tests/cards/cuda_shim", "tests/cards/cuda_kernels"):
            sources += _sources(tree, folder)
        return _linked("kernel_tests", _compiled(tree, sources, flags), (*flags, "-pthread"))


class BuildError(Exception):
    """What the compiler said."""


def _sources(tree: Path, folder: str) -> list[Path]:
    found = sorted((tree / folder).glob("*.c*"))
    apart = ("selftest.cu", "selftest_streams.cu", CUFILE)
    return [path for path in found if path.suffix != ".cuh" and path.name not in apart]


@contextmanager
def _copy(mutation: Mutation | None) -> Iterator[Path]:
    """A copy of all sources, while no other process builds."""
    BUILDS.mkdir(parents=True, exist_ok=True)
    with (BUILDS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree = BUILDS / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        for folder in FOLDERS:
            (tree / folder).mkdir(parents=True)
            for path in (ROOT / folder).iterdir():
                if path.is_file():
                    shutil.copy(path, tree / folder)
        if mutation is not None:
            mutate(tree, mutation)
        yield tree
        for path in (BUILDS / "kept").rglob("*"):
            if path.is_file() and path.stat().st_mtime < time.time() - KEPT_SECONDS:
                path.unlink()


def mutate(tree: Path, mutation: Mutation) -> None:
    folder, old, new = mutation
    pattern = re.compile(r"\s+".join(map(re.escape, old.split())))
    paths = [path for path in sorted((tree / folder).iterdir()) if path.is_file()]
    found = {path: len(pattern.findall(path.read_text())) for path in paths}
    if sum(found.values()) != 1:
        where = [path.name for path in paths if found[path]]
        raise BuildError(f"{folder}: {old!r} is in {where}, expected once in all")
    (path,) = (path for path in paths if found[path])
    path.write_text(pattern.sub(lambda _: new, path.read_text()))


def _compiled(tree: Path, sources: Sequence[Path], flags: Sequence[str]) -> list[Path]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda source: _object(tree, source, flags), sources))


def _object(tree: Path, source: Path, flags: Sequence[str]) -> Path:
    command = ["g++", *LANGUAGE, *flags, f"-I{tree}/csrc", f"-I{tree}/tests/cards/cuda_shim"]
    name = source.relative_to(tree).as_posix()
    # The files that went into it last time: as they were, it would be the same again.
    record = BUILDS / "kept" / _hash([" ".join(flags).encode()]) / f"{name}.files"
    if record.exists():
        kept = _place(tree, record.read_text().split(), flags)
        if kept is not None and kept.exists():
            kept.touch()
            return kept
    made = source.with_suffix(".o")
    listed = source.with_suffix(".d")
    what = ["-xc++", "-c", str(source), "-o", str(made), "-MMD", "-MF", str(listed)]
    _run([*command, *what])
    rule = listed.read_text().replace("\\\n", " ").split(":", 1)[1]
    paths = [Path(path).resolve() for path in rule.split()]
    names = sorted(str(path.relative_to(tree)) for path in paths if path.is_relative_to(tree))
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("\n".join(names))
    kept = _place(tree, names, flags)
    assert kept is not None
    kept.parent.mkdir(parents=True, exist_ok=True)
    made.rename(kept)
    return kept


def _place(tree: Path, names: Sequence[str], flags: Sequence[str]) -> Path | None:
    """Where the object of these files is kept; null if one of them is gone."""
    if not all((tree / name).exists() for name in names):
        return None
    texts = [name.encode() + b"\0" + (tree / name).read_bytes() for name in names]
    return BUILDS / "kept" / f"{_hash([*texts, ' '.join(flags).encode()])}.o"


def _linked(name: str, objects: Sequence[Path], flags: Sequence[str]) -> Path:
    key = _hash([path.name.encode() for path in objects])
    made = BUILDS / "kept" / key / name
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        partial = made.with_suffix(".partial")
        _run(["g++", *flags, *map(str, objects), "-o", str(partial)])
        partial.rename(made)
    made.touch()
    return made


def _hash(texts: Sequence[bytes]) -> str:
    state = hashlib.sha256()
    for text in texts:
        state.update(len(text).to_bytes(8, "little") + text)
    return state.hexdigest()[:24]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command)}\n{done.stderr[-4000:]}")


def environment(core: Path, **settings: str) -> dict[str, str]:
    """Of a Python that loads that module, and whose cards are as the settings say."""
    rest = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TVMERGE_"))}
    settings = {f"TVMERGE_SHIM_{name}": value for name, value in settings.items()}
    folders = f"{ROOT / 'tests' / 'sanitizers'}:{ROOT / 'tests'}"
    return {**rest, **settings, "TVMERGE_CORE": str(core), "PYTHONPATH": folders}


if __name__ == "__main__":
    sys.stdout.write(f"{module()}\n{kernel_tests(OPTIMISED)}\n")
