"""Names of dtypes: what people write (bfloat16), what safetensors headers say (BF16)."""

from __future__ import annotations

from tvmerge.errors import ConfigError, did_you_mean

TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
# With those that no merge can be asked to write.
ALL_TORCH_NAMES = TORCH_NAMES | {
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "C64": "complex64",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
_CODES = {name: code for code, name in TORCH_NAMES.items()} | {
    code.lower(): code for code in TORCH_NAMES
}


def parse_dtype(name: str) -> str:
    """The safetensors code of a dtype: `bfloat16`, `torch.bfloat16`, `BF16` and `bf16` are one.

    Raises ConfigError for any other name.
    """
    code = _CODES.get(name.lower().removeprefix("torch."))
    if code is None:
        known = list(TORCH_NAMES.values())
        hint = did_you_mean(name.lower(), _CODES)
        raise ConfigError(f"dtype {name!r}: expected one of {', '.join(known)}.{hint}")
    return code
