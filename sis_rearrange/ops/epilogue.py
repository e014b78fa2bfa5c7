"""The fused epilogue of a modulated convolution, and under it the ops that `bias_act` runs on too.

Three private ops, each on a native kernel, carry it through `torch.library` into autograd, `torch.compile` and
`torch.export`. With ``v = x * scale + noise * strength + bias`` and ``f(v) = clamp(act(v) * gain)``:

- ``epilogue``: ``f(v)``
- ``epilogue_grad``: with ``g = dy * f'(v)``, ``g * scale`` and the sums of ``g``, ``g * x`` and ``g * noise``, in one
  pass over memory; all gradients of ``epilogue`` follow from these
- ``curve``: ``t * f'(v)`` or ``t * f''(v)``, for second gradients
"""

from __future__ import annotations

import math
from typing import Any

import torch

from sis_rearrange.ops.activations import ACTIVATIONS, apply, settings
from sis_rearrange.ops.native import DTYPES, EpilogueArguments, accumulator, call, define, use_native

_PIECE = 16384  # elements whose sums one thread takes at a time; part of the result's bits, so not of the machine's
_SETTINGS = "str act, float alpha, float gain, float clamp"
_OPERANDS = "Tensor? scale, Tensor? noise, Tensor? strength, Tensor? bias"


def dense(x: torch.Tensor) -> torch.Tensor:
    """``x`` if it is contiguous or channels last, otherwise a contiguous copy."""
    return x if x.is_contiguous() or _interleaved(x) else x.contiguous()


def _interleaved(x: torch.Tensor) -> bool:
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``x`` in the memory layout of ``other``, which is dense."""
    return x.contiguous(memory_format=torch.channels_last if _interleaved(other) else torch.contiguous_format)


def _arguments(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    noise: torch.Tensor | None,
    strength: torch.Tensor | None,
    bias: torch.Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
) -> tuple[EpilogueArguments, int, list[torch.Tensor]]:
    """Arguments of the native call, the rows of its sums, and the tensors that must outlive the call."""
    n, c = x.shape[:2]
    s = x.numel() // (n * c)
    interleaved = _interleaved(x) or s == 1
    if scale is None and noise is None and s == 1:  # [N, C]: one long plane of N pixels
        n, s = 1, n
    kept = [
        torch.ones(c, dtype=accumulator(x.dtype), device=x.device) if scale is None else scale.contiguous(),
        torch.zeros(c, dtype=accumulator(x.dtype), device=x.device) if bias is None else bias.contiguous(),
    ]
    chunk = max(1, _PIECE // c) if interleaved else s
    result = EpilogueArguments(dtype=DTYPES[x.dtype], interleaved=int(interleaved), n=n, c=c, s=s, chunk=chunk)
    result.scale, result.scale_step = kept[0].data_ptr(), 0 if scale is None else c
    result.bias = kept[1].data_ptr()
    if noise is not None:
        kept.append(noise.contiguous())
        result.noise, result.noise_step = kept[-1].data_ptr(), 0 if noise.numel() == s else s
        result.strength = strength.data_ptr() if strength is not None else None
    result.act, result.alpha, result.gain, result.clamp = ACTIVATIONS[act].code, alpha, gain, clamp
    return result, n * math.ceil(s / chunk), kept


def _run_epilogue(x, scale, noise, strength, bias, act, alpha, gain, clamp):  # type: ignore[no-untyped-def]
    arguments, _, _kept = _arguments(x, scale, noise, strength, bias, act, alpha, gain, clamp)
    y = torch.empty_like(x)
    call("sis_epilogue", x, arguments, x.data_ptr(), y.data_ptr())
    return y


def _run_grad(dy, x, scale, noise, strength, bias, act, alpha, gain, clamp):  # type: ignore[no-untyped-def]
    """dx, and the sums of g, g * x and g * noise: ``[N, 3, C]``, or ``[1, 3, C]`` over all samples without scale."""
    arguments, rows, _kept = _arguments(x, scale, noise, strength, bias, act, alpha, gain, clamp)
    dy, dx = _like(dy, x), torch.empty_like(x)
    sums = torch.empty(rows, 3, x.shape[1], dtype=accumulator(x.dtype), device=x.device)
    call("sis_epilogue_grad", x, arguments, dy.data_ptr(), x.data_ptr(), dx.data_ptr(), sums.data_ptr())
    samples = 1 if scale is None else x.shape[0]
    return dx, sums if rows == samples else sums.reshape(samples, -1, 3, x.shape[1]).sum(dim=1)


def _run_curve(t, v, order, act, alpha, gain, clamp):  # type: ignore[no-untyped-def]
    out, t = torch.empty_like(v), _like(t, v)
    arguments = EpilogueArguments(dtype=DTYPES[v.dtype], n=1, c=1, s=v.numel())
    arguments.act, arguments.alpha, arguments.gain, arguments.clamp = ACTIVATIONS[act].code, alpha, gain, clamp
    call("sis_curve", v, arguments, order, t.data_ptr(), v.data_ptr(), out.data_ptr())
    return out


def _fake_epilogue(x, scale, noise, strength, bias, act, alpha, gain, clamp):  # type: ignore[no-untyped-def]
    return torch.empty_like(x)


def _fake_grad(dy, x, scale, noise, strength, bias, act, alpha, gain, clamp):  # type: ignore[no-untyped-def]
    rows = 1 if scale is None else x.shape[0]
    return torch.empty_like(x), x.new_empty(rows, 3, x.shape[1], dtype=accumulator(x.dtype))


def _fake_curve(t, v, order, act, alpha, gain, clamp):  # type: ignore[no-untyped-def]
    return torch.empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Tensors to the graph, settings (the last four inputs) beside them."""
    ctx.save_for_backward(*inputs[:-4])
    ctx.settings = inputs[-4:]
    ctx.set_materialize_grads(False)


