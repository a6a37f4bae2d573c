"""What must always hold of merge methods: signs, order, scale 0, threads, broken input."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.checkpoints import read_model, write_model
from support.method_models import (
    SHAPES,
    Arrays,
    merge,
    recipe,
    weighted,
)

from tvmerge.algebra.operands import Checkpoint
from tvmerge.algebra.scaled import weighting_at
from tvmerge.algebra.sweep import sweep
from tvmerge.cli import cli
from tvmerge.engine.deciding import decided
from tvmerge.engine.jobs import Combine, size_bytes
from tvmerge.engine.matrices import Scratch
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError
from tvmerge.merging.merge import save_checkpoint
from tvmerge.methods import METHODS
from tvmerge.plans.batches import cut
from tvmerge.plans.plan import plan_checkpoint
from tvmerge.receipts.parsing import read_receipt
from tvmerge.recipe import build, parse_recipe
from tvmerge.replay import replay


@pytest.mark.parametrize("method", ["nearswap", "ramplus_tl", "negmerge", "consensus_ta", "emr"])
def test_what_is_broken_in_an_input_shows(folder: Path, tmp_path: Path, method: str) -> None:
    base = read_model(folder / "base")
    broken = {name: value + value.dtype.type(1) for name, value in base.items() if name != "ids"}
    broken["embed"][3, 4:6] = np.nan, np.inf
    write_model(tmp_path / "base", {name: base[name] for name in broken})
    write_model(tmp_path / "a", broken)
    out = merge(recipe(tmp_path, method, {"a": {}}, **LEAST.get(method, {})), tmp_path / "out")
    assert not np.isfinite(out["embed"][3, 4:6]).any()
    assert np.isfinite(out["embed"]).sum() == base["embed"].size - 2


# What a recipe has to say.
LEAST: dict[str, dict[str, float]] = {
    "nearswap": {"t": 0.01},
    "negmerge": {"weight": 1},
    "consensus_ta": {"weight": 1, "k": 1},
    "emr": {"weight": 1},
}
# What one of a single model has to say.
ALONE: dict[str, dict[str, float]] = {"consensus_ta": {"k": 1}, "pcb": {"ratio": 1}}

ELABORATE = {
    "ties": {"density": 0.3},
    "dare_ties": {"density": 0.3},
    "dare_linear": {"density": 0.3},
    "della": {"density": 0.3},
    "della_linear": {"density": 0.3},
    "breadcrumbs": {"density": 0.3},
    "breadcrumbs_ties": {"density": 0.3},
    "negmerge": {},
    "consensus_ta": {},
    "emr": {},
}
MIRRORED = ("ties", "dare_ties", "breadcrumbs_ties", "della", "negmerge", "consensus_ta", "emr")


@pytest.mark.parametrize("method", ELABORATE)
def test_weights_that_are_all_negative_subtract(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str
) -> None:
    """mergekit's ties adds here: it divides by a sum of weights that is negative too."""
    plus = merge(
        recipe(folder, method, {m: {"weight": 0.5, **ELABORATE[method]} for m in "abc"}),
        tmp_path / "plus",
    )
    minus = merge(
        recipe(folder, method, {m: {"weight": -0.5, **ELABORATE[method]} for m in "abc"}),
        tmp_path / "minus",
    )
    for name in SHAPES:
        base = held["base"][name].astype(np.float64)
        added, taken = plus[name] - base, minus[name] - base
        if method in MIRRORED:
            # A sum of exactly 0 elects the positive: else the two are mirror images.
            assert np.allclose(added, -taken, rtol=1e-4, atol=1e-6)
        assert (added * taken).sum() < 0


@pytest.mark.parametrize("method", ELABORATE)
def test_lambda_0_gives_the_base_byte_for_byte(
    folder: Path, held: dict[str, Arrays], method: str
) -> None:
    text = recipe(folder, method, weighted(**ELABORATE[method]), **{"lambda": 0.0})
    model = build(parse_recipe(Path("r"), text.encode()))
    state = model.state_dict()
    for name in SHAPES:
        assert state[name].numpy().tobytes() == held["base"][name].tobytes()


