"""The activations of `bias_act` and `modulated_epilogue`: names, plain-torch functions, usual gains and slopes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Activation:
    """One activation. ``code`` is its position in the enumeration of ops/pixel.h."""

    code: int
    function: Callable[[torch.Tensor, float], torch.Tensor]  # of (x, alpha)
    gain: float  # keeps the variance of a unit normal, where that is customary
    alpha: float = 0.0  # the default of what `function` takes
    bends: bool = True  # whether the second derivative is anything but zero


_TABLE = {
    "linear": (lambda x, alpha: x, 1.0, 0.0, False),
    "relu": (lambda x, alpha: F.relu(x), math.sqrt(2.0), 0.0, False),
    "lrelu": (F.leaky_relu, math.sqrt(2.0), 0.2, False),
    "tanh": (lambda x, alpha: x.tanh(), 1.0, 0.0, True),
    "sigmoid": (lambda x, alpha: x.sigmoid(), 1.0, 0.0, True),
    "elu": (F.elu, 1.0, 1.0, True),
    "selu": (lambda x, alpha: F.selu(x), 1.0, 0.0, True),
    "softplus": (lambda x, alpha: F.softplus(x), 1.0, 0.0, True),
    "swish": (lambda x, alpha: F.silu(x), math.sqrt(2.0), 0.0, True),
}
ACTIVATIONS = {name: Activation(code, *entry) for code, (name, entry) in enumerate(_TABLE.items())}


def settings(act: str, alpha: float | None, gain: float | None, clamp: float | None) -> tuple[float, float, float]:
    """alpha, gain and clamp with the activation's defaults filled in; a clamp of -1 means none."""
    if act not in ACTIVATIONS:
        raise ValueError(f"act is {act!r}, must be one of {', '.join(ACTIVATIONS)}")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"clamp is {clamp}, must be None or at least 0")
    found = ACTIVATIONS[act]
    return (
        found.alpha if alpha is None else float(alpha),
        found.gain if gain is None else float(gain),
        -1.0 if clamp is None else float(clamp),
    )


def apply(x: torch.Tensor, act: str, alpha: float, gain: float, clamp: float) -> torch.Tensor:
    """``clamp(act(x) * gain)`` in plain torch, with what `settings` gives."""
    x = ACTIVATIONS[act].function(x, alpha)
    if gain != 1:
        x = x * gain
    return x if clamp < 0 else x.clamp(-clamp, clamp)
