"""The JSON schema of `results.json`, for whoever reads it with other tools.

python -m tvmerge.training.results.results_schema > docs/results.schema.json
"""

from __future__ import annotations

import json
import sys

from tvmerge.training.results.results import Results


def to_text() -> str:
    """The schema as it is kept in docs/ (draft 2020-12)."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Results.model_json_schema(mode="serialization"),
        "title": "The results of a study of tvmerge",
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(to_text())
