"""Upsample, filter and downsample: zero insertion, padding, FIR convolution, decimation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from sis_rearrange.ops.epilogue import dense
from sis_rearrange.ops.native import DTYPES, FilterArguments, accumulator, call, define, use_native

# What "auto" leaves to plain torch on a CPU: in NCHW lines that fill a register or two, in channels last a filter
# alone over a few channels
FEWEST_COLUMNS = 18
FEWEST_CHANNELS = 16


def fir_kernel(taps: Sequence[float] = (1, 3, 3, 1)) -> torch.Tensor:
    """Outer product of ``taps`` with itself, sum 1; float32 ``[n, n]``."""
    total = sum(taps) ** 2  # plain numbers: networks are planned without memory too, where no sum can be taken
    return torch.tensor([[a * b / total for a in taps] for b in taps], dtype=torch.float32)


def _out_size(size: int, taps: int, up: int, down: int, before: int, after: int) -> int:
    """Length of a filtered line of ``size`` samples."""
    return (size * up + before + after - taps) // down + 1


def _run(x, kernel, up, down, padding, flip, gain):  # type: ignore[no-untyped-def]
    y = _empty_result(x, kernel, up, down, padding)
    taps = kernel.to(accumulator(x.dtype)) * gain
    taps = (taps if flip else taps.flip([0, 1])).contiguous()
    n, c, h, w = x.shape
    arguments = FilterArguments(dtype=DTYPES[x.dtype], n=n, c=c, h=h, w=w, out_h=y.shape[2], out_w=y.shape[3])
    arguments.from_[:], arguments.to[:] = x.stride(), y.stride()
    arguments.taps_y, arguments.taps_x = kernel.shape
    (arguments.up_x, arguments.up_y), (arguments.down_x, arguments.down_y) = up, down
    arguments.pad_x, _, arguments.pad_y, _ = padding
    arguments.filter = taps.data_ptr()
    call("sis_upfirdn2d", x, arguments, x.data_ptr(), y.data_ptr())
    return y


def _empty_result(x, kernel, up, down, padding, flip=False, gain=1.0):  # type: ignore[no-untyped-def]
    n, c, h, w = x.shape
    height = _out_size(h, kernel.shape[0], up[1], down[1], padding[2], padding[3])
    width = _out_size(w, kernel.shape[1], up[0], down[0], padding[0], padding[1])
    planar = x.is_contiguous()
    layout = torch.contiguous_format if planar else torch.channels_last
    return torch.empty(n, c, height, width, dtype=x.dtype, device=x.device, memory_format=layout)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, kernel, *ctx.settings = inputs
    ctx.save_for_backward(kernel)
    ctx.size, ctx.out_size = x.shape[2:], output.shape[2:]


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
    """The same op with up and down exchanged, the kernel turned, and the padding that gives back the input's size."""
    (kernel,) = ctx.saved_tensors
    up, down, padding, flip, gain = ctx.settings
    back = []
    for axis, (size, out_size) in enumerate(zip(ctx.size[::-1], ctx.out_size[::-1], strict=True)):  # x, then y
        taps = kernel.shape[1 - axis]
        before = taps - 1 - padding[2 * axis]
        back += [before, (size - 1) * up[axis] + taps - out_size * down[axis] - before]
    # The last `down - 1` zeros after dy and up to `up - 1` input samples may lie beyond it: hence the exact sizes.
    return _upfirdn2d(dense(dy), kernel, down, up, back, not flip, gain), *[None] * 6


_upfirdn2d = define(
    "upfirdn2d",
    "(Tensor x, Tensor kernel, int[] up, int[] down, int[] padding, bool flip, float gain) -> Tensor",
    _run,
    _empty_result,
    _save,
    _backward,
)


def _reference(
    x: torch.Tensor, kernel: torch.Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int], gain: float
) -> torch.Tensor:
    """Plain torch; ``kernel`` is a correlation here."""
    n, c, h, w = x.shape
    if up[0] > 1 or up[1] > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up[0] - 1, 0, 0, 0, up[1] - 1]).reshape(n, c, h * up[1], w * up[0])
    x = F.pad(x, list(padding))
    weight = (kernel * gain).to(x.dtype)[None, None].expand(c, 1, -1, -1)
    return F.conv2d(x, weight, stride=(down[1], down[0]), groups=c)


