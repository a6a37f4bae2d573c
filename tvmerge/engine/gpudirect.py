"""GPUDirect Storage: whether cards read input files by themselves, and by which library.

It belongs to a machine, as `tvmerge bench` finds it faster there or does not, and changes no byte:
so it is a variable of the environment, which every node of a cluster may have otherwise.

    TVMERGE_GPUDIRECT=1                         by NVIDIA's libcufile, from where it is installed
    TVMERGE_GPUDIRECT=/opt/lib/libcufile.so.0   by that one
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import metadata

from tvmerge.errors import ConfigError, storage_errors
from tvmerge.files.kept import place

VARIABLE = "TVMERGE_GPUDIRECT"
OFF, ON = "0", "1"
_LIBRARY = "libcufile.so.0"
# Those of CUDA 13 and 12, either of which may have come with torch; 1.14 or later will do.
_PACKAGES = ("nvidia-cufile", "nvidia-cufile-cu12")
_LOG_VARIABLE = "CUFILE_LOGFILE_PATH"


def library() -> str:
    """The library that is asked for, or would be."""
    return asked_library() or usable_library()


def asked_library() -> str:
    """The library that cards are to read by; empty: they do not.

    Raises ConfigError for what is no answer.
    """
    asked = os.environ.get(VARIABLE, OFF)
    if asked in ("", OFF):
        return ""
    if asked == ON:
        return usable_library()
    if "/" not in asked and ".so" not in asked:
        raise ConfigError(f"{VARIABLE}={asked}: expected 0, 1 or the path of {_LIBRARY}")
    return asked


def usable_library() -> str:
    """The library that pip has installed, else its name, as the system may know it."""
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            for file in metadata.files(package) or []:
                if file.name == _LIBRARY:
                    return os.fspath(file.locate())
    return _LIBRARY


def log_elsewhere() -> None:
    """Keep the library from writing cufile.log into whatever the current folder is."""
    if _LOG_VARIABLE not in os.environ:
        folder = place().parent
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.environ[_LOG_VARIABLE] = os.fspath(folder / "cufile.log")
