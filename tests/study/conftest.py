"""One Ray for the tests of studies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tvmerge.training.cluster.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One local Ray with two CPUs for the whole session, started when first used."""
    from tvmerge.training.cluster.cluster import Cluster

    with Cluster(cpus=2) as cluster:
        yield cluster
