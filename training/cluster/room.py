"""Whether a Ray has room for a job, and for how many of them at once."""

from __future__ import annotations

from tvmerge.errors import ConfigError
from tvmerge.training.settings.sections import Resources


def check_room(resources: Resources, workers: int) -> None:
    """Raise ConfigError where a job of so many workers would wait for ever, or fail on the GPU."""
    import ray

    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    each = f", for each of {workers} workers (train.workers)" if workers > 1 else ""
    for kind, count in _asked(resources).items():
        if count * workers > there.get(kind, 0):
            raise ConfigError(
                f"resources.{kind.lower()}s_per_job: expected at most the "
                f"{there.get(kind, 0):g} {kind}s that Ray reports, found {count:g}{each}. "
                "Ask for fewer, or connect to a larger cluster."
            )
    if workers > 1 and 0 < resources.gpus_per_job < 1:
        raise ConfigError(
            f"resources.gpus_per_job: expected 0 or 1 with train.workers: {workers}, found "
            f"{resources.gpus_per_job:g}. A job's workers cannot share a GPU."
        )


def side_by_side(resources: Resources, workers: int) -> int:
    """How many jobs of so many workers fit at once."""
    import ray

    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return min(
        int(there[kind] // (count * workers)) for kind, count in _asked(resources).items() if count
    )


def _asked(resources: Resources) -> dict[str, float]:
    return {"CPU": resources.cpus_per_job, "GPU": resources.gpus_per_job}
