"""Where torch merges whole matrices: what is there, what fits, one at a time on a card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock

import torch

from tvmerge.engine.decisions import Matrix
from tvmerge.engine.devices import ALL, CPU, parse_device
from tvmerge.engine.matrix_devices import VARIABLE, asked_device
from tvmerge.errors import DeviceError, MemoryLimitError

_MIB = 1024 * 1024
_ADVICE = f"Set {VARIABLE} to cpu, or give the engine less by --memory-device"


class Place:
    """The processor, or a card: any thread may have matrices merged there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_card = device.type != CPU
        # A card's threads share its stream: two at a time would only take memory for two.
        self._turn = Lock() if self.is_card else nullcontext()

    def merged(self, matrix: Matrix, parts: Sequence[torch.Tensor], tensor: str) -> torch.Tensor:
        """The merged delta, in memory. Raises as `merged` of the matrix, and as a card fails."""
        with self._turn, self._told(tensor):
            return matrix.merged([one.to(self.device) for one in parts]).cpu()

    def refuse_full(self, held_bytes: int, method: str) -> None:
        """Raise MemoryLimitError if it is a card without room for a matrix of this size."""
        if not self.is_card:
            return
        with self._told("torch"):
            torch.cuda.empty_cache()  # what torch keeps of the last batch is free
            free = torch.cuda.mem_get_info(self.device)[0]
        if free < held_bytes:
            raise MemoryLimitError(
                f"{method} takes {held_bytes // _MIB} MiB of a card for the largest matrix, and "
                f"{self.device} has {free // _MIB} MiB free. {_ADVICE}"
            )

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Errors of torch on a card as ours."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            message = f"{what}: {self.device} has no memory left: {error}. {_ADVICE}"
            raise MemoryLimitError(message) from error
        except RuntimeError as error:
            if not self.is_card:
                raise
            raise DeviceError(f"{what}: {self.device}: {error}. Set {VARIABLE} to cpu") from error


def find_places() -> list[Place]:
    """The devices that are asked for. Raises DeviceError where torch does not see one of them."""
    asked = asked_device()
    wanted = parse_device(asked)
    if not wanted:
        return [Place(torch.device(CPU))]
    count = torch.cuda.device_count()
    numbers = range(count) if wanted == ALL else wanted
    why = ""
    if torch.version.cuda is None and not count:
        why = f"torch {torch.__version__} is a build without CUDA. Install one for CUDA"
    elif not count:
        why = f"torch {torch.__version__} sees no card. Look at its driver with nvidia-smi"
    elif max(numbers) >= count:
        why = f"torch sees no card {max(numbers)}, but {count}, from 0 on. Name one of them"
    if why:
        raise DeviceError(f"{VARIABLE}={asked}: {why}, or set it to cpu")
    return [Place(torch.device("cuda", number)) for number in numbers]
