"""An interrupted merge goes on where it stopped, and nobody's work is thrown away unasked."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import digests, write_model

from tvmerge import Checkpoint
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import NothingChangedError, OutputError, StorageError
from tvmerge.merging import merge
from tvmerge.merging.journal import parse
from tvmerge.merging.order import MODEL, Order, Variant
from tvmerge.merging.report import MergeReport
from tvmerge.plans.batches import Batch, Record, run_batch

Runner = Callable[[Sequence[Batch]], Iterator[Record]]

OPTIONS = RunOptions(threads=1, batch_bytes=20_000)
UNFINISHED = ".out.unfinished"


def weights(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    made = {
        f"layers.{i}": generator.standard_normal((40, 20 + i)).astype(np.float32) for i in range(8)
    }
    return made | {"ids": np.arange(100) + seed}


@pytest.fixture
def model(tmp_path: Path) -> Checkpoint:
    base = write_model(tmp_path / "base", weights(0), shards=2, config={"architectures": ["X"]})
    (base / "tokenizer.json").write_text("{}")
    tuned = write_model(tmp_path / "tuned", weights(1))
    return Checkpoint(base) - 0.5 * (Checkpoint(tuned) - Checkpoint(base))


def order(model: Checkpoint) -> Order:
    return Order(kind=MODEL, donor=model.donor, variants=(Variant(weighting=model.coefficients),))


def save(model: Checkpoint, out: Path, run: Runner | None = None, **options: bool) -> MergeReport:
    wanted = RunOptions(threads=1, batch_bytes=OPTIONS.batch_bytes, **options)
    return merge.save(order(model), out, wanted, run=run)[0]


def stopping(after: int, error: type[BaseException] = KeyboardInterrupt) -> Runner:
    """Runs so many batches, the last ones first, and is interrupted."""

    def run(batches: Sequence[Batch]) -> Iterator[Record]:
        for number, batch in enumerate(reversed(batches)):
            if number == after:
                raise error
            yield run_batch(batch, OPTIONS.workspace())

    return run


def interrupt(model: Checkpoint, out: Path, after: int) -> Path:
    """The unfinished folder that a merge leaves when it is stopped after so many batches."""
    with pytest.raises(KeyboardInterrupt, match="run the same command again"):
        save(model, out, stopping(after))
    assert not out.exists()
    return out.parent / f".{out.name}.unfinished"


def content(out: Path) -> dict[str, str]:
    """Of all files but the receipt, which tells the time, and the card, which names its folder."""
    held = digests(out)
    return {n: d for n, d in held.items() if n not in ("README.md", "tvmerge_receipt.json")}


@pytest.fixture
def whole(model: Checkpoint, tmp_path: Path) -> dict[str, str]:
    """What an uninterrupted merge writes."""
    report = save(model, tmp_path / "whole")
    assert report.resumed_bytes == 0
    return content(tmp_path / "whole")


# ---- going on --------------------------------------------------------------------------------


def test_a_merge_stopped_at_any_batch_goes_on_and_gives_the_same(
    model: Checkpoint, whole: dict[str, str], tmp_path: Path
) -> None:
    moved = save(model, tmp_path / "once").bytes_moved
    batches = -(-moved // OPTIONS.batch_bytes)
    assert batches >= 5
    done = 0
    for after in range(1, batches):
        out = tmp_path / f"out{after}"
        interrupt(model, out, after)
        report = save(model, out)
        assert content(out) == whole
        assert report.bytes_moved + report.resumed_bytes == moved
        assert report.resumed_bytes > done
        done = report.resumed_bytes
    assert not list(tmp_path.glob(".*"))


def test_a_merge_stopped_again_and_again_ends(
    model: Checkpoint, whole: dict[str, str], tmp_path: Path
) -> None:
    for _ in range(4):
        interrupt(model, tmp_path / "out", 1)
    report = save(model, tmp_path / "out")
    assert report.resumed_bytes > 3 * OPTIONS.batch_bytes * 0.8
    assert content(tmp_path / "out") == whole


def test_what_a_power_failure_took_is_made_again(
    model: Checkpoint, whole: dict[str, str], tmp_path: Path
) -> None:
    folder = interrupt(model, tmp_path / "intact", 4)
    intact = save(model, tmp_path / "intact").resumed_bytes
    folder = interrupt(model, tmp_path / "out", 4)
    part = max(folder.glob("*.part"))
    size = part.stat().st_size
    with part.open("r+b") as file:
        file.seek(size - 500)
        file.write(bytes(500))
    report = save(model, tmp_path / "out")
    assert 0 < report.resumed_bytes < intact
    assert content(tmp_path / "out") == whole


def test_a_lost_part_is_made_again(
    model: Checkpoint, whole: dict[str, str], tmp_path: Path
) -> None:
    folder = interrupt(model, tmp_path / "out", 4)
    max(folder.glob("*.part")).unlink()
    save(model, tmp_path / "out")
    assert content(tmp_path / "out") == whole


def test_a_journal_cut_off_anywhere_costs_only_what_it_does_not_say(
    model: Checkpoint, whole: dict[str, str], tmp_path: Path
) -> None:
    chosen = random.Random(1)
    folder = interrupt(model, tmp_path / "out", 4)
    full = (folder / ".journal").read_bytes()
    header = full.index(b"\n") + 1
    for cut in sorted(chosen.sample(range(header, len(full)), 8), reverse=True):
        (folder / ".journal").write_bytes(full[:cut] + b"\0\xff" * chosen.randrange(3))
        records = full[:cut].count(b"\n") - 1
        report = save(model, tmp_path / "out")
        assert (report.resumed_bytes > 0) == (records > 0)
        assert content(tmp_path / "out") == whole
        for path in sorted((tmp_path / "out").rglob("*"), reverse=True):
            path.unlink()
        (tmp_path / "out").rmdir()
        interrupt(model, tmp_path / "out", 4)


def test_no_damage_to_a_journal_is_taken_for_a_record(model: Checkpoint, tmp_path: Path) -> None:
    folder = interrupt(model, tmp_path / "out", 3)
    text = (folder / ".journal").read_bytes()
    values, length = parse(text)
    assert (len(values), length) == (4, len(text))
    lines = [position for position, byte in enumerate(text) if byte == ord("\n")]
    for position in range(len(text)):
        damaged = text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :]
        found, _ = parse(damaged)
        assert found == values[: sum(end < position for end in lines)]


def test_a_merge_stopped_while_it_is_completed_goes_on(
    model: Checkpoint, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(merge, "make_receipt", stop)
        with pytest.raises(KeyboardInterrupt):
            save(model, tmp_path / "out")
    folder = tmp_path / UNFINISHED
    assert (folder / "tokenizer.json").exists()
    assert not list(folder.glob("*.part"))
    (tmp_path / "base" / "tokenizer.json").unlink()  # so the model has none any more
    report = save(model, tmp_path / "out")
    assert report.bytes_moved == 0
    assert content(tmp_path / "out") == {n: d for n, d in whole.items() if n != "tokenizer.json"}


def test_several_variants_go_on_together(model: Checkpoint, tmp_path: Path) -> None:
    donor = Checkpoint(model.donor.source)
    models = {f"s{s}": donor + s * (model - donor) for s in (0.5, 1.0)}
    variants = tuple(Variant(name=n, weighting=m.coefficients) for n, m in models.items())
    together = Order(kind=MODEL, donor=model.donor, variants=variants)
    with pytest.raises(KeyboardInterrupt):
        merge.save(together, tmp_path / "out", OPTIONS, run=stopping(3))
    reports = merge.save(together, tmp_path / "out", OPTIONS)
    assert reports[0].resumed_bytes > 0
    for name, one in models.items():
        save(one, tmp_path / name)
        assert content(tmp_path / "out" / name) == content(tmp_path / name)


def test_a_synced_merge_is_the_same(
    model: Checkpoint, whole: dict[str, str], tmp_path: Path
) -> None:
    save(model, tmp_path / "out", sync=True)
    assert content(tmp_path / "out") == whole


# ---- refused ---------------------------------------------------------------------------------


def refused(model: Checkpoint, out: Path, fault: str) -> None:
    """The merge is refused and what another one has left stays as it is; --restart discards it."""
    folder = out.parent / f".{out.name}.unfinished"
    before = digests(folder)
    with pytest.raises(OutputError, match=fault) as caught:
        save(model, out)
    assert "--restart" in str(caught.value)
    assert digests(folder) == before
    assert save(model, out, restart=True).resumed_bytes == 0
    assert not folder.exists()


def test_an_input_changed_since_is_named(model: Checkpoint, tmp_path: Path) -> None:
    interrupt(model, tmp_path / "out", 3)
    file = tmp_path / "tuned" / "model.safetensors"
    os.utime(file, ns=(1, 1))
    refused(model, tmp_path / "out", f"the input {file} has changed since")


def test_another_merges_work_is_not_taken_for_ones_own(model: Checkpoint, tmp_path: Path) -> None:
    donor = Checkpoint(model.donor.source)
    interrupt(model, tmp_path / "out", 3)
    refused(donor + 0.75 * (model - donor), tmp_path / "out", "it has other coefficients")


def test_a_journal_that_says_nothing_is_not_thrown_away(model: Checkpoint, tmp_path: Path) -> None:
    folder = interrupt(model, tmp_path / "out", 3)
    journal = folder / ".journal"
    journal.write_bytes(b"x" + journal.read_bytes()[1:])
    refused(model, tmp_path / "out", "whose journal cannot be read")


def test_a_second_merge_into_the_same_place_is_refused_and_told_by_whom(
    model: Checkpoint, whole: dict[str, str], tmp_path: Path
) -> None:
    refusals = []

    def second(batches: Sequence[Batch]) -> Iterator[Record]:
        for restart in (False, True):
            with pytest.raises(OutputError, match=rf"process {os.getpid()}\).*Wait for it"):
                save(model, tmp_path / "out", restart=restart)
            refusals.append(restart)
        for batch in batches:
            yield run_batch(batch, OPTIONS.workspace())

    save(model, tmp_path / "out", second)
    assert refusals == [False, True]
    assert content(tmp_path / "out") == whole


# ---- nothing to go on from -------------------------------------------------------------------


def test_an_input_changed_while_it_is_read_makes_the_work_worthless(
    model: Checkpoint, tmp_path: Path
) -> None:
    file = tmp_path / "tuned" / "model.safetensors"

    def touching(batches: Sequence[Batch]) -> Iterator[Record]:
        for batch in batches:
            yield run_batch(batch, OPTIONS.workspace())
        os.utime(file, ns=(1, 1))

    with pytest.raises(StorageError, match=f"{file}: was changed while it was read"):
        save(model, tmp_path / "out", touching)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_an_edit_that_vanishes_leaves_nothing_to_go_on_from(
    model: Checkpoint, tmp_path: Path
) -> None:
    donor = Checkpoint(model.donor.source)
    with pytest.raises(NothingChangedError):
        save(donor + 1e-30 * (model - donor), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


@pytest.mark.parametrize("error", [StorageError, MemoryError, ZeroDivisionError])
def test_any_failure_after_the_first_batch_keeps_what_is_done(
    error: type[Exception], model: Checkpoint, whole: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(error):
        save(model, tmp_path / "out", stopping(2, error))
    assert save(model, tmp_path / "out").resumed_bytes > 0
    assert content(tmp_path / "out") == whole


@pytest.mark.parametrize("error", [KeyboardInterrupt, StorageError, ZeroDivisionError])
def test_a_failure_before_that_leaves_nothing(
    error: type[BaseException], model: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(error):
        save(model, tmp_path / "new" / "out", stopping(0, error))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]
