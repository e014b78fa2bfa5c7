"""Bias, activation, gain and clamp in one call."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

# name -> (function, gain that keeps the variance of a unit normal)
_ACTIVATIONS = {
    "linear": (lambda x, alpha: x, 1.0),
    "lrelu": (lambda x, alpha: F.leaky_relu(x, alpha), math.sqrt(2.0)),
}


def bias_act(
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    act: str = "linear",
    alpha: float = 0.2,
    gain: float | None = None,
    clamp: float | None = None,
    dim: int = 1,
) -> torch.Tensor:
    """``clamp(act(x + bias) * gain)``.

    Args:
        x: any float tensor.
        bias: ``[x.shape[dim]]`` or None.
        act: ``linear`` or ``lrelu``.
        alpha: negative slope of ``lrelu``.
        gain: factor after the activation; None takes the activation's variance-keeping gain (1 or sqrt 2).
        clamp: largest absolute value of the result; None for no limit.
        dim: the dimension of ``x`` that ``bias`` runs along.
    """
    function, default_gain = _ACTIVATIONS[act]
    if bias is not None:
        shape = [1] * x.ndim
        shape[dim] = -1
        x = x + bias.reshape(shape)
    x = function(x, alpha)
    gain = default_gain if gain is None else gain
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)
