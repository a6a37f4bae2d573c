"""Computes a study's results again from the raw numbers that it kept, and says what differs.

    differences = recompute(Path("out"))

Recomputed is everything that follows from raw scores: outcomes, contrasts, perplexity, choices of
scales, re-learning, lowered scales, audits, fine-tunes' losses, verdicts. Taken as they are: what
was read off the models themselves (norms of edits, cosines of vectors), and the records of the run
(times, memory).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvmerge.errors import FormatError
from tvmerge.training.finetuning.jobs import finished_record
from tvmerge.training.judges.judged import load_judged
from tvmerge.training.measuring.audit import load_audit
from tvmerge.training.measuring.relax import load_relax
from tvmerge.training.measuring.relearn import load_relearn
from tvmerge.training.public_tasks.harness import load_harness
from tvmerge.training.results.measured_model import ENSEMBLE
from tvmerge.training.results.results import Results
from tvmerge.training.results.results_file import load_results
from tvmerge.training.results.scales import choose_scale
from tvmerge.training.results.scores import ModelScores, load_scores
from tvmerge.training.study.assemble import assemble, job_summary
from tvmerge.training.study.auditing import audits_of

# Another processor's sums may differ in their last bits, and so does what is computed from them.
RELATIVE, ABSOLUTE = 1e-6, 1e-9
NAMING = ("name", "model", "id", "kind", "trait", "part", "outcome", "text", "lesson", "rival",
          "scope", "doubt", "pole", "seed", "question")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of `results.json` that the raw numbers do not give."""

    where: str
    kept: str
    found: str


def recompute(out: Path) -> list[Difference]:
    """Every figure of `out/results.json` that differs from what `out`'s raw files give.

    Raises FormatError where raw files are missing or results do not say which they are.
    """
    kept = load_results(out / "results.json")
    return [*_differences("results", _plain(kept), _plain(again(kept, out)))]


def again(kept: Results, out: Path) -> Results:
    """The results that the raw files give."""
    raw = kept.raw
    if not raw.scores:
        raise FormatError(
            f"{out / 'results.json'}: does not name the raw files that it came from: it was "
            "written by an earlier version. Run the study again; only what is missing is done."
        )
    listed = (
        *raw.scores, *raw.relearning, *raw.relaxing, *raw.audits, *raw.judged,
        *raw.harness, *raw.jobs,
    )  # fmt: skip
    missing = [path for path in listed if not (out / path).exists()]
    if missing:
        raise FormatError(
            f"{out}: expected the raw files of {len(missing)} more measurements, the first "
            f"{missing[0]}. Restore them, or run the study again."
        )
    scores: dict[str, list[ModelScores]] = defaultdict(list)
    for path in raw.scores:
        one = load_scores(out / path)
        scores[one.model].append(one)
    records = [finished_record(out / path) for path in raw.jobs]
    found = assemble(
        scores,
        name=kept.name,
        base=kept.base,
        traits=kept.traits,
        choices=[
            choose_scale(
                scores,
                kind=choice.kind,
                traits=[trait.name for trait in kept.traits if trait.role == "trait"],
                max_perplexity_rise=kept.max_perplexity_rise,
            )
            for choice in kept.choices
        ],
        max_perplexity_rise=kept.max_perplexity_rise,
        models=[model for model in kept.models if model.id != ENSEMBLE],
        relearned=[load_relearn(out / path) for path in raw.relearning],
        relaxed=[load_relax(out / path) for path in raw.relaxing],
        audits=audits_of(
            [load_audit(out / path) for path in raw.audits],
            roles={trait.name: trait.role for trait in kept.traits},
            # Cosines of vectors, which only the fine-tunes' weights could give again.
            agreements={audit.name: audit.agreement for audit in kept.audits},
        ),
        grades=[load_judged(out / path) for path in raw.judged],
        harness=[load_harness(out / path) for path in raw.harness],
        vectors=kept.vectors,
        jobs=[job_summary(record) for record in records if record is not None],
        stages=kept.stages,
        peak_memory_mib=kept.peak_memory_mib,
        config=kept.config,
        versions=kept.versions,
        created=kept.created,
        seeds=kept.seeds,
        verdicts=kept.rules,
        draws=kept.draws,
        raw=raw,
    )
    records_of_the_run = {"rounds": kept.rounds, "seconds_computed": kept.seconds_computed}
    return found.model_copy(update=records_of_the_run)


def _plain(results: Results) -> Any:
    return results.model_dump(mode="json")


def _differences(where: str, kept: Any, found: Any) -> Iterator[Difference]:
    if isinstance(kept, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*kept, *found]):
            yield from _differences(f"{where}.{key}", kept.get(key), found.get(key))
    elif isinstance(kept, list) and isinstance(found, list):
        if len(kept) != len(found):
            yield Difference(where, f"{len(kept)} entries", f"{len(found)} entries")
        for place, (one, other) in enumerate(zip(kept, found, strict=False)):
            yield from _differences(f"{where}[{_named(one, place)}]", one, other)
    elif not _same(kept, found):
        yield Difference(where, str(kept), str(found))


def _named(entry: Any, place: int) -> str:
    """What an entry is about, where it says so: `power_seeking statement_margin`."""
    if not isinstance(entry, Mapping):
        return str(place)
    said = [str(entry[key]) for key in NAMING if entry.get(key) not in (None, "")]
    return " ".join(said) or str(place)


def _same(kept: Any, found: Any) -> bool:
    if isinstance(kept, float) and isinstance(found, (int, float)):
        return math.isclose(kept, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return bool(kept == found)
