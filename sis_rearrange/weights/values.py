"""From inert records to what the package works with: torch tensors on the CPU, and plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

from sis_rearrange.errors import InputError
from sis_rearrange.weights.inert import RawArray, RawTensor
from sis_rearrange.weights.reading import MAX_JSON_DEPTH, MAX_JSON_VALUES, MAX_NAME, MAX_TEXT, Damaged, Reading, shown
from sis_rearrange.weights.torch_files import ITEM_SIZES

State = dict[str, torch.Tensor]


class NotPlain(Exception):
    """A value has no counterpart in JSON."""


def is_tensor(value: object) -> bool:
    """Whether a value out of a file is a tensor or a numpy array."""
    return type(value) is RawTensor or type(value) is RawArray


def as_state(values: Mapping[Any, Any], reading: Reading) -> State:
    """Contiguous tensors of their own, floating ones float32 and finite, integer and boolean ones as they are.

    Raises ``InputError`` where names or tensors are not plain, or claim more memory than the file has.
    """
    try:
        state = {_name(name): _tensor(value, reading) for name, value in values.items()}
    except Damaged as error:
        raise reading.damaged(error, "weight file") from error
    for name, tensor in state.items():
        require_finite(tensor, name, f"in {reading.where}; the file is damaged or its training diverged")
    return state


def require_finite(tensor: torch.Tensor, name: str, remark: str) -> None:
    """``InputError`` with ``remark`` where a floating tensor holds NaN or infinite values."""
    if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
        return
    bad = int((~torch.isfinite(tensor)).sum())
    raise InputError(f"tensor {shown(name)} holds {bad:,} NaN or infinite values of {tensor.numel():,}: {remark}")


def as_json(value: object, reading: Reading) -> Any:
    """``value`` as JSON reads it back (tuples become lists). Raises ``NotPlain`` for what JSON has no word for.

    The same list may be in a file's data many times over, and even in itself: values and depth are counted.
    """
    return _as_json(value, reading, [MAX_JSON_VALUES], 0)


def _as_json(value: object, reading: Reading, left: list[int], depth: int) -> Any:
    count = 1 + (len(value) if isinstance(value, (list, tuple, dict)) else 0)
    reading.spend_operations(count)
    left[0] -= count
    if depth > MAX_JSON_DEPTH or left[0] < 0:
        raise NotPlain(f"it has more than {MAX_JSON_VALUES:,} values, or {MAX_JSON_DEPTH} levels")
    if value is None or type(value) in (bool, int):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is str and len(value) <= MAX_TEXT:
        return value
    if type(value) in (list, tuple):
        return [_as_json(item, reading, left, depth + 1) for item in value]  # type: ignore[attr-defined]
    if type(value) is dict and all(type(key) is str and len(key) <= MAX_TEXT for key in value):
        return {key: _as_json(item, reading, left, depth + 1) for key, item in value.items()}
    raise NotPlain(f"it has a {type(value).__name__}")


def plain_entries(values: object, reading: Reading) -> dict[str, Any]:
    """The entries of a dictionary that JSON has a word for; ``{}`` where it is no dictionary."""
    plain: dict[str, Any] = {}
    if not isinstance(values, dict):
        return plain
    reading.spend_operations(len(values))
    for key, value in values.items():
        if type(key) is str and len(key) <= MAX_TEXT:
            try:
                plain[key] = as_json(value, reading)
            except NotPlain:
                continue
    return plain


def _name(name: object) -> str:
    if type(name) is not str or len(name) > MAX_NAME or not name.isprintable():
        raise Damaged(f"{shown(name, 40)!r} is no name of a tensor")
    return name


def _tensor(value: object, reading: Reading) -> torch.Tensor:
    """The one place where memory for tensors is taken: exactly as much as the view has elements."""
    if type(value) is RawTensor:
        numbers, code = _tensor_view(value, reading)
    elif type(value) is RawArray:
        numbers, code = _array_view(value, reading)
    elif isinstance(value, (int, float)) and abs(value) < 1 << 62:  # how TensorFlow wrote variables without dimensions
        reading.spend_tensor(1)
        return torch.tensor(value, dtype=torch.float32 if isinstance(value, float) else None)
    else:
        raise Damaged(f"a {type(value).__name__} stands where a tensor belongs")
    if code == "bf16":  # the upper half of a float32
        wide = numbers.astype(np.uint32, order="C")
        wide <<= 16
        return torch.from_numpy(wide.view(np.float32))
    wanted = {"f": np.float32, "b": np.bool_}.get(code[0], np.dtype(code))
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite here is found afterwards
        own = np.array(numbers, dtype=wanted, order="C", copy=True)
    return torch.from_numpy(own)


def _tensor_view(value: RawTensor, reading: Reading) -> tuple[np.ndarray, str]:
    storage = value.storage
    if storage.data is None or storage.dtype == "raw":
        raise Damaged("a tensor has no data")
    item, count = ITEM_SIZES[storage.dtype], math.prod(value.size)
    reading.spend_tensor(count * item)
    dtype = np.dtype("<u2" if storage.dtype == "bf16" else "u1" if storage.dtype == "b1" else f"<{storage.dtype}")
    if count == 0:
        return _empty(value.size, dtype), storage.dtype
    last = value.offset + sum((n - 1) * step for n, step in zip(value.size, value.stride, strict=True))
    if last >= storage.numel:
        raise Damaged("a tensor reaches beyond its storage")
    flat = np.frombuffer(storage.data, dtype, count=last + 1 - value.offset, offset=value.offset * item)
    return as_strided(flat, value.size, [step * item for step in value.stride], writeable=False), storage.dtype


def _array_view(value: RawArray, reading: Reading) -> tuple[np.ndarray, str]:
    if value.dtype is None or value.data is None:
        raise Damaged("a numpy array has no data")
    code, count = value.dtype.code, math.prod(value.shape)
    if count * ITEM_SIZES[code] != len(value.data):
        raise Damaged("a numpy array does not have as many bytes as its shape needs")
    reading.spend_tensor(len(value.data))
    swapped = ">" if value.dtype.big_endian else "<"
    dtype = np.dtype("u1" if code == "b1" else f"{swapped}{code}")
    if count == 0:
        return _empty(value.shape, dtype), code
    return np.frombuffer(value.data, dtype).reshape(value.shape, order="F" if value.fortran else "C"), code


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if math.prod(n for n in shape if n) > 1 << 40:
        raise Damaged("a tensor has no sensible shape")
    return np.zeros(shape, dtype)
