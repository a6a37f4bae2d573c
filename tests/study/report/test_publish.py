"""A study's model goes to the hub with a card that says what failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from click.testing import CliRunner
from study.synthetic_study import synthetic_results

from tvmerge.errors import ConfigError, StorageError
from tvmerge.training.cli import study
from tvmerge.training.results.results_file import save_results
from tvmerge.training.study.publish import prepare_upload, publish


@pytest.fixture
def out(tmp_path: Path) -> Path:
    results = synthetic_results(draws=200)
    save_results(results, tmp_path / "results.json")
    (tmp_path / "report.html").write_text("<p>report</p>")
    model = tmp_path / "models" / "contrastive"
    model.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "README.md"):
        (model / name).write_text(name)
    return tmp_path


def test_a_dry_run_lists_the_files_and_shows_the_card(out: Path) -> None:
    said = CliRunner().invoke(study, ["publish", str(out), "contrastive", "me/x", "--dry-run"])
    assert said.exit_code == 0, said.output
    for name in ("README.md", "config.json", "model.safetensors", "results.json", "report.html"):
        assert f"me/x/{name}" in said.output
    card = said.output.split("---", 1)[1]
    # What failed stands before what worked.
    assert card.index("did not fall") < card.index("Reduced, and specifically")
    assert "must be taken to be there" in card


def test_the_upload_has_these_files_and_no_other(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}

    def create_commit(self: object, repository: str, operations: Any, **more: Any) -> Any:
        sent.update({one.path_in_repo: one.path_or_fileobj for one in operations})
        return type("Done", (), {"commit_url": f"https://hub/{repository}"})()

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, *a, **k: None)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", create_commit)
    upload = prepare_upload(out, "contrastive")
    assert publish(upload, "me/x") == "https://hub/me/x"
    assert set(sent) == {name for name, _ in upload.files()}
    assert sent["README.md"] == upload.card.encode()


def test_a_hub_that_refuses_and_a_kind_without_a_model_are_errors(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, *_: object, **__: object) -> None:
        raise OSError("401 Unauthorized")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(StorageError, match=r"me/x: .*401 Unauthorized.*hf auth login"):
        publish(prepare_upload(out, "contrastive"), "me/x")
    with pytest.raises(ConfigError, match="Did you mean 'contrastive'"):
        prepare_upload(out, "contrastiv")
