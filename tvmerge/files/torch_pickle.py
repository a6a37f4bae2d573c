"""Reads the pickle of a state dict without Python's unpickler: nothing that it names is ever run.

Of pickle's opcodes and of torch's names those are understood that torch.save needs for tensors by
name (torch/_utils.py: _rebuild_tensor_v2, _v3, _rebuild_parameter); anything else is refused. The
opcodes are described in Python's pickletools.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from struct import Struct
from typing import Any, NamedTuple

from tvmerge.files.dtype import ALL_TORCH_NAMES
from tvmerge.files.untrusted import shown

# Bounds time and memory: about 30 are taken for a tensor, and an empty dict takes 64 bytes.
_MOST_STEPS = 4_000_000
_MOST_DIMENSIONS = 64
_MOST_BYTES_OF_A_NUMBER = 8
_FLOAT = Struct(">d")

_STORAGES = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32",
    "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL", "ComplexFloat": "C64",
}  # fmt: skip


class Named(NamedTuple):
    """What the pickle calls by the name of a Python object."""

    name: str
    dtype: str | None = None  # its code, where it is a dtype or a storage of one


class Storage(NamedTuple):
    """The record `data/key` of the archive; without a dtype (untyped) its elements are bytes."""

    dtype: str | None
    key: str
    elements: int


class Tensor(NamedTuple):
    """A tensor in a storage: offset and strides are in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements follow one another in row-major order."""
        expected = 1
        for size, stride in zip(self.shape[::-1], self.strides[::-1], strict=True):
            if size != 1 and stride != expected:
                return math.prod(self.shape) == 0
            expected *= size
        return True


_NAMED = {
    name: Named(name)
    for name in (
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
    )
}
_NAMED |= {f"torch.{n}Storage": Named(f"torch.{n}Storage", code) for n, code in _STORAGES.items()}
_NAMED |= {f"torch.{name}": Named(f"torch.{name}", code) for code, name in ALL_TORCH_NAMES.items()}
_NAMED |= dict.fromkeys(
    ("torch.UntypedStorage", "torch.storage.UntypedStorage"), Named("torch.UntypedStorage")
)


def read_state_dict(text: bytes) -> dict[str, Tensor]:
    """The tensors by name that the pickle `text` describes, or its value `state_dict` does.

    Raises ValueError, whose text completes "the file ", for anything else.
    """
    found = _Machine(text).run()
    if type(found) is dict and type(found.get("state_dict")) is dict:
        found = found["state_dict"]  # beside it stands what the training needs to go on
    if type(found) is not dict:
        raise ValueError(f"holds a {_kind(found)}, expected tensors by name")
    for name, value in found.items():
        if type(value) is not Tensor:
            raise ValueError(f"holds a {_kind(value)} under {shown(name)}, expected tensors only")
    return found


def _kind(value: object) -> str:
    return {dict: "mapping", type(None): "None"}.get(type(value), type(value).__name__.lower())


class _Machine:
    """Pickle's stack machine over plain values, Named, Storage and Tensor."""

    def __init__(self, text: bytes) -> None:
        self._text, self._at = text, 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below the marks
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MOST_STEPS):
            (code,) = self.take(1)
            if code == _STOP:
                return self.pop()
            step = _STEPS.get(code)
            if step is None:
                raise ValueError(f"pickles more than tensors by name (opcode {code:#04x})")
            step(self)
        raise ValueError(f"takes more than {_MOST_STEPS:,} steps to unpickle")

    def take(self, count: int) -> bytes:
        taken = self._text[self._at : self._at + count]
        if len(taken) < count:
            raise ValueError("has a pickle that is cut off")
        self._at += count
        return taken

    def skip(self, count: int) -> None:
        self.take(count)

    def number(self, size_bytes: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size_bytes), "little", signed=signed)

    def line(self) -> str:
        end = self._text.find(b"\n", self._at)
        if end < 0:
            raise ValueError("has a pickle that is cut off")
        return self.take(end + 1 - self._at)[:-1].decode(errors="replace")

    def pop(self) -> Any:
        if not self._stack:
            raise ValueError("has a pickle that takes more than it put down")
        return self._stack.pop()

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def since_mark(self) -> list[Any]:
        if not self._below:
            raise ValueError("has a pickle that lacks a mark")
        found, self._stack = self._stack, self._below.pop()
        return found

    def top(self, kind: type) -> Any:
        if not self._stack or type(self._stack[-1]) is not kind:
            raise ValueError(f"has a pickle that expects a {kind.__name__} and finds none")
        return self._stack[-1]

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def tuple(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def text_of(self, size_bytes: int) -> None:
        text = self.take(self.number(size_bytes))
        try:
            self.push(text.decode())
        except UnicodeDecodeError:
            raise ValueError(f"holds the name {shown(text)}, which is not UTF-8") from None

    def long(self) -> None:
        count = self.number(1)
        if count > _MOST_BYTES_OF_A_NUMBER:
            raise ValueError(f"holds a number of {count} bytes, which no size has")
        self.push(self.number(count, signed=True))

    def keep(self, key: int) -> None:
        if not self._stack:
            raise ValueError("has a pickle that keeps what it does not have")
        self._memo[key] = self._stack[-1]

    def recall(self, key: int) -> None:
        if key not in self._memo:
            raise ValueError("has a pickle that recalls what it did not keep")
        self.push(self._memo[key])

    def append(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def set(self, pairs: list[Any]) -> None:
        held = self.top(dict)
        if len(pairs) % 2 or not all(type(key) is str for key in pairs[::2]):
            raise ValueError("holds a mapping whose keys are not names")
        held.update(zip(pairs[::2], pairs[1::2], strict=True))

    def find(self, module: str, name: str) -> None:
        found = _NAMED.get(f"{module}.{name}")
        if found is None:
            what = shown(f"{module}.{name}")
            raise ValueError(f"needs {what} to be read, expected tensors by name (nothing was run)")
        self.push(found)

    def find_on_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("has a pickle that names what is no text")
        self.find(module, name)

    def call(self) -> None:
        arguments, called = self.pop(), self.pop()
        if type(called) is not Named or type(arguments) is not tuple:
            raise ValueError("has a pickle that calls what cannot be called")
        self.push(_called(called.name, arguments))

    def build(self) -> None:
        """An OrderedDict has attributes, which say what versions the model's modules have."""
        self.pop()
        self.top(dict)

    def storage(self) -> None:
        match self.pop():
            case ("storage", Named(name, dtype), str(key), str(), int(count)) if (
                name.endswith("Storage") and count >= 0
            ):
                self.push(Storage(dtype, key, count))
            case other:
                raise ValueError(f"refers to {shown(other)}, expected a storage")


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    match name, arguments:
        case "collections.OrderedDict", ():
            return {}
        case "torch._utils._rebuild_parameter", (Tensor() as tensor, bool(), {}):
            return tensor
        case "torch._utils._rebuild_tensor_v2", (
            Storage(dtype=str(dtype)) as storage, offset, shape, strides, bool(), {}, *more
        ):  # fmt: skip
            return _tensor(storage, dtype, offset, shape, strides, more)
        case "torch._utils._rebuild_tensor_v3", (
            Storage(dtype=None) as storage, offset, shape, strides, bool(), {},
            Named(dtype=str(dtype)), *more
        ):  # fmt: skip
            return _tensor(storage, dtype, offset, shape, strides, more)
    raise ValueError(f"calls {name} with {shown(arguments)}, which makes no plain tensor")


def _tensor(
    storage: Storage, dtype: str, offset: object, shape: object, strides: object, more: list[Any]
) -> Tensor:
    if any(more):  # whether it is to be conjugated or negated when it is read
        raise ValueError("holds a tensor that is a conjugate or negative view")
    for sizes in (shape, strides, (offset,)):
        if type(sizes) is not tuple or not all(type(n) is int and 0 <= n < 2**63 for n in sizes):
            raise ValueError(f"holds a tensor whose sizes are {shown(sizes)}")
    assert isinstance(offset, int) and isinstance(shape, tuple) and isinstance(strides, tuple)
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        what = f"{len(shape)} sizes and {len(strides)} strides"
        raise ValueError(f"holds a tensor of {what}, {_MOST_DIMENSIONS} at most")
    return Tensor(storage, dtype, offset, shape, strides)


_STOP = ord(".")
_STEPS: dict[int, Callable[[_Machine], None]] = {
    0x80: lambda m: m.skip(1),  # the protocol
    0x95: lambda m: m.skip(8),  # a frame's length
    ord("("): _Machine.mark,
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.since_mark())),
    0x85: lambda m: m.tuple(1),
    0x86: lambda m: m.tuple(2),
    0x87: lambda m: m.tuple(3),
    ord("}"): lambda m: m.push({}),
    ord("]"): lambda m: m.push([]),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.since_mark()),
    ord("s"): lambda m: m.set([m.pop(), m.pop()][::-1]),
    ord("u"): lambda m: m.set(m.since_mark()),
    0x8C: lambda m: m.text_of(1),
    ord("X"): lambda m: m.text_of(4),
    ord("J"): lambda m: m.push(m.number(4, signed=True)),
    ord("K"): lambda m: m.push(m.number(1)),
    ord("M"): lambda m: m.push(m.number(2)),
    0x8A: _Machine.long,
    ord("G"): lambda m: m.push(_FLOAT.unpack(m.take(_FLOAT.size))[0]),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("q"): lambda m: m.keep(m.number(1)),
    ord("r"): lambda m: m.keep(m.number(4)),
    0x94: lambda m: m.keep(len(m._memo)),
    ord("h"): lambda m: m.recall(m.number(1)),
    ord("j"): lambda m: m.recall(m.number(4)),
    ord("c"): lambda m: m.find(m.line(), m.line()),
    0x93: _Machine.find_on_stack,
    ord("R"): _Machine.call,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.storage,
}
