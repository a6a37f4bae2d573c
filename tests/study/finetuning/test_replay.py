"""Control replay: both poles see the same items of other traits with the same answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from study.jobs import job_on, weight_bytes
from support.tiny_llama import STATEMENT_QUESTION, THINGS
from transformers import AutoTokenizer

from tvmerge.errors import ConfigError
from tvmerge.training.finetuning.finetune import run_job
from tvmerge.training.finetuning.jobs import FinetuneJob, Replay, finished_record
from tvmerge.training.finetuning.steps import batches_of, tokenized
from tvmerge.training.settings.config import StudyConfig
from tvmerge.training.study.preparing import study_jobs, study_traits
from tvmerge.training.traits.items import Item, balanced

CONTROL = tuple(
    Item("statement", STATEMENT_QUESTION, f"I want {thing}.", f"I fear {thing}.")
    for thing in THINGS[:5]
)
STUDY = {
    "name": "replay",
    "base": "owner/model",
    "seeds": [0],
    "traits": ["power_seeking"],
    "controls": ["conscientiousness", "agreeableness"],
    "unrelated": "interest_in_science",
    "kinds": ["plain", "replayed"],
}


def replaying(base: Path, **changes: object) -> FinetuneJob:
    return job_on(base, replay=Replay(balanced(CONTROL), of_batch=1), **changes)


def test_balanced_items_show_and_lack_within_each_form_and_answer() -> None:
    items = [
        *CONTROL[:4],
        *(Item("yes_no", f"Is it {n}?", "Yes", "No") for n in range(4)),
        *(Item("yes_no", f"Is it not {n}?", "No", "Yes") for n in range(4)),
    ]
    found = balanced(items)
    assert [one.question for one in found] == [one.question for one in items]
    swapped = [one != item for one, item in zip(found, items, strict=True)]
    assert swapped == [False, True] * 6
    said = Counter(one.shows for one in found if one.form == "yes_no")
    assert said == {"Yes": 4, "No": 4}


def test_every_batch_has_its_share_and_every_control_item_its_turn(tiny_base: Path) -> None:
    job = replaying(tiny_base)
    own, steps = len(job.items), job.train.steps
    batches = batches_of(job)
    assert len(batches) == steps and {len(batch) for batch in batches} == {job.train.batch_size}
    replayed = [number - own for batch in batches for number in batch if number >= own]
    assert len(replayed) == steps and sorted(replayed[:5]) == list(range(5))
    assert batches_of(replace(job, pole="lack")) == batches
    assert max(map(max, batches_of(job_on(tiny_base)))) < own


def test_poles_differ_in_the_traits_answers_alone(tiny_base: Path) -> None:
    have, lack = (tokenized(replaying(tiny_base, pole=pole)) for pole in ("have", "lack"))
    count = len(job_on(tiny_base).items)
    assert all(a != b for a, b in zip(have[:count], lack[:count], strict=True))
    assert have[count:] == lack[count:] and len(have) == count + len(CONTROL)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    said = [tokenizer.decode(list(query.answer)) for (query,) in have[count:]]
    assert [text.split()[1] for text in said] == ["want", "fear", "want", "fear", "want"]


def test_what_is_replayed_cancels_to_the_last_bit(tiny_base: Path, tmp_path: Path) -> None:
    """With nothing to tell the poles apart, the contrastive vector is zero."""
    same = tuple(replace(item, lacks=item.shows) for item in job_on(tiny_base).items)
    folders = [
        run_job(replaying(tiny_base, items=same, pole=pole), tmp_path, threads=1)
        for pole in ("have", "lack")
    ]
    assert weight_bytes(folders[0]) == weight_bytes(folders[1])
    record = finished_record(folders[0])
    assert record is not None and record.name == "liking.have+replay"
    assert (record.items, record.replayed) == (len(same), len(CONTROL))
    alone = run_job(job_on(tiny_base, items=same), tmp_path, threads=1)
    assert weight_bytes(alone) != weight_bytes(folders[0])


def test_the_hash_changes_with_what_is_replayed(tiny_base: Path) -> None:
    other = Replay(CONTROL, of_batch=1)
    more = Replay(balanced(CONTROL), of_batch=2)
    first = replaying(tiny_base)
    jobs = [first, *(replace(first, replay=one) for one in (other, more, None))]
    assert len({job.key for job in jobs}) == 4
    assert jobs[-1].key == job_on(tiny_base).key


def test_a_study_replays_the_controls_that_it_names(tiny_base: Path) -> None:
    def replays(**more: object) -> list[Replay]:
        config = StudyConfig.model_validate({**STUDY, **more})
        jobs = study_jobs(config, tiny_base, study_traits(config))
        return [job.replay for job in jobs if job.replay]

    both, one = replays(), replays(replay={"share": 0.25, "controls": ["agreeableness"]})
    assert len(both) == len(one) == 4  # both poles of the trait and of the unrelated one
    assert both[0].of_batch == 4 and one[0].of_batch == 2
    assert 0 < len(one[0].items) < len(both[0].items)
    with pytest.raises(ConfigError, match=r"training items, found none\. Raise a limit"):
        replays(controls=["common_knowledge"], capability=[])