@pytest.mark.parametrize(
    "method",
    [
        "ties",
        "breadcrumbs_ties",
        "ram",
        "ramplus_tl",
        "sce",
        "model_stock",
        "negmerge",
        "consensus_ta",
        "emr",
    ],
)
def test_the_order_of_the_models_does_not_matter(folder: Path, tmp_path: Path, method: str) -> None:
    own = {"weight": 0.5, **ELABORATE[method]} if method in ELABORATE else {}
    outs = [
        merge(recipe(folder, method, dict.fromkeys(order, own)), tmp_path / order)
        for order in ("abc", "cab")
    ]
    for name in SHAPES:
        assert np.allclose(outs[0][name], outs[1][name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        "ties",
        "dare_ties",
        "breadcrumbs_ties",
        "della",
        "sce",
        "negmerge",
        "consensus_ta",
        "emr",
        "pcb",
    ],
)
def test_one_model_alone_with_all_of_it_kept_is_that_model(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str
) -> None:
    own = {} if method == "sce" else {"weight": 1.0}
    out = merge(recipe(folder, method, {"a": own}, **ALONE.get(method, {})), tmp_path / "out")
    for name in SHAPES:
        assert np.allclose(out[name], held["a"][name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "method",
    [
        "ties",
        "dare_ties",
        "sce",
        "multislerp",
        "ramplus_tl",
        "della",
        "negmerge",
        "consensus_ta",
        "emr",
    ],
)
def test_threads_batches_and_instruction_sets_change_no_bit_and_a_replay_finds_the_same(
    folder: Path, tmp_path: Path, method: str
) -> None:
    own = {} if method in ("sce", "ramplus_tl") else {"weight": 0.5, **ELABORATE.get(method, {})}
    more = {"select_topk": 0.3} if method == "sce" else {}
    text = recipe(folder, method, dict.fromkeys("abc", own), **more)
    runs = (
        RunOptions(threads=1),
        RunOptions(threads=3, slice_bytes=4096, batch_bytes=10_000),
        RunOptions(threads=2, isa="generic"),
    )
    held = []
    for number, options in enumerate(runs):
        merge(text, tmp_path / str(number), options)
        held.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert held[1:] == held[:-1]
    (tmp_path / "recipe.yaml").write_text(text)
    done = CliRunner().invoke(cli, ["merge", f"{tmp_path}/recipe.yaml", f"{tmp_path}/out"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == held[0]
    assert replay(read_receipt(tmp_path / "out")) == ()


def test_every_method_says_what_it_takes(folder: Path) -> None:
    for name, method in METHODS.items():
        assert method.coefficients or method.decision, name
        with pytest.raises(ConfigError, match=re.escape("densty")):
            parse_recipe(Path("r"), recipe(folder, name, {"a": {}}, densty=1).encode())


def test_whole_models_of_checkpoints_stay_what_they_were(folder: Path) -> None:
    text = recipe(folder, "task_arithmetic", {"a": {"weight": 1.0}})
    assert isinstance(build(parse_recipe(Path("r"), text.encode())), Checkpoint)


def with_more_rows(folder: Path, out: Path) -> None:
    """The fine-tune a, whose embedding has a row more and holds nothing but NaN."""
    grown = read_model(folder / "a")
    rows, columns = grown["embed"].shape
    write_model(out, {**grown, "embed": np.full((rows + 1, columns), np.nan, np.float32)})


def left_out(folder: Path, other: Path, method: str) -> str:
    """A recipe in which `other` has the weight 0 for the embedding, and b all of it."""
    own = "{weight: [{filter: embed, value: 0}, {value: 0.5}]}"
    base = f"base_model: {folder}/base\n"
    models = f"  - {{model: {other}, parameters: {own}}}\n"
    models += f"  - {{model: {folder}/b, parameters: {{weight: 0.5}}}}\n"
    return f"merge_method: {method}\n{base}models:\n{models}parameters: {ALONE.get(method, {})}\n"


@pytest.mark.parametrize(
    "method",
    ["ties", "dare_ties", "della", "breadcrumbs", "negmerge", "consensus_ta", "emr", "pcb"],
)
def test_a_model_of_weight_0_is_not_read_and_may_have_any_shape(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str
) -> None:
    with_more_rows(folder, tmp_path / "grown")
    out = merge(left_out(folder, tmp_path / "grown", method), tmp_path / "out")
    text = recipe(folder, method, {"b": {"weight": 0.5}}, **ALONE.get(method, {}))
    alone = merge(text, tmp_path / "alone")
    assert out["embed"].tobytes() == alone["embed"].tobytes()
    assert out["embed"].shape == held["base"]["embed"].shape


@pytest.mark.parametrize("method", ["nuslerp", "multislerp"])
def test_methods_that_measure_every_model_refuse_other_shapes_whatever_the_weight(
    folder: Path, tmp_path: Path, method: str
) -> None:
    with_more_rows(folder, tmp_path / "grown")
    with pytest.raises(ConfigError, match=r"embed: shape \[71, 33\].*expected \[70, 33\]"):
        merge(left_out(folder, tmp_path / "grown", method), tmp_path / "out")


@pytest.mark.parametrize(("method", "passes"), [("ties", 2), ("dare_ties", 2), ("model_stock", 2)])
def test_what_is_read_twice_takes_its_room_in_the_page_cache_once(
    folder: Path, method: str, passes: int
) -> None:
    """A merge that seems to fill memory leaves the page cache to others, and is slower for it."""
    own = {"weight": 0.5, **ELABORATE[method]} if method in ELABORATE else {}
    model = build(parse_recipe(Path("r"), recipe(folder, method, {"a": own, "b": own}).encode()))
    plan = plan_checkpoint([model.weighting], model.donor)
    for job in (job for job in plan.jobs if isinstance(job, Combine)):
        once = size_bytes("F32", job.elements)
        assert (job.bytes_read, job.bytes_held) == (passes * 3 * once, 4 * once)


@pytest.mark.parametrize(
    ("method", "of_merge"),
    [
        ("ties", {}),
        ("dare_ties", {}),
        ("model_stock", {}),
        ("model_stock", {"filter_wise": True}),
        ("tsv", {}),
        ("pcb", {}),
    ],
)
def test_a_sweep_measures_once_for_all_scales_and_gives_each_merge_its_bytes(
    folder: Path, tmp_path: Path, method: str, of_merge: dict[str, bool]
) -> None:
    own = {"weight": 0.5, **ELABORATE[method]} if method in ELABORATE else {}
    text = recipe(folder, method, {"a": own, "b": own}, **of_merge)
    model = build(parse_recipe(Path("r"), text.encode()))
    plans = [
        plan_checkpoint([weighting_at(model, scale) for scale in scales], model.donor)
        for scales in ([1.0], [0.25, 0.5, 1.0])
    ]
    moved = []
    for plan in plans:
        names = [Path(str(n)) for n in range(len(plan.shards) * plan.variants)]
        (batch,) = cut(plan, names)
        moved.append(decided(batch.jobs, batch.inputs, RunOptions().workspace(), Scratch())[1])
    assert moved[0] == moved[1] > 0
    sweep(model, [0.25, 0.5, 1.0], tmp_path / "all")
    for name, scale in (("scale-0.25", 0.25), ("scale-1", 1.0)):
        alone = tmp_path / name
        weighting = weighting_at(model, scale)
        save_checkpoint(weighting, model.donor, alone, dtype=None, options=RunOptions())
        swept = tmp_path / "all" / name / "model.safetensors"
        assert swept.read_bytes() == (alone / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("method", "own", "of_merge"),
    [
        ("ties", {"weight": 1.0, "density": -0.1}, {}),
        ("breadcrumbs", {"weight": 1.0, "gamma": -0.1}, {}),
        ("della", {"weight": 1.0, "epsilon": -0.1}, {}),
        ("sce", {}, {"select_topk": -0.1}),
        ("ram", {}, {"epsilon": -0.1}),
    ],
)
def test_shares_and_magnitudes_below_0_are_refused(
    folder: Path, method: str, own: dict[str, float], of_merge: dict[str, float]
) -> None:
    text = recipe(folder, method, {"a": own}, **of_merge)
    with pytest.raises(ConfigError, match=r"expected (0 or more|a share from 0 to 1), found"):
        parse_recipe(Path("r"), text.encode())