def _pair(value: int | Sequence[int], name: str) -> list[int]:
    """(x, y) of a factor given as one number or as both."""
    pair = [value, value] if isinstance(value, int) else list(value)
    if len(pair) != 2 or not all(1 <= v <= 64 for v in pair):
        raise ValueError(f"{name} is {value}, must be a positive integer or two of them (x, y)")
    return pair


def _pays(x: torch.Tensor, resampled: bool, width: int) -> bool:
    """Whether the native path is at least as fast for lines of ``width`` results, as measured."""
    if not x.is_cpu:
        return True
    if x.is_contiguous():
        return width >= FEWEST_COLUMNS
    return resampled or x.shape[1] >= FEWEST_CHANNELS


def upfirdn2d(
    x: torch.Tensor,
    kernel: torch.Tensor,
    up: int | tuple[int, int] = 1,
    down: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | tuple[int, int, int, int] = 0,
    flip: bool = False,
    gain: float = 1.0,
    impl: str = "auto",
) -> torch.Tensor:
    """Filter every channel of ``x [N, C, H, W]`` with ``kernel`` between up- and downsampling.

    Differentiable any number of times in ``x`` (its gradient is this op again).

    Args:
        x: float32, float64, float16 or bfloat16, contiguous or channels last.
        kernel: ``[h, w]``, or ``[n]`` to be applied along both axes in turn.
        up: zeros are inserted so that each sample is followed by ``up - 1`` of them; one number or (x, y).
        down: every ``down``-th sample of the result is kept; one number or (x, y).
        padding: zeros at (left, right, top, bottom) of the upsampled image, or (x, y), or one number for all sides;
            negative values crop.
        flip: True for a correlation; False for a convolution, which turns the kernel around.
        gain: factor on the result; ``up * up`` keeps the brightness of an upsampled image.
        impl: as in `bias_act`; "auto" takes plain torch where that is faster, too.

    Raises:
        ValueError: a factor below 1, or a result without pixels.
    """
    ups, downs = _pair(up, "up"), _pair(down, "down")
    pads = [padding] * 4 if isinstance(padding, int) else list(padding)
    if len(pads) == 2:
        pads = [pads[0], pads[0], pads[1], pads[1]]
    if x.ndim != 4 or len(pads) != 4 or kernel.ndim not in (1, 2):
        raise ValueError(
            f"x {list(x.shape)} must be [N, C, H, W], kernel {list(kernel.shape)} 1-D or 2-D, padding 4 sides"
        )
    if kernel.ndim == 1:
        x = upfirdn2d(x, kernel[None], (ups[0], 1), (downs[0], 1), (pads[0], pads[1], 0, 0), flip, gain, impl)
        return upfirdn2d(x, kernel[:, None], (1, ups[1]), (1, downs[1]), (0, 0, pads[2], pads[3]), flip, 1.0, impl)
    height = _out_size(x.shape[2], kernel.shape[0], ups[1], downs[1], pads[2], pads[3])
    width = _out_size(x.shape[3], kernel.shape[1], ups[0], downs[0], pads[0], pads[1])
    if height < 1 or width < 1:
        raise ValueError(f"upfirdn2d would give {height} x {width} pixels: x {list(x.shape)}, padding {pads}")
    resampled = max(*ups, *downs) > 1
    worth = impl != "auto" or _pays(x, resampled, width)
    if worth and use_native(impl, x) and not kernel.requires_grad:
        return _upfirdn2d(dense(x), kernel, ups, downs, pads, flip, gain)
    return _reference(x, kernel if flip else kernel.flip([0, 1]), ups, downs, pads, gain)


def upsample2d(x: torch.Tensor, kernel: torch.Tensor, impl: str = "auto") -> torch.Tensor:
    """Twice the height and width of ``x [N, C, H, W]``, brightness kept; even-sized ``kernel``."""
    n = kernel.shape[0]
    before, after = (n + 1) // 2, (n - 2) // 2
    return upfirdn2d(x, kernel, up=2, padding=(before, after, before, after), gain=4.0, impl=impl)


def downsample2d(x: torch.Tensor, kernel: torch.Tensor, impl: str = "auto") -> torch.Tensor:
    """Half the height and width of ``x [N, C, H, W]``; even-sized ``kernel``."""
    n = kernel.shape[0]
    before, after = (n - 1) // 2, (n - 2) // 2
    return upfirdn2d(x, kernel, down=2, padding=(before, after, before, after), impl=impl)
