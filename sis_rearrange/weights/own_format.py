"""The package's own file format: safetensors with the configuration as JSON in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from sis_rearrange.errors import InputError
from sis_rearrange.images import write_bytes
from sis_rearrange.weights.reading import Reading, shown
from sis_rearrange.weights.values import State, require_finite

# A fp16 mantissa keeps a relative error below 2**-11. A tensor that loses clearly more than that sits in the
# subnormal range (variances, tiny gains), where halving would silently flush it to zero.
_HALF_ERROR = 2e-3


def encode_weights(state: Mapping[str, torch.Tensor], config: Mapping[str, Any], half: bool = True) -> bytes:
    """The bytes of the safetensors file for ``state`` and JSON-able ``config``: the same input, the same bytes.

    With ``half`` floating tensors become float16, save those that would overflow or lose their digits in it, which
    stay float32. Raises ``InputError`` for NaN or infinite values (a training run that diverged).
    """
    tensors: State = {}
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        if tensor.is_floating_point():
            require_finite(tensor, name, "not written; the training diverged")
            tensor = _halved(tensor) if half else tensor.float()
        # clone: safetensors refuses tensors that share memory, as tied weights do
        tensors[name] = tensor.contiguous().clone()
    # One metadata key only: the library keeps them in an unordered map, so two would make the bytes vary.
    text = json.dumps(dict(config), sort_keys=True, allow_nan=False)
    return safetensors.torch.save(tensors, metadata={"config": text})


def write_weights(
    path: str | Path, state: Mapping[str, torch.Tensor], config: Mapping[str, Any], half: bool = True
) -> None:
    """Write ``encode_weights(state, config, half)`` to ``path``, atomically: whole file or no file."""
    write_bytes(path, encode_weights(state, config, half))


def decode_safetensors(data: bytes, reading: Reading) -> tuple[dict[str, Any], State]:
    """Configuration (``{}`` where there is none) and tensors of a safetensors file, as ``as_state`` gives them."""
    try:
        loaded = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
        config = json.loads(metadata.get("config", "{}"))
    except (
        safetensors.SafetensorError,
        ValueError,
        KeyError,
        RuntimeError,
        OverflowError,
        TypeError,
        AttributeError,
    ) as error:
        raise reading.damaged(error, "safetensors file") from error
    if not isinstance(config, dict):
        raise InputError(f"{reading.where}: its config is a {type(config).__name__}, not a dictionary; write it again")
    state: State = {}
    for name, tensor in loaded.items():
        if tensor.is_complex():
            raise reading.refused(f"entry {shown(name)!r} is not a plain tensor; save dense real tensors")
        state[name] = (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
        require_finite(state[name], name, f"in {reading.where}; the file is damaged or its training diverged")
    return config, state


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    """float16 where that keeps the values, else float32."""
    full = tensor.float()
    half = full.half()
    error = (half.float() - full).norm()
    keeps = bool(torch.isfinite(half).all()) and bool(error <= _HALF_ERROR * full.norm())
    return half if keeps else full
