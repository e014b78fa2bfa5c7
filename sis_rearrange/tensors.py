"""The tensor contract: shape checks, image and label conversions, seeded noise.

Images are float32 ``[N, 3, H, W]`` in [-1, 1] inside and uint8 ``[N, H, W, 3]`` at file and screen edges.
``z [N, z_dim]``, ``ws [N, num_ws, w_dim]``. A feature map is ``[N, C, r, r]`` and travels with its RGB skip image
``[N, 3, r, r]``. A proxy mask is labels ``[N, h, w]`` int64 in [0, K), or one-hot or soft ``[N, K, h, w]``.
Randomness comes from one seed per sample, drawn on the CPU: sample 7 is the same image in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


def assert_shape(x: torch.Tensor, shape: Sequence[int | None]) -> None:
    """Raise ValueError unless ``x`` has ``shape``; None stands for any size."""
    if x.ndim != len(shape) or any(
        want is not None and have != want for have, want in zip(x.shape, shape, strict=True)
    ):
        raise ValueError(f"expected a tensor of shape {list(shape)}, got {list(x.shape)}")


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Float images ``[N, 3, H, W]`` in [-1, 1] to uint8 ``[N, H, W, 3]``; values outside are clipped."""
    assert_shape(images, [None, 3, None, None])
    scaled = (images.detach().float() * 127.5 + 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def from_uint8(images: np.ndarray) -> torch.Tensor:
    """uint8 images ``[N, H, W, 3]`` to float32 ``[N, 3, H, W]`` in [-1, 1]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"expected uint8 [N, H, W, 3], got {images.dtype} {list(images.shape)}")
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def one_hot(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Labels ``[N, h, w]`` int64 in [0, K) to float32 ``[N, K, h, w]``."""
    assert_shape(labels, [None, None, None])
    return F.one_hot(labels, num_classes).permute(0, 3, 1, 2).float()


def instance_norm(x: torch.Tensor) -> torch.Tensor:
    """Each channel of each sample of ``[N, C, h, w]`` to mean 0 and variance 1: torch's, with a gradient to rely on.

    Of one sample torch 2.14's own has a wrong gradient on the CPU where what comes back is laid out channels last.
    """
    normed = F.instance_norm(x)
    if normed.requires_grad:
        normed.register_hook(torch.Tensor.contiguous)
    return normed


def seeded_normal(seeds: Sequence[int], shape: Sequence[int], stream: int = 0) -> torch.Tensor:
    """Standard normal ``[len(seeds), *shape]`` float32 on the CPU; row i depends on ``seeds[i]`` and ``stream``."""
    rows = []
    for seed in seeds:
        # A large odd stride keeps the streams of neighbouring seeds apart; stream 0 is the plain seed.
        generator = torch.Generator().manual_seed((int(seed) + 0x9E3779B97F4A7C15 * stream) % 2**63)
        rows.append(torch.randn(*shape, generator=generator))
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def cell_grid(height: int, width: int) -> torch.Tensor:
    """Centres of the cells as (y, x) in [-1, 1]; float32 ``[2, height, width]``."""
    if torch.get_default_device().type == "meta":  # only shapes are asked for, and arithmetic on them costs a second:
        return torch.empty(2, height, width)  # it imports torch's compiler
    y = (torch.arange(height) + 0.5) / height * 2 - 1
    x = (torch.arange(width) + 0.5) / width * 2 - 1
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))


def is_traced() -> bool:
    """Whether a graph is being made, which is to hold for any number of samples: nothing may depend on that then."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()
