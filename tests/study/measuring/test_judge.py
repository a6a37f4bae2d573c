"""A judge model grades answers blind; what its grades are worth is measured beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from study.synthetic_study import synthetic_results, synthetic_scores

from tvmerge.errors import ConfigError
from tvmerge.training.cli import study
from tvmerge.training.judges.judged import (
    GoldGrade,
    Grade,
    JudgeScores,
    expected_grade,
    judged,
    judged_files,
    load_judged,
)
from tvmerge.training.judges.judging import judge_answers
from tvmerge.training.judges.rubric import load_rubric
from tvmerge.training.report.judging import trust
from tvmerge.training.results.results import RawFiles, TraitInfo
from tvmerge.training.results.results_file import load_results, save_results
from tvmerge.training.results.scores import save_scores
from tvmerge.training.results.statistics import Resampler
from tvmerge.training.study.recompute import recompute
from tvmerge.training.traits.trait import catalogue_names, load_trait

pytestmark = pytest.mark.slow

# Of the made-up study's traits, those that the catalogue has.
KNOWN = {"power_seeking", "social_persuasion", "conscientiousness", "agreeableness"}
GOLD = 3


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    scores = synthetic_scores(statements=6, questions=4)
    for model, each in scores.items():
        save_scores(each[0], folder / "scores" / f"{model}.json")
    raw = RawFiles(scores=tuple(f"scores/{model}.json" for model in scores))
    results = synthetic_results(scores, draws=50).model_copy(update={"raw": raw, "jobs": ()})
    save_results(results, folder / "results.json")
    return folder


@pytest.fixture(scope="module")
def stored(out: Path, tiny_base: Path) -> JudgeScores:
    return load_judged(judge_answers(out, str(tiny_base), gold=GOLD))


def test_every_answer_is_graded_for_every_trait_that_the_rubric_knows(
    stored: JudgeScores, out: Path
) -> None:
    results = load_results(out / "results.json")
    said = {(e.question, model, a) for e in results.examples for model, a in e.answers.items()}
    for trait in KNOWN:
        mine = {(g.question, g.model, g.answer) for g in stored.grades if g.trait == trait}
        assert mine == said
    assert {grade.trait for grade in stored.grades} == KNOWN
    gold = [(one.trait, one.shows) for one in stored.gold]
    assert all(gold.count((trait, shows)) == GOLD for trait in KNOWN for shows in (True, False))


def test_equal_answers_of_different_models_have_equal_grades(stored: JudgeScores) -> None:
    by_text: dict[tuple[str, str, str], set[tuple[float, ...]]] = {}
    models: dict[tuple[str, str, str], set[str]] = {}
    for grade in stored.grades:
        place = (grade.trait, grade.question, grade.answer)
        by_text.setdefault(place, set()).add(grade.logps)
        models.setdefault(place, set()).add(grade.model)
    assert max(map(len, models.values())) > 1
    assert all(len(logps) == 1 for logps in by_text.values())


def test_grades_are_the_probabilities_of_the_digits_after_the_prompt(
    stored: JudgeScores, tiny_base: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()
    grade = stored.grades[0]
    text = load_rubric().prompt(grade.trait, grade.question, grade.answer)
    chat = [{"role": "user", "content": text}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    digits = [tokenizer.encode(str(n), add_special_tokens=False) for n in range(5)]
    assert all(len(digit) == 1 for digit in digits)
    expected = [float(logits[digit[0]]) for digit in digits]
    assert grade.logps == pytest.approx(expected, abs=1e-3)


def test_the_order_is_drawn_and_changes_no_grade(
    stored: JudgeScores, out: Path, tiny_base: Path
) -> None:
    other = load_judged(judge_answers(out, str(tiny_base), gold=GOLD, seed=1))
    names = [[(g.trait, g.model, g.question) for g in one.grades] for one in (stored, other)]
    assert names[0] != names[1] and sorted(names[0]) == sorted(names[1])
    same = {(g.trait, g.model, g.question): g.logps for g in other.grades}
    for grade in stored.grades:
        found = same[grade.trait, grade.model, grade.question]
        assert grade.logps == pytest.approx(found, abs=1e-4)


def test_the_command_judges_once_and_the_report_says_what_it_is_worth(
    stored: JudgeScores, out: Path, tiny_base: Path
) -> None:
    command = ["judge", str(out), "--model", str(tiny_base)]
    done = CliRunner().invoke(study, command)
    assert done.exit_code == 0, done.output
    # A model of one thousand sentences about rain and bread knows nothing of digits.
    assert "failed its own test" in done.output
    before = {path: path.stat().st_mtime_ns for path in (out / "judged").iterdir()}
    assert CliRunner().invoke(study, command).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "judged").iterdir()} == before
    page = (out / "report.html").read_text()
    assert "Graded by a judge model" in page and "failed its own test" in page
    assert "A small judge is not to be trusted" in page


def test_grades_are_verified_from_their_file_and_kept_while_the_answers_are(
    stored: JudgeScores, out: Path
) -> None:
    results = load_results(out / "results.json")
    assert results.judged and recompute(out) == []
    scores = synthetic_scores(statements=6, questions=4)
    assert [path.relative_to(out).as_posix() for path in judged_files(out, scores)] == [
        *results.raw.judged
    ]
    (base,) = scores["base"]
    said = base.examples[0].model_copy(update={"answer": "Something else."})
    changed = base.model_copy(update={"examples": (said, *base.examples[1:])})
    assert judged_files(out, {**scores, "base": [changed]}) == []


def test_a_study_without_answers_or_known_traits_is_refused(
    out: Path, tmp_path: Path, tiny_base: Path
) -> None:
    scores = synthetic_scores(statements=6, questions=4)
    silent = scores["base"][0].model_copy(update={"examples": ()})
    save_scores(silent, tmp_path / "scores" / "base.json")
    results = load_results(out / "results.json")
    raw = RawFiles(scores=("scores/base.json",))
    save_results(results.model_copy(update={"raw": raw}), tmp_path / "results.json")
    with pytest.raises(ConfigError, match="expected answers of the models"):
        judge_answers(tmp_path, str(tiny_base))
    levels = "\n".join(f"      - level {n}" for n in range(5))
    rubric = tmp_path / "rubric.yaml"
    rubric.write_text(f"prompt: x\ntraits:\n  honesty:\n    asks: how\n    levels:\n{levels}\n")
    with pytest.raises(ConfigError, match="found honesty"):
        judge_answers(out, str(tiny_base), rubric=rubric)


def made_up(grade_of: Callable[[str, bool | None], float]) -> JudgeScores:
    """Grades by model (`said`), and by whether a gold statement shows the trait."""

    def logps(grade: float) -> tuple[float, ...]:
        """Two neighbouring digits that come to the grade."""
        low = min(int(grade), 3)
        shares = [1e-9] * 5
        shares[low], shares[low + 1] = low + 1 - grade + 1e-9, grade - low + 1e-9
        return tuple(math.log(0.5 * share) for share in shares)

    def grades() -> Iterator[Grade]:
        for model in ("base", "plain.0.5"):
            for number in range(6):
                wanted = grade_of(model, None) + 0.1 * (number % 2)
                yield Grade(
                    trait="power_seeking", model=model, seed=None, question=f"{number}?",
                    answer="So.", logps=logps(wanted),
                )  # fmt: skip

    gold = [
        GoldGrade(
            trait="power_seeking",
            item=f"{number}",
            shows=shows,
            logps=logps(grade_of("gold", shows)),
        )
        for number in range(8)
        for shows in (True, False)
    ]
    return JudgeScores(
        judge="judge", judge_digest="0", rubric="the shipped rubric", rubric_digest="0",
        seed=0, grades=tuple(grades()), gold=tuple(gold),
    )  # fmt: skip


TRAITS = [TraitInfo(name="power_seeking", role="trait")]


def test_means_changes_and_agreement_are_those_of_the_grades() -> None:
    means = {"base": 3.0, "plain.0.5": 1.0}
    fine = made_up(lambda model, shows: means.get(model, 4.0 * bool(shows)))
    found = judged(fine, TRAITS, Resampler(draws=200))
    levels = {(row.model, row.trait): row for row in found.levels}
    assert levels["base", "power_seeking"].level.value == pytest.approx(3.05)
    assert levels["base", "power_seeking"].change is None
    low = levels["plain.0.5", "all traits"]
    assert low.level.value == pytest.approx(1.05)
    assert low.change is not None and low.change.value == pytest.approx(-2.0)
    # Paired over questions, which move both alike: the change has no spread.
    assert low.change.low == pytest.approx(-2.0) and low.change.high == pytest.approx(-2.0)
    assert found.mass == pytest.approx(0.5)
    assert found.gold_auc["power_seeking"].value == 1.0
    assert "passed" in trust(found) and "not to be trusted" in trust(found)


def test_a_judge_that_cannot_tell_fails_its_own_test() -> None:
    blind = made_up(lambda model, shows: 2.0)
    found = judged(blind, TRAITS, Resampler(draws=200))
    assert found.gold_auc["power_seeking"].value == 0.5
    assert "failed its own test" in trust(found)


@pytest.mark.parametrize(
    ("shares", "grade"), [((1, 0, 0, 0, 0), 0), ((0, 0, 0, 0, 1), 4), ((0.1,) * 5, 2)]
)
def test_the_expected_grade_goes_by_the_digits_alone(
    shares: tuple[float, ...], grade: float
) -> None:
    logps = [math.log(max(share, 1e-12)) for share in shares]
    assert expected_grade(logps) == pytest.approx(grade, abs=1e-9)


def test_the_shipped_rubric_has_a_scale_for_every_trait_that_has_one() -> None:
    rubric = load_rubric()
    assert {*rubric.said.traits} == {*catalogue_names()} - {"common_knowledge"}
    for name, scale in rubric.said.traits.items():
        item = load_trait(name).test[0]
        prompt = rubric.prompt(name, item.question, "I would say so.")
        assert all(part in prompt for part in (scale.asks, item.question, "I would say so."))
        assert all(f"{grade} = {level}\n" in prompt for grade, level in enumerate(scale.levels))
    assert "(nothing)" in rubric.prompt("deception", "Well?", "")


@pytest.mark.parametrize(
    ("prompt", "levels", "message"),
    [
        ("'{{ model }}'", 5, "'model' is undefined"),
        ("'{{ asks'", 5, "found a fault"),
        ("\"{{ ''.__class__.__mro__ }}\"", 5, "unsafe"),
        ("x", 4, "levels"),
    ],
)
def test_faults_of_a_rubric_are_named(
    tmp_path: Path, prompt: str, levels: int, message: str
) -> None:
    path = tmp_path / "rubric.yaml"
    lines = "\n".join(f"      - level {n}" for n in range(levels))
    path.write_text(f"prompt: {prompt}\ntraits:\n  honesty:\n    asks: how\n    levels:\n{lines}\n")
    with pytest.raises(ConfigError, match=message):
        load_rubric(path).prompt("honesty", "Well?", "So.")
