"""Upsample, filter and downsample: zero insertion, padding, FIR convolution, decimation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def fir_kernel(taps: Sequence[float] = (1, 3, 3, 1)) -> torch.Tensor:
    """Outer product of ``taps`` with itself, sum 1; float32 ``[n, n]``."""
    line = torch.tensor(taps, dtype=torch.float32)
    kernel = torch.outer(line, line)
    return kernel / kernel.sum()


def upfirdn2d(
    x: torch.Tensor,
    kernel: torch.Tensor,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    gain: float = 1.0,
) -> torch.Tensor:
    """Filter every channel of ``x [N, C, H, W]`` with ``kernel [h, w]`` (true convolution: the kernel is flipped).

    Args:
        up: zeros are inserted so that each sample is followed by ``up - 1`` of them.
        down: every ``down``-th sample of the result is kept.
        padding: zeros at (left, right, top, bottom) of the upsampled image; negative values crop.
        gain: factor on the result; ``up * up`` keeps the brightness of an upsampled image.
    """
    n, c, h, w = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1]).reshape(n, c, h * up, w * up)
    x = F.pad(x, list(padding))
    weight = (kernel.flip([0, 1]) * gain).to(x.dtype)[None, None].expand(c, 1, -1, -1)
    return F.conv2d(x, weight, stride=down, groups=c)


def upsample2d(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Twice the height and width of ``x [N, C, H, W]``, brightness kept; even-sized ``kernel``."""
    n = kernel.shape[0]
    before, after = (n + 1) // 2, (n - 2) // 2
    return upfirdn2d(x, kernel, up=2, padding=(before, after, before, after), gain=4.0)


def downsample2d(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Half the height and width of ``x [N, C, H, W]``; even-sized ``kernel``."""
    n = kernel.shape[0]
    before, after = (n - 1) // 2, (n - 2) // 2
    return upfirdn2d(x, kernel, down=2, padding=(before, after, before, after))
