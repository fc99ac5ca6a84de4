"""Arrays of the three types of weights, and of the integers of quantised ones; bfloat16, which numpy has not, as uint16 with its bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int32": 4, "int64": 8}
NUMPY_TYPES = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
FT_NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}  # of config.ini and of the scripts' arguments
SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "I8", "int32": "I32", "int64": "I64"}


def type_of(array: Array) -> str:
    return next(name for name, stored in NUMPY_TYPES.items() if stored == array.dtype.str)


def widened(array: Array) -> Array:
    """As float32 if it is bfloat16, else as it is."""
    return array if array.dtype != np.uint16 else (array.astype(np.uint32, order="K") << 16).view(np.float32)


def cast(array: Array, dtype: str) -> Array:
    """Its values in that type, rounded to nearest even, contiguous. FloatingPointError where float16 cannot hold one that is finite."""
    return np.ascontiguousarray(_converted(array, dtype))


def _converted(array: Array, dtype: str) -> Array:
    """A copy in the order of its memory: from there a transposed one is turned three times as fast as from a mapped file."""
    if type_of(array) == dtype:
        return array.copy(order="K")
    array = widened(array)
    if dtype == "bfloat16":
        bits = array.astype(np.float32, order="K").view(np.uint32)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(array), (bits >> 16 | 0x40).astype(np.uint16), rounded)
    with np.errstate(over="raise"):
        return array.astype(dtype, order="K")
