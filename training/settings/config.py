"""What a study's YAML file may say.

name: three-traits
base: ../models/smollm2        # a folder beside this file, or a hub id
traits: [power_seeking, ./my_trait]
controls: [conscientiousness]
unrelated: interest_in_science
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, NonNegativeInt, StringConstraints, field_validator, model_validator

from tvmerge.errors import did_you_mean
from tvmerge.files.yaml_file import YamlFile
from tvmerge.training.lm.prompts import PromptStyle
from tvmerge.training.settings.kind_sections import (
    LayersConfig,
    NegMergeConfig,
    ReplayConfig,
    Scales,
    SearchConfig,
)
from tvmerge.training.settings.kinds import KINDS, Kind
from tvmerge.training.settings.sections import (
    Checks,
    ChooseConfig,
    ItemLimits,
    PerplexityConfig,
    RelaxConfig,
    RelearnConfig,
    Resources,
    RoundsConfig,
    Section,
    TrainConfig,
    Value,
    VerdictConfig,
    distinct,
)
from tvmerge.training.traits.trait import MANIFEST, catalogue_names

AnySection = TypeVar("AnySection", bound=Section)
STUDY_NAME = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class StudyConfig(Section):
    """A whole study. Paths are absolute once `load_study` has read them."""

    name: STUDY_NAME
    base: str
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2)
    traits: Annotated[tuple[str, ...], Field(min_length=1)]
    controls: tuple[str, ...] = ()
    unrelated: str
    composites: tuple[str, ...] = ()
    capability: tuple[str, ...] = ("common_knowledge",)
    prompt: PromptStyle = "plain"
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("plain", "contrastive")
    scales: Scales = Scales()
    layers: LayersConfig = LayersConfig()
    replay: ReplayConfig = ReplayConfig()
    items: ItemLimits = ItemLimits()
    train: TrainConfig = TrainConfig()
    perplexity: PerplexityConfig = PerplexityConfig()
    choose: ChooseConfig = ChooseConfig()
    checks: Checks = Checks()
    relearn: RelearnConfig = RelearnConfig()
    relax: RelaxConfig = RelaxConfig()
    search: SearchConfig = SearchConfig()
    negmerge: NegMergeConfig = NegMergeConfig()
    rounds: RoundsConfig = RoundsConfig()
    verdicts: VerdictConfig = VerdictConfig()
    resources: Resources = Resources()
    examples: Annotated[tuple[str, ...], Field(max_length=24)] = ()

    @field_validator("kinds", "seeds")
    @classmethod
    def _once_each(cls, values: tuple[Value, ...]) -> tuple[Value, ...]:
        return distinct(values)

    @model_validator(mode="after")
    def _each_trait_has_one_role(self) -> StudyConfig:
        named = [*self.traits, *self.controls, self.unrelated, *self.composites, *self.capability]
        for name in named:
            if named.count(name) > 1:
                raise ValueError(
                    f"{name!r} is named twice among traits, controls, unrelated, composites and "
                    "capability. "
                    "A trait that is removed cannot also be a control: remove one of the two."
                )
        if self.rounds.kind is not None and self.rounds.kind not in self.kinds:
            raise ValueError(
                f"rounds.kind: expected one of the study's kinds ({', '.join(self.kinds)}), found "
                f"{self.rounds.kind!r}."
            )
        _expect_among("relearn.traits", self.relearn.traits, "traits", self.traits)
        _expect_among("replay.controls", self.replay.controls, "controls", self.controls)
        return self

    @model_validator(mode="after")
    def _aggregation_kinds_are_sums(self) -> StudyConfig:
        key, named = "checks.aggregation_kinds", self.checks.aggregation_kinds
        _expect_among(key, named, "kinds", self.kinds)
        for kind in (kind for kind in named if not KINDS[kind].by_trait):
            raise ValueError(
                f"{key}: expected kinds that are a sum over the traits, found {kind!r}: one change "
                "of all of them, of which none can be negated alone. Leave it out."
            )
        return self

    @model_validator(mode="after")
    def _replay_has_room(self) -> StudyConfig:
        if "replayed" not in self.kinds:
            return self
        if not self.controls:
            raise ValueError(
                "kinds: `replayed` expected control traits to replay items of, found none. Name "
                "`controls`, or leave the kind out."
            )
        size = self.train.batch_size
        if not 0 < self.replay.of_batch(size) < size:
            raise ValueError(
                f"replay.share: expected items of both in a batch of {size} (train.batch_size), "
                f"found {self.replay.of_batch(size)} to replay. Change one of the two."
            )
        return self


def _expect_among(key: str, names: Sequence[str], where: str, known: Sequence[str]) -> None:
    for name in (name for name in names if name not in known):
        raise ValueError(
            f"{key}: expected names from `{where}`, found {name!r}."
            f"{did_you_mean(name, known)} There are: {', '.join(known) or 'none'}."
        )


def load_study(path: str | Path, *, base: str | None = None) -> StudyConfig:
    """The study that the YAML file describes; its relative paths start at the file's folder.

    A `base` stands in place of the file's, which need not be there then.
    """
    path = Path(path)
    file = YamlFile.read(path)
    study = file.validate(StudyConfig)
    folder = path.resolve().parent
    return study.model_copy(
        update={
            "base": _base(study.base, folder, file) if base is None else base,
            "traits": tuple(_trait(name, folder) for name in study.traits),
            "controls": tuple(_trait(name, folder) for name in study.controls),
            "unrelated": _trait(study.unrelated, folder),
            "composites": tuple(_trait(name, folder) for name in study.composites),
            "capability": tuple(_trait(name, folder) for name in study.capability),
            "relearn": study.relearn.model_copy(
                update={"traits": tuple(_trait(name, folder) for name in study.relearn.traits)}
            ),
            "replay": study.replay.model_copy(
                update={"controls": tuple(_trait(name, folder) for name in study.replay.controls)}
            ),
            "rounds": _rounds(study.rounds, folder, file),
            "perplexity": _perplexity(study.perplexity, folder, file),
        }
    )


def _base(base: str, folder: Path, file: YamlFile) -> str:
    found = folder / Path(base).expanduser()
    if found.is_dir():
        return str(found.resolve())
    # "owner/name" may be either; whatever cannot be a hub id must be a folder.
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise file.error(
            ("base",),
            f"expected a model folder, found nothing at {found}. "
            "Correct the path, or name a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct.",
        )
    return base


def _trait(name: str, folder: Path) -> str:
    # A name that is neither is left for load_trait, whose error has the suggestion.
    is_folder = name not in catalogue_names() and (folder / name / MANIFEST).is_file()
    return str((folder / name).resolve()) if is_folder else name


def _perplexity(section: PerplexityConfig, folder: Path, file: YamlFile) -> PerplexityConfig:
    return _with_files(section, ("text", "other_text"), ("perplexity",), folder, file)


def _rounds(section: RoundsConfig, folder: Path, file: YamlFile) -> RoundsConfig:
    keys = ("text", "instructions")
    train_on = _with_files(section.train_on, keys, ("rounds", "train_on"), folder, file)
    return section.model_copy(update={"train_on": train_on})


def _with_files(
    section: AnySection,
    keys: tuple[str, ...],
    place: tuple[str, ...],
    folder: Path,
    file: YamlFile,
) -> AnySection:
    """The section with these paths absolute; an error where one is no file."""
    found = {}
    for key in keys:
        said: Path | None = getattr(section, key)
        if said is not None:
            found[key] = (folder / said.expanduser()).resolve()
            if not found[key].is_file():
                what = f"expected a text file, found nothing at {found[key]}."
                raise file.error((*place, key), what)
    return section.model_copy(update=found)
