"""Puts a study's chosen model on the Hugging Face hub, with its verdicts as the card.

    upload = prepare_upload(Path("out"), "contrastive")
    publish(upload, "me/smollm2-less-power")

The card says what was subtracted, from what, and what came of it, failures first: a model must not
be taken for safer than it was found to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tvmerge.errors import ConfigError, FormatError, StorageError, did_you_mean
from tvmerge.training.results.results import Results
from tvmerge.training.results.results_file import load_results
from tvmerge.training.settings.kinds import KINDS

BESIDE = ("results.json", "report.html")
# What did not work comes first.
ORDER = ("failed", "stands", "wrong_way", "did_not_fall", "too_costly", "not_specific")


@dataclass(frozen=True, slots=True)
class Upload:
    """What would be on the hub: the model's folder, the card, and files from the study's own."""

    model: Path
    card: str
    beside: tuple[Path, ...]

    def files(self) -> list[tuple[str, int]]:
        """(name on the hub, bytes) of every file, the card first."""
        own = [path for path in sorted(self.model.iterdir()) if path.name != "README.md"]
        sizes = [(path.name, path.stat().st_size) for path in (*own, *self.beside)]
        return [("README.md", len(self.card.encode())), *sizes]


def prepare_upload(out: Path, kind: str) -> Upload:
    """The upload of the study's chosen model of `kind`; raises ConfigError where there is none."""
    results = load_results(out / "results.json")
    choice = next((choice for choice in results.choices if choice.kind == kind), None)
    model = out / "models" / kind
    if choice is None or not model.is_dir():
        kinds = [choice.kind for choice in results.choices]
        raise ConfigError(
            f"{kind!r}: expected a kind of edit with a chosen model in {out / 'models'}, found "
            f"none.{did_you_mean(kind, kinds)} The study has: {', '.join(kinds) or 'none'}."
        )
    beside = tuple(
        path for name in ("results.json", "report.html") if (path := out / name).is_file()
    )
    return Upload(model=model, card=_card(results, kind), beside=beside)


def publish(upload: Upload, repository: str, *, private: bool = True) -> str:
    """Upload; returns the address. Raises StorageError where the hub does not take it."""
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError as error:
        raise FormatError(
            "to upload, huggingface_hub is needed: pip install 'tvmerge[hub]'"
        ) from error
    files = [path for path in sorted(upload.model.iterdir()) if path.name != "README.md"]
    operations = [
        CommitOperationAdd("README.md", upload.card.encode()),
        *(CommitOperationAdd(path.name, path) for path in (*files, *upload.beside)),
    ]
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(
            repository, operations, commit_message="A study's chosen model, by tvmerge"
        )
    except Exception as error:  # its HTTP client has errors of its own, not all known here
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise StorageError(
            f"{repository}: the Hugging Face hub did not take the upload: {reason.rstrip('.')}. "
            "Log in with `hf auth login`, and check the repository's name"
        ) from error
    return str(done.commit_url)


def _card(results: Results, kind: str) -> str:
    choice = next(choice for choice in results.choices if choice.kind == kind)
    verdicts = [v for v in results.verdicts if v.kind == kind and v.scope != "kind"]
    whole = [v for v in results.verdicts if v.kind == kind and v.scope == "kind"]
    verdicts.sort(key=lambda verdict: ORDER.index(verdict.code) if verdict.code in ORDER else 99)
    caveats = [verdict for verdict in results.verdicts if verdict.scope == "caveat"]
    base = str(results.config.get("base", ""))
    seeds = len(results.seeds)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, undefined=StrictUndefined
    )
    return environment.get_template("model_card.md.jinja").render(
        results=results,
        kind=kind,
        info=KINDS[choice.kind],
        choice=choice,
        hub_base=base if base.count("/") == 1 and not base.startswith((".", "/")) else None,
        traits=[t.title or t.name for t in results.traits if t.role == "trait"],
        seeds=f"{seeds} seed{'s' if seeds > 1 else ''}",
        verdicts=[*whole, *verdicts, *caveats],
    )  # fmt: skip