def _epilogue_backward(ctx: Any, dy: torch.Tensor | None) -> tuple[Any, ...]:
    if dy is None:
        return (None,) * 9
    x, scale, noise, strength, bias = ctx.saved_tensors
    dx, sums = _epilogue_grad(dy, x, scale, noise, strength, bias, *ctx.settings)
    _, wants_scale, _, wants_strength, wants_bias = ctx.needs_input_grad[:5]
    return (
        dx,
        sums[:, 1] if wants_scale else None,
        None,
        sums[:, 2].sum().reshape(strength.shape) if wants_strength else None,
        sums[:, 0].sum(dim=0) if wants_bias else None,
        *[None] * 4,
    )


def _spread(row: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``[N, C]`` or ``[C]`` to the number of dimensions of ``x``."""
    return row.reshape(*([1] if row.ndim == 1 else []), *row.shape, *[1] * (x.ndim - 2))


def _grad_backward(ctx: Any, ddx: torch.Tensor | None, dsums: torch.Tensor | None) -> tuple[Any, ...]:
    """Second gradients. The loss is linear in g: the sum of ``g * q``, with q from both cotangents."""
    if ddx is None and dsums is None:
        return (None,) * 10
    dy, x, scale, noise, strength, bias = ctx.saved_tensors
    bends = ACTIVATIONS[ctx.settings[0]].bends
    if scale is None and noise is None and not bends:  # R1: nothing but dy matters
        q = ddx
        if dsums is not None:
            row = _spread(dsums[:, 0], x).to(x.dtype)
            q = row.expand_as(x) if q is None else q + row
        return (_epilogue_grad(q, x, None, None, None, bias, *ctx.settings)[0], *[None] * 9)

    wide = accumulator(x.dtype)
    x_, dy_ = x.to(wide), dy.to(wide)
    noise_ = None if noise is None else noise.reshape(-1, 1, *x.shape[2:])
    q = x_.new_zeros([1] * x.ndim) if ddx is None else ddx.to(wide) * (1 if scale is None else _spread(scale, x))
    v = x_ if scale is None else x_ * _spread(scale, x)
    if noise_ is not None:
        v = v + (noise_ if strength is None else noise_ * strength)
    if bias is not None:
        v = v + _spread(bias, x)
    if dsums is not None:
        q = q + _spread(dsums[:, 0], x)
        if scale is not None:
            q = q + _spread(dsums[:, 1], x) * x_
        if noise_ is not None:
            q = q + _spread(dsums[:, 2], x) * noise_
    q, v = q.expand_as(x), dense(v)
    pixels = list(range(2, x.ndim))
    g = _curve(dy_, v, 1, *ctx.settings)
    through_v = _curve(dy_ * q, v, 2, *ctx.settings) if bends else None

    grad_x = grad_scale = grad_strength = grad_bias = None
    if dsums is not None and scale is not None:
        grad_x = g * _spread(dsums[:, 1], x)
    if ddx is not None and scale is not None:
        grad_scale = (ddx.to(wide) * g).sum(dim=pixels)
    if through_v is not None:
        along = through_v if scale is None else through_v * _spread(scale, x)
        grad_x = along if grad_x is None else grad_x + along
        if scale is not None:
            more = (through_v * x_).sum(dim=pixels)
            grad_scale = more if grad_scale is None else grad_scale + more
        if strength is not None:
            grad_strength = (through_v * noise_).sum().reshape(strength.shape)
        if bias is not None:
            grad_bias = through_v.sum(dim=[0, *pixels])
    grad_x = None if grad_x is None else grad_x.to(x.dtype)
    grad_dy = _curve(q, v, 1, *ctx.settings).to(dy.dtype)
    return grad_dy, grad_x, grad_scale, None, grad_strength, grad_bias, *[None] * 4


def _save_curve(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.order, ctx.settings = inputs[2], inputs[3:]


def _curve_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    t, v = ctx.saved_tensors
    along_v = None
    if ACTIVATIONS[ctx.settings[0]].bends and ctx.needs_input_grad[1]:
        if ctx.order > 1:
            raise NotImplementedError(f"third derivatives of {ctx.settings[0]}: use impl='ref'")
        along_v = _curve(grad * t, v, 2, *ctx.settings)
    return _curve(grad, v, ctx.order, *ctx.settings), along_v, *[None] * 5


_epilogue = define(
    "epilogue",
    f"(Tensor x, {_OPERANDS}, {_SETTINGS}) -> Tensor",
    _run_epilogue,
    _fake_epilogue,
    _save,
    _epilogue_backward,
)
_epilogue_grad = define(
    "epilogue_grad",
    f"(Tensor dy, Tensor x, {_OPERANDS}, {_SETTINGS}) -> (Tensor, Tensor)",
    _run_grad,
    _fake_grad,
    _save,
    _grad_backward,
)
_curve = define(
    "curve",
    f"(Tensor t, Tensor v, int order, {_SETTINGS}) -> Tensor",
    _run_curve,
    _fake_curve,
    _save_curve,
    _curve_backward,
)


def fused(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    noise: torch.Tensor | None,
    strength: torch.Tensor | None,
    bias: torch.Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float,
) -> torch.Tensor:
    """The native op on ``x [N, C, ...]``, operands brought to the type it computes in."""
    wide = accumulator(x.dtype)
    operands = [None if t is None else t.to(wide) for t in (scale, noise, strength, bias)]
    return _epilogue(dense(x), *operands, act, alpha, gain, clamp)


def modulated_epilogue(
    x: torch.Tensor,
    demodulation: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    noise_strength: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    act: str = "lrelu",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """``clamp(act(x * demodulation + noise * noise_strength + bias) * gain)``: what follows a modulated convolution.

    The native path reads ``x`` once and writes once, in the forward and in the backward pass; second gradients work.

    Args:
        x: ``[N, C, H, W]``, float32, float64, float16 or bfloat16, contiguous or channels last.
        demodulation: ``[N, C]`` or None.
        noise: ``[H, W]`` for all samples, or ``[N, 1, H, W]``; None for none.
        noise_strength: one number, or None for 1.
        bias: ``[C]`` or None.
        act, alpha, gain, clamp, impl: as in `bias_act`.
    """
    alpha, gain, clamp = settings(act, alpha, gain, clamp)
    learned_noise = noise is not None and noise.requires_grad  # rare: the fused backward has no sum over channels
    if not learned_noise and use_native(impl, x):
        return fused(
            x, demodulation, noise, noise_strength if noise is not None else None, bias, act, alpha, gain, clamp
        )
    if demodulation is not None:
        x = x * demodulation[:, :, None, None].to(x.dtype)
    if noise is not None:
        x = x + (noise if noise_strength is None else noise * noise_strength).to(x.dtype)
    if bias is not None:
        x = x + bias[:, None, None].to(x.dtype)
    return apply(x, act, alpha, gain, clamp)
