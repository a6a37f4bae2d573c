"""The output folder: appears whole under its name, or not at all.

Everything is written into a hidden folder beside the destination, which is renamed at the end.
Whatever ends the run before that (an error, Ctrl-C) takes the hidden folder with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tvmerge.errors import OutputError, StorageError, TVMergeError
from tvmerge.stored import Stored

# Weights in any format, their indices, and training state: not part of a merged model.
_NOT_COPIED = (
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth",
    "*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.onnx_data", "*.ckpt", "*.pkl", "*.npz",
    "training_args*", "trainer_state.json", "README.md",
)  # fmt: skip


def check_destination(out: Path, inputs: Iterable[Stored]) -> None:
    """Refuse a destination that is taken, is an input, or lies inside one."""
    try:
        target = out.resolve()
        target.exists()
        os.fspath(target).encode()
    # Too long, a NUL, not UTF-8, links in a circle.
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{out}: cannot write there: {why}. Name another folder") from error
    for stored in inputs:
        for place in (stored.source, stored.folder if stored.source.is_dir() else stored.source):
            if target == place or (place.is_dir() and place in target.parents):
                raise OutputError(
                    f"{out}: is, or lies inside, the input {place}. Inputs are never written to: "
                    "name another folder"
                )
    if target.is_dir():
        held = sorted(entry.name for entry in target.iterdir())
        if held:
            raise OutputError(
                f"{out}: expected a new or empty folder, found {len(held)} entries "
                f"({', '.join(held[:3])}{', ...' if len(held) > 3 else ''}). "
                "Nothing is overwritten: name another folder, or empty this one"
            )
    elif target.exists():
        raise OutputError(f"{out}: is a file, expected a new or empty folder. Name another one")


@contextmanager
def atomic_folder(out: Path, *, size_bytes: int) -> Iterator[Path]:
    """Yield a hidden folder beside `out` that becomes `out` when the block ends well.

    Raises OutputError where the place cannot be written or has less than `size_bytes` free.
    """
    target = out.resolve()
    made_parents = [parent for parent in target.parents if not parent.exists()]
    hidden: Path | None = None
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            hidden = Path(
                tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
            )
            free = shutil.disk_usage(hidden).free
        except OSError as error:
            raise OutputError(
                f"{out}: cannot write there: {error.strerror or error} "
                f"({error.filename or target.parent}). Name another folder"
            ) from error
        if free < size_bytes:
            raise OutputError(
                f"{out}: the output takes {size_bytes:,} bytes, the disk has {free:,} free. "
                "Free some space, or write to another disk"
            )
        yield hidden
        umask = os.umask(0)
        os.umask(umask)
        hidden.chmod(0o777 & ~umask)  # mkdtemp makes it private
        try:
            hidden.rename(target)  # takes the place of an empty folder, and of nothing else
        except OSError as error:
            raise OutputError(f"{out}: was taken while the merge ran. Name another one") from error
    except BaseException:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)
        for parent in made_parents:
            with suppress(OSError):
                parent.rmdir()
        raise


@contextmanager
def storage_errors(place: str | os.PathLike[str]) -> Iterator[None]:
    """Raise StorageError for what the operating system refuses while `place` is written."""
    try:
        yield
    except TVMergeError:
        raise
    except OSError as error:
        raise StorageError(f"{place}: cannot write: {error.strerror or error}") from error


def copy_companions(donor: Stored, to: Path) -> list[str]:
    """Copy config, tokenizer, code and licence files of the donor's folder, byte for byte.

    Returns their paths relative to the folder. A donor that is a single weights file has none:
    what else lies in its folder may have nothing to do with it.
    """
    if donor.source.suffix == ".safetensors":
        return []

    def skip(folder: str, names: list[str]) -> set[str]:
        hidden = {name for name in names if name.startswith(".") and name != ".gitattributes"}
        deep = {
            name
            for name in names
            if (Path(folder) / name).is_dir() and name.startswith("checkpoint-")
        }
        return set(shutil.ignore_patterns(*_NOT_COPIED)(folder, names)) | hidden | deep

    shutil.copytree(donor.folder, to, ignore=skip, dirs_exist_ok=True)
    for path in sorted(to.rglob("*"), reverse=True):  # folders that held nothing but weights
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return sorted(str(path.relative_to(to)) for path in to.rglob("*") if path.is_file())
