"""Where torch merges whole matrices: on the processor, or on cards.

Cards give other last bits than the processor, as another version of torch does; so it is part of
what torch a merge was made by, and, like that, of the environment:

    TVMERGE_MATRIX_DEVICE=cuda    or cuda:1, cuda:0,1, cuda:all; by default cpu
"""

from __future__ import annotations

import os

from tvmerge.engine.devices import CPU, parse_device
from tvmerge.errors import ConfigError

VARIABLE = "TVMERGE_MATRIX_DEVICE"
CARDS = "cuda"  # whichever of them


def asked_device() -> str:
    """The device by its name. Raises ConfigError for what is none."""
    asked = os.environ.get(VARIABLE) or CPU
    try:
        parse_device(asked)
    except ConfigError as error:
        raise ConfigError(f"{VARIABLE}: {error}") from error
    return asked
