"""3x3 convolution with stride 1 that is trained through: Winograd's fewer multiplications forward and backward."""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.nn.functional as F

from sis_rearrange.ops import winograd
from sis_rearrange.ops.native import use_native

# Pixels of the batch below which transforming the weights costs more than the multiplications that it saves.
FEWEST_PIXELS = 512


class _Memory(winograd.Room):
    """Working memory that is kept, but a result of its own for every call."""

    def take(self, name: str, *shape: int) -> torch.Tensor:
        return torch.empty(shape) if name == "y" else super().take(name, *shape)


_local = threading.local()


def _convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The convolution itself; channels last."""
    if not hasattr(_local, "memory"):
        _local.memory = _Memory()
    n, out = x.shape[0], weight.shape[0]
    ones, zeros = torch.ones(n, max(x.shape[1], out)), torch.zeros(out)
    factors = ones.flatten()[: n * x.shape[1]].view(n, -1), ones.flatten()[: n * out].view(n, -1)
    pixels = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    packed = winograd.pack(weight, up=False)
    y = winograd.layer(pixels, packed, *factors, None, zeros, 1.0, False, _local.memory, "y")
    return y.permute(0, 3, 1, 2)


def _turned(weight: torch.Tensor) -> torch.Tensor:
    """The weights that carry a gradient back: in and out exchanged, the kernel turned around."""
    return weight.flip([2, 3]).transpose(0, 1)


class _Convolution(torch.autograd.Function):
    """``(x, weight)`` to y. Its gradient in x is the same convolution with turned weights."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        (dy,) = grads
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad
        return (
            _Convolution.apply(dy, _turned(weight)) if wants_x else None,
            _WeightGradient.apply(dy, x, weight) if wants_weight else None,
        )


class _WeightGradient(torch.autograd.Function):
    """``(dy, x)`` to the gradient of the weights: torch's own. Linear in both, so its gradients are convolutions."""

    @staticmethod
    def forward(ctx: Any, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(dy, x)
        ones, wanted = [1, 1], [False, True, False]
        return torch.ops.aten.convolution_backward(dy, x, weight, None, ones, ones, ones, False, [0, 0], 1, wanted)[1]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        (ddw,) = grads
        dy, x = ctx.saved_tensors
        wants_dy, wants_x, _ = ctx.needs_input_grad
        return (
            _Convolution.apply(x, ddw) if wants_dy else None,
            _Convolution.apply(dy, _turned(ddw)) if wants_x else None,
            None,
        )


def takes_native(x: torch.Tensor, weight: torch.Tensor, impl: str) -> bool:
    """Whether `conv3x3` takes the native path: float32 on the CPU, channels in multiples of 16, enough pixels."""
    if not use_native(impl, x) or not x.is_cpu or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    if torch.compiler.is_compiling() or type(x) not in (torch.Tensor, torch.nn.Parameter):
        return False  # tracers get the convolution that they know
    whole = weight.shape[0] % winograd.PANEL == 0 and weight.shape[1] % winograd.PANEL == 0
    return whole and x.numel() >= FEWEST_PIXELS * x.shape[1] and winograd.backend().library is not None


def conv3x3(x: torch.Tensor, weight: torch.Tensor, impl: str = "auto") -> torch.Tensor:
    """``conv2d(x, weight, padding=1)`` for weights ``[out, in, 3, 3]``; differentiable any number of times.

    Where `takes_native` says so it does with a quarter of the multiplications (but for the gradient of the weights);
    rounding errors are about 1e-5 of the largest value, ten times those of the plain convolution.
    """
    return _Convolution.apply(x, weight) if takes_native(x, weight, impl) else F.conv2d(x, weight, padding=1)
