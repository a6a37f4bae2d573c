"""What a built wheel holds, and that the study is importable under its one name only."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_has_one_top_level_package_with_the_study_and_its_traits(tmp_path: Path) -> None:
    # Without the native module, which takes minutes: the editable install that runs these tests was
    # made by the same rules, and has it.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path)]
    subprocess.run([*command, "--config-settings=wheel.cmake=false", str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("tvmerge-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top_level = {name.partition("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"tvmerge"}
    for wanted in (
        "tvmerge/training/study/study.py",
        "tvmerge/training/catalogue/power_seeking/train.jsonl",
        "tvmerge/training/heldout/moby_dick.txt",
        "tvmerge/_core.pyi",
        "tvmerge/py.typed",
    ):
        assert wanted in names
    assert any(name.endswith(".jinja") for name in names)


def test_the_study_refuses_to_be_imported_under_another_name() -> None:
    spec = importlib.util.spec_from_file_location("training", ROOT / "training" / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.raises(ImportError, match=r"this package is tvmerge\.training"):
        spec.loader.exec_module(module)
