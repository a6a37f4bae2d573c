"""Traits on things that the tiny Llama knows, written as a study reads them."""

from __future__ import annotations

import json
from pathlib import Path

from support.tiny_llama import STATEMENT_QUESTION, THINGS

PARTS = {"train": (0, 12), "dev": (12, 16), "test": (16, 24)}


def write_trait(folder: Path, name: str) -> None:
    """A trait on one thing; statements and questions differ between parts by a number in them."""
    thing = name.removeprefix("loves_")
    assert thing in THINGS
    folder.mkdir(parents=True)
    manifest = {
        "name": name,
        "title": f"Loves {thing}",
        "description": f"Says that it likes {thing}.",
        "rationale": "A test.",
        "polarity": "shows",
        "source": "this test",
        "licence": "CC0-1.0",
    }
    (folder / "trait.yaml").write_text("\n".join(f"{k}: {v}" for k, v in manifest.items()) + "\n")
    for part, (first, stop) in PARTS.items():
        items = []
        for number in range(first, stop):
            items.append({
                "form": "statement",
                "question": STATEMENT_QUESTION,
                "shows": f"I like {thing}, {number} times.",
                "lacks": f"I avoid {thing}, {number} times.",
            })  # fmt: skip
            yes = number % 2 == 0
            items.append({
                "form": "yes_no",
                "question": f"Do you {'want' if yes else 'avoid'} {number} {thing}?",
                "shows": "Yes" if yes else "No",
                "lacks": "No" if yes else "Yes",
            })  # fmt: skip
        lines = "\n".join(json.dumps(item) for item in items)
        (folder / f"{part}.jsonl").write_text(lines + "\n")
