"""The example of a cluster is what Ray's own launcher accepts, and what a study there needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLE = Path(__file__).parents[3] / "examples" / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    found = yaml.safe_load(EXAMPLE.read_text())
    assert isinstance(found, dict)
    return found


def check(cluster: dict[str, Any]) -> dict[str, Any]:
    """What Ray makes of the file, judged as `ray up` does before it asks for any machine."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(cluster)
    validate_config(prepared)
    return prepared


def test_ray_accepts_the_example(cluster: dict[str, Any]) -> None:
    prepared = check(cluster)
    kinds = prepared["available_node_types"]
    assert kinds[prepared["head_node_type"]]["resources"]["CPU"] == 0
    # A study is refused where no machine that is there has room for a job.
    assert kinds["gpu"]["min_workers"] > 0 and kinds["gpu"]["resources"]["GPU"] > 0


def test_every_machine_mounts_the_shared_folder(cluster: dict[str, Any]) -> None:
    prepared = check(cluster)
    for kind in ("head_setup_commands", "worker_setup_commands"):
        assert any("mount -t nfs4" in one and "/shared" in one for one in prepared[kind])


def test_ray_refuses_a_key_that_it_does_not_know(cluster: dict[str, Any]) -> None:
    from jsonschema import ValidationError

    cluster["available_node_types"]["gpu"]["min_worker"] = 1
    with pytest.raises(ValidationError, match="min_worker"):
        check(cluster)
