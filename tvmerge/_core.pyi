"""The native engine (csrc/bindings/bindings.cpp): runs flat lists of jobs over files."""

from collections.abc import Callable, Mapping, Sequence

# tvmerge.engine.jobs.Combine: tensor, sources, elements, results, and what is left to Python.
_Range = tuple[int, int, str, bool]
_Result = tuple[int, int, str, int, tuple[float, ...], object]  # see Output
_Planned = tuple[str, tuple[_Range, ...], int, tuple[_Result, ...], object]

class Card:
    def __init__(self, index: int, *, memory_bytes: int, cufile: str = ...) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def pinned_bytes(self) -> int: ...
    @property
    def direct_bytes(self) -> int: ...
    def forget(self) -> None: ...

# index, name, compute capability, free and total bytes, why it cannot be used (empty if it can)
def cards() -> list[tuple[int, str, tuple[int, int], int, int, str]]: ...
def cuda_problem() -> str: ...

class Source:
    def __init__(self, file: int, offset_bytes: int, dtype: str, digested: bool = ...) -> None: ...

class RowFactors:
    @property
    def row(self) -> int: ...
    @property
    def factors(self) -> list[float]: ...

class DrawnMask:
    def __init__(self, *, elements: int) -> None: ...

class Part:
    def __init__(
        self,
        *,
        source: int,
        weight: float,
        gain: float = ...,
        outer: tuple[int, int] = ...,
        inner: tuple[int, int] = ...,
        of_variance: bool = ...,
        random_below: int = ...,
        key: int = ...,
        row: int = ...,
        random_span: int = ...,
        limit: float = ...,
        alone: float = ...,
        factors: RowFactors | None = ...,
        threshold: float = ...,
        votes: int = ...,
        mask: DrawnMask | None = ...,
    ) -> None: ...

class Consensus:
    def __init__(
        self,
        *,
        parts: Sequence[Part],
        scale: float,
        elect: bool,
        elect_first: bool = ...,
        normalize: bool,
        least: int = ...,
        largest: bool = ...,
    ) -> None: ...

class LineCoefficients:
    def __init__(self, *, run: int, count: int, sources: Sequence[int], values: bytes) -> None: ...

class Output:
    def __init__(
        self,
        *,
        file: int,
        offset_bytes: int,
        dtype: str,
        reference: int,
        coefficients: Sequence[float],
        consensus: Consensus | None = ...,
        lines: LineCoefficients | None = ...,
    ) -> None: ...

class CombineJob:
    def __init__(
        self, *, sources: Sequence[Source], elements: int, outputs: Sequence[Output]
    ) -> None: ...
    @staticmethod
    def planned(
        job: _Planned, inputs: Mapping[int, int], outputs: Mapping[int, int]
    ) -> CombineJob: ...

class CopyJob:
    def __init__(
        self,
        *,
        file: int,
        offset_bytes: int,
        size_bytes: int,
        digested: bool,
        targets: Sequence[tuple[int, int]],
        same_as: Sequence[Source],
    ) -> None: ...

class MeasureJob:
    def __init__(
        self, *, sources: Sequence[Source], elements: int, rows: Sequence[float]
    ) -> None: ...

class LineGramsJob:
    def __init__(
        self,
        *,
        sources: Sequence[Source],
        elements: int,
        rows: Sequence[float],
        run: int,
        count: int,
    ) -> None: ...

class SelectJob:
    def __init__(
        self,
        *,
        sources: Sequence[Source],
        elements: int,
        queries: Sequence[tuple[int, int | float]],
        factors: RowFactors | None = ...,
    ) -> None: ...

class DivergenceJob:
    def __init__(self, *, sources: Sequence[Source], elements: int, row: int) -> None: ...

class DeltaSumsJob:
    def __init__(
        self,
        *,
        sources: Sequence[Source],
        elements: int,
        parts: Sequence[Part],
        counted: bool = ...,
        elected: int = ...,
    ) -> None: ...

class MergeResult:
    @property
    def edits(self) -> list[list[tuple[int, int, int, float, float, float]]]: ...
    @property
    def different(self) -> list[int]: ...
    @property
    def cloned_bytes(self) -> int: ...
    @property
    def input_digests(self) -> list[bytes]: ...
    @property
    def output_digests(self) -> list[bytes]: ...

def merge(
    inputs: Sequence[str],
    outputs: Sequence[str | tuple[int, int] | None],
    combines: Sequence[CombineJob],
    copies: Sequence[CopyJob],
    *,
    threads: int,
    slice_bytes: int,
    buffer_bytes: int,
    mapped_bytes: int = ...,
    isa: str = ...,
    drop_behind: bool = ...,
    progress: Callable[[int], None] | None = ...,
    cards: Sequence[Card] = ...,
) -> MergeResult: ...
def floor(
    inputs: Sequence[str],
    outputs: Sequence[str | tuple[int, int] | None],
    combines: Sequence[CombineJob],
    copies: Sequence[CopyJob],
    *,
    threads: int,
    slice_bytes: int,
    buffer_bytes: int,
    drop_behind: bool = ...,
    progress: Callable[[int], None] | None = ...,
) -> None: ...
def measure(
    inputs: Sequence[str],
    jobs: Sequence[MeasureJob],
    *,
    threads: int,
    buffer_bytes: int,
    mapped_bytes: int = ...,
    isa: str = ...,
    drop_behind: bool = ...,
    progress: Callable[[int], None] | None = ...,
    cards: Sequence[Card] = ...,
) -> list[tuple[list[float], list[int]]]: ...
def line_grams(
    inputs: Sequence[str],
    jobs: Sequence[LineGramsJob],
    *,
    threads: int,
    buffer_bytes: int,
    mapped_bytes: int = ...,
    isa: str = ...,
    drop_behind: bool = ...,
    progress: Callable[[int], None] | None = ...,
    cards: Sequence[Card] = ...,
) -> list[bytes]: ...
def select(
    inputs: Sequence[str],
    jobs: Sequence[SelectJob],
    *,
    threads: int,
    buffer_bytes: int,
    mapped_bytes: int = ...,
    isa: str = ...,
    drop_behind: bool = ...,
    progress: Callable[[int], None] | None = ...,
    cards: Sequence[Card] = ...,
) -> list[list[tuple[int, int]]]: ...
def delta_sums(
    inputs: Sequence[str],
    jobs: Sequence[DeltaSumsJob],
    *,
    threads: int,
    buffer_bytes: int,
    mapped_bytes: int = ...,
    isa: str = ...,
    drop_behind: bool = ...,
    progress: Callable[[int], None] | None = ...,
    cards: Sequence[Card] = ...,
) -> list[list[tuple[float, float, float, int, int]]]: ...
def divergences(
    inputs: Sequence[str],
    jobs: Sequence[DivergenceJob],
    *,
    threads: int,
    buffer_bytes: int,
    mapped_bytes: int = ...,
    isa: str = ...,
    drop_behind: bool = ...,
    progress: Callable[[int], None] | None = ...,
    cards: Sequence[Card] = ...,
) -> list[RowFactors]: ...
def combine_tensors(
    terms: Sequence[tuple[int, str, float]],
    out: tuple[int, str],
    elements: int,
    *,
    threads: int = ...,
    isa: str = ...,
    card: int | None = ...,
    stream: int = ...,
) -> None: ...
def add_low_rank(
    out: int,
    left: int,
    right: int,
    *,
    rows: int,
    rank: int,
    columns: int,
    scale: float,
    threads: int = ...,
    isa: str = ...,
) -> None: ...
def allocate(path: str, size_bytes: int) -> None: ...
def available_isas() -> list[str]: ...
