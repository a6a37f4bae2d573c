"""What an import or a bare command may load: nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import tvmerge

HEAVY = ("torch", "transformers", "ray", "numpy", "huggingface_hub")
# Loaded by the commands that need them only.
LATER = (*HEAVY, "pydantic", "yaml", "rich", "tvmerge._core")


def loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_nothing_heavy() -> None:
    assert not loaded_after("import tvmerge").intersection(LATER)


def test_every_public_name_loads_without_heavy_packages() -> None:
    modules = loaded_after("from tvmerge import *\nassert Checkpoint and gram and MergeReport")
    assert not modules.intersection(HEAVY)
    assert "tvmerge._core" in modules


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_bare_command_loads_nothing_heavy(option: str) -> None:
    modules = loaded_after(
        f"import tvmerge.cli\ntvmerge.cli.cli.main([{option!r}], standalone_mode=False)"
    )
    assert not modules.intersection(LATER)


@pytest.mark.parametrize(
    "command",
    [
        "vector",
        "apply",
        "merge",
        "sweep",
        "inspect",
        "verify",
        "diff",
        "plan",
        "bench",
        "devices",
        "study",
    ],
)
def test_subcommands_load_neither_torch_nor_numpy(command: str) -> None:
    call = f"tvmerge.cli.cli.main([{command!r}, '--help'], standalone_mode=False)"
    assert not loaded_after(f"import tvmerge.cli\n{call}").intersection(HEAVY)


def test_public_names_are_those_listed() -> None:
    assert all(getattr(tvmerge, name) is not None for name in tvmerge.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Chekpoint'"):
        tvmerge.Chekpoint  # noqa: B018
