"""Reads and writes `results.json`: one row a line, so that it can be searched and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tvmerge.errors import FormatError
from tvmerge.training.results.results import RESULTS_VERSION, Results


def save_results(results: Results, path: Path) -> None:
    """Write the file, whole or not at all."""
    fields = [
        f"{json.dumps(name)}: {_lines(value)}"
        for name, value in results.model_dump(mode="json").items()
    ]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("{\n" + ",\n".join(fields) + "\n}\n", encoding="utf-8")
    partial.replace(path)


def load_results(path: Path) -> Results:
    """Read a `results.json`; anything else raises `FormatError`, and so does none."""
    try:
        return Results.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError(
            f"{path.parent}: holds no finished study (no {path.name}). Run it, or go on with it: "
            f"tvmerge study run STUDY.yaml {path.parent}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the top level"
        raise FormatError(
            f"{path}: not the results of a study: {first['msg']} at {where}. Expected a "
            f"results.json of version {RESULTS_VERSION}; run the study again."
        ) from error


def _lines(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)
