"""Bias, activation, gain and clamp in one call."""

from __future__ import annotations

import torch

from sis_rearrange.ops.activations import apply, settings
from sis_rearrange.ops.epilogue import fused
from sis_rearrange.ops.native import use_native


def bias_act(
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    dim: int = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """``clamp(act(x + bias) * gain)``.

    Args:
        x: any float tensor; float32, float64, float16 and bfloat16 have a native path.
        bias: ``[x.shape[dim]]`` or None.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: negative slope of lrelu (None: 0.2), scale of elu (None: 1); the others ignore it.
        gain: factor after the activation; None takes the customary one (sqrt 2 for relu, lrelu and swish, else 1).
        clamp: largest absolute value of the result; None for no limit.
        dim: the dimension of ``x`` that ``bias`` runs along.
        impl: "auto" for the native op where there is one, "native" to insist on it (RuntimeError where it is
            missing), "ref" for plain torch.

    Raises:
        ValueError: unknown ``act`` or ``impl``, a negative ``clamp``, or a bias of the wrong length.
    """
    alpha, gain, clamp = settings(act, alpha, gain, clamp)
    if bias is not None and bias.shape != x.shape[dim : dim + 1 or None]:
        raise ValueError(f"bias is {list(bias.shape)}, x is {list(x.shape)} with the bias along dimension {dim}")
    if not use_native(impl, x):
        if bias is not None:
            x = x + bias.to(x.dtype).reshape([-1 if i == dim % x.ndim else 1 for i in range(x.ndim)])
        return apply(x, act, alpha, gain, clamp)
    dim = dim % x.ndim if bias is not None else min(1, x.ndim - 1)
    if dim == 1 and x.ndim > 1:
        return fused(x, None, None, None, bias, act, alpha, gain, clamp)
    if dim == x.ndim - 1 and x.ndim > 1:
        flat = x.reshape(-1, x.shape[-1])
    else:
        flat = x.reshape(x.shape[:dim].numel(), x.shape[dim], -1)
    return fused(flat, None, None, None, bias, act, alpha, gain, clamp).reshape(x.shape)
