"""What a study stores of its vectors is made once, also by a run that was killed meanwhile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_model

from tvmerge import Checkpoint, gram
from tvmerge.training.study import random_vector as module
from tvmerge.training.study.random_vector import random_vector
from tvmerge.training.study.vectors import StudyVectors


class Killed(BaseException):
    """Stands for the signal: nothing catches it."""


def stop(*_: object, **__: object) -> None:
    raise Killed


def stop_at(place: Path, *, renamed: bool) -> Callable[[Path, Path], None]:
    """A rename that stops where something is to be called `place`: before that, or after."""

    def rename(path: Path, target: Path) -> None:
        if target != place or renamed:
            os.rename(path, target)  # noqa: PTH104 (what is replaced is Path.rename)
        if target == place:
            raise Killed

    return rename


@pytest.fixture
def vectors(tmp_path: Path) -> StudyVectors:
    def model(name: str, seed: int) -> Checkpoint:
        drawn = np.random.default_rng(seed).standard_normal((16, 8)).astype(np.float32)
        return Checkpoint(write_model(tmp_path / name, {"a.weight": drawn}))

    (tmp_path / "vectors").mkdir()
    return StudyVectors(
        base=model("base", 0),
        have={"greed": model("greed", 1), "pride": model("pride", 2)},
        lack={"greed": model("thrift", 3), "pride": model("modesty", 4)},
        direct={},
        traits=("greed", "pride"),
        controls=(),
        unrelated="pride",
        folder=tmp_path / "vectors",
    )


@pytest.mark.parametrize("moment", ["while it is drawn", "once it is drawn", "once it is there"])
def test_a_random_vector_is_drawn_after_a_kill(
    vectors: StudyVectors, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    like, folder = vectors.removed("contrastive"), vectors.folder
    undisturbed = random_vector(like, folder / "undisturbed", seed=1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if moment == "while it is drawn":
            patch.setattr(module, "write_random_vector", stop)
        else:
            renamed = moment == "once it is there"
            patch.setattr(Path, "rename", stop_at(folder / "drawn", renamed=renamed))
        random_vector(like, folder / "drawn", seed=1)
    assert (folder / "drawn").exists() == (moment == "once it is there")
    assert (folder / ".drawn.like").exists()
    found = random_vector(like, folder / "drawn", seed=1)
    assert {path.name for path in folder.iterdir()} == {"undisturbed", "drawn"}
    assert gram([found - undisturbed])[0][0] == 0 < gram([found])[0][0]


@pytest.mark.parametrize(("function", "left"), [("_build", 2), ("rmtree", 3)])
def test_a_method_s_vector_is_made_after_a_kill(
    vectors: StudyVectors, monkeypatch: pytest.MonkeyPatch, function: str, left: int
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StudyVectors if function == "_build" else shutil, function, stop)
        vectors.removed("ties")
    # The two models that the method merges, and what it has made of them.
    assert len(list(vectors.folder.iterdir())) == left
    vectors.removed("ties")
    (made,) = vectors.folder.iterdir()
    assert made.name.startswith("ties.merged")
