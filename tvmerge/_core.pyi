"""The native engine (csrc/bindings.cpp): runs flat lists of jobs over files."""

from collections.abc import Callable, Sequence

class Source:
    def __init__(self, file: int, offset_bytes: int, dtype: str, coefficient: float) -> None: ...

class CombineJob:
    def __init__(
        self,
        *,
        sources: Sequence[Source],
        elements: int,
        out_file: int,
        out_offset_bytes: int,
        out_dtype: str,
        reference: int,
    ) -> None: ...

class CopyJob:
    def __init__(
        self,
        *,
        file: int,
        offset_bytes: int,
        size_bytes: int,
        out_file: int,
        out_offset_bytes: int,
        same_as: Sequence[tuple[int, int]],
    ) -> None: ...

class MeasureJob:
    def __init__(
        self, *, sources: Sequence[Source], elements: int, rows: Sequence[float]
    ) -> None: ...

def merge(
    inputs: Sequence[str],
    outputs: Sequence[str],
    combines: Sequence[CombineJob],
    copies: Sequence[CopyJob],
    *,
    threads: int,
    slice_bytes: int,
    buffer_bytes: int,
    isa: str = ...,
    progress: Callable[[int], None] | None = ...,
) -> tuple[list[int], list[int]]: ...
def measure(
    inputs: Sequence[str],
    jobs: Sequence[MeasureJob],
    *,
    threads: int,
    buffer_bytes: int,
    isa: str = ...,
    progress: Callable[[int], None] | None = ...,
) -> list[tuple[list[float], list[int]]]: ...
def available_isas() -> list[str]: ...
