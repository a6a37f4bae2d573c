"""What only shows when a recipe meets its models, gathered so that all of it is told at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tvmerge.checkpoints.heads import is_embedding, is_head
from tvmerge.checkpoints.matching import differences, raise_mismatches
from tvmerge.errors import did_you_mean
from tvmerge.files.untrusted import shown
from tvmerge.files.yaml_file import Location
from tvmerge.plans.assembly import AssembledTensor, Model
from tvmerge.recipe.document import Document, Settings, Source
from tvmerge.recipe.layers import split
from tvmerge.recipe.reading import LENIENT
from tvmerge.recipe.tied import named_in, ties_head

_MOST_HINTS = 2_000  # of names to compare with one that is not there
_HINTED = 5  # mismatches that get a hint

_WAYS_OUT = (
    "The vocabularies differ. Say which one the result has (`tokenizer_source: union`, or base, or "
    "a model), or give all models one yourself (`resize_token_embeddings`, then save them again), "
    "or take these tensors from the base alone: give the others the weight 0 there, "
    "`weight: [{filter: embed_tokens, value: 0}, {filter: lm_head, value: 0}, {value: ...}]`"
)


class Checks:
    """The faults of one document."""

    def __init__(self, document: Document, donor: Model, listed: int | None) -> None:
        self.document, self.donor, self.listed = document, donor, listed
        self.faults: dict[Location, str] = {}
        self.mismatches: dict[str, None] = {}
        self.vocabulary = False
        self.used: dict[str, None] = {}
        self.merged: dict[str, None] = {}  # of which parameters are looked at
        self.models: dict[str, Model] = {}

    def held(self, model: Model, tensor: str, output: str) -> str | None:
        """The name under which the model has the tensor; None is a mismatch, but for a head."""
        self.models[model.reference] = model
        found = named_in(model, tensor)
        if found is not None:
            self.used[found] = None
            return found
        if not is_head(output) or not ties_head(model, tensor):
            near = ""
            if len(self.mismatches) < _HINTED:  # with thousands, each would take long
                odd = [name for name in model.entries if name not in self.donor.entries]
                near = did_you_mean(tensor, odd[:_MOST_HINTS])
            self.mismatches[
                f"{tensor}: in {self.donor.reference}, missing in {model.reference}.{near}"
            ] = None
        return None

    def missing(self, source: Source, parameter: str, tensor: str) -> None:
        """No setting of a parameter that is needed matches a tensor."""
        what = (
            f"{source.model} has no {parameter} for {tensor}: no filter matches it. "
            "Add a last entry without filter: `- value: ...`"
        )
        self.faults.setdefault(source.at, what)

    def checked(self, tensor: AssembledTensor) -> AssembledTensor:
        """The tensor; inputs of other shapes or kinds are noted."""
        self.used[tensor.name] = None
        self.merged |= dict.fromkeys([tensor.name, *(one.tensor for one in tensor.inputs)])
        like = tensor.like.slot.entry
        for one in tensor.inputs:
            if one.parameters.get("weight") == 0:  # takes no part, and may have any shape
                continue
            expected = f"{tensor.like.stored.given or tensor.like.stored.source}"
            for what in differences(one.tensor, one.entry, one.model.reference, like, expected):
                self.mismatches[what] = None
                rows = one.entry.shape[1:] == like.shape[1:]
                if rows and (is_embedding(one.tensor) or is_head(one.tensor)):
                    self.vocabulary = True
        return tensor

    def module_of(self, name: str) -> str | None:
        """The longest of the document's module names that a tensor's begins with."""
        names = [m.name for m in self.document.modules if m.name is not None]
        fitting = [one for one in names if name == one or name.startswith(one + ".")]
        return max(fitting, key=len, default=None)

    def raise_faults(self, tensors: Sequence[AssembledTensor]) -> None:
        """Raise ConfigError for faults of the recipe, MismatchError for those of the models."""
        idle = [] if self.document.lenient else self._idle_filters()
        told = ((at, f"{what}. {LENIENT}") for at, what in idle)
        faults = [*self.faults.items(), *told, *self._uncovered()]
        self.mismatches |= dict.fromkeys(self._left_over())
        if self.mismatches:
            advice = _WAYS_OUT if self.vocabulary else None
            raise_mismatches(list(self.mismatches), listed=self.listed, advice=advice)
        if faults:
            raise self.document.file.errors(faults)

    def _left_over(self) -> Iterator[str]:
        """Tensors that an input has and the output would not have, of models merged whole."""
        if any(not part.whole for module in self.document.modules for part in module.slices):
            return
        named = self.document.modules[0].name is not None
        for model in self.models.values():
            for name in model.entries:
                outside = named and self.module_of(name) is None  # _uncovered tells
                if name not in self.used and not outside:
                    yield f"{name}: in {model.reference}, missing in {self.donor.reference}"

    def _uncovered(self) -> Iterator[tuple[Location, str]]:
        if self.document.modules[0].name is None:
            return
        left = [name for name in self.donor.entries if self.module_of(name) is None]
        if left:
            what = f"no module has {left[0]} ({len(left)} tensors are in none). Add one"
            yield ("modules",), what

    def passed_over(self) -> Iterator[str]:
        """What of a lenient document has no use, and where it stands."""
        if self.document.lenient:
            yield from self.document.file.all_pointed(self._idle_filters())

    def _idle_filters(self) -> Iterator[tuple[Location, str]]:
        for settings in self._all_settings():
            for several in settings.values():
                for one in several:
                    if one.filter is not None and not any(map(one.matches, self.merged)):
                        words = dict.fromkeys(_words(self.merged))
                        hint = did_you_mean(one.filter, list(words)[:_MOST_HINTS])
                        what = f"the filter {shown(one.filter)} matches no tensor.{hint}"
                        yield (*one.at, "filter"), f"{what} A filter is a part of a tensor's name"

    def _all_settings(self) -> Iterator[Settings]:
        yield self.document.settings
        for module in self.document.modules:
            yield module.settings
            for part in module.slices:
                yield part.settings
                for source in part.sources:
                    yield source.settings


def _words(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        found = split(name)
        rest = name if found is None else found.suffix
        yield from (word for word in rest.split(".") if word and not word.isdigit())
