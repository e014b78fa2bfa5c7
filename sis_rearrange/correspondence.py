"""Correspondence: which source cell does each target cell take its features from? Match, rearrange, draw.

One attention call does it all. The rows of the soft match are never stored: what people want to know of them (the mass
that falls on each source class, the mean source position) is appended to the values and comes out of the same call.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from sis_rearrange.tensors import assert_shape, cell_grid


class Match(NamedTuple):
    """Result of `rearrange`, one column per target cell."""

    values: torch.Tensor  # [N, V, h, w]: source values, averaged by the soft match
    class_probability: torch.Tensor  # [N, K, h, w]: mass of the match on each source class, sums to 1
    position: torch.Tensor  # [N, 2, h, w]: mean source position as (y, x) in [-1, 1]


def rearrange(
    query: torch.Tensor,
    key: torch.Tensor,
    values: torch.Tensor,
    source_mask: torch.Tensor,
    sharpness: torch.Tensor,
) -> Match:
    """Soft match by cosine similarity, ``softmax(sharpness * cos(query, key))``, applied to ``values``.

    Args:
        query: ``[N, d, h, w]`` of the target cells.
        key: ``[N, d, hs, ws]`` of the source cells.
        values: ``[N, V, hs, ws]`` to be moved.
        source_mask: one-hot or soft labels of the source cells, ``[N, K, hs, ws]``.
        sharpness: factor on the cosine before the softmax; a scalar tensor.
    """
    n, d, h, w = query.shape
    _, _, hs, ws = key.shape
    assert_shape(key, [n, d, None, None])
    assert_shape(values, [n, None, hs, ws])
    assert_shape(source_mask, [n, None, hs, ws])
    grid = cell_grid(hs, ws).to(values)[None].expand(n, -1, -1, -1)
    carried = torch.cat([values, source_mask.to(values), grid], dim=1)

    # The match is sharp: in reduced precision its logits would be off by whole units.
    with torch.autocast(query.device.type, enabled=False):
        moved = _attend(query.float(), key.float(), carried.float(), sharpness.float())
    return Match(*moved.reshape(n, carried.shape[1], h, w).split([values.shape[1], source_mask.shape[1], 2], dim=1))


def _attend(query: torch.Tensor, key: torch.Tensor, carried: torch.Tensor, sharpness: torch.Tensor) -> torch.Tensor:
    """``[N, d, h, w]``, ``[N, d, hs, ws]``, ``[N, V, hs, ws]`` to ``[N, V, h * w]``."""
    d, channels = query.shape[1], carried.shape[1]
    # Fused kernels on the CPU want one width for query, key and value: zeros in the shorter ones change no product.
    width = max(d, channels)
    q = F.pad((F.normalize(query, dim=1) * sharpness).flatten(2).transpose(1, 2), [0, width - d])
    k = F.pad(F.normalize(key, dim=1).flatten(2).transpose(1, 2), [0, width - d])
    v = F.pad(carried.flatten(2).transpose(1, 2), [0, width - channels])
    moved = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=1.0)[:, 0]
    return moved.transpose(1, 2)[:, :channels]


def draw_positions(position: np.ndarray) -> np.ndarray:
    """Source positions (y, x) in [-1, 1], float ``[h, w, 2]``, as colours: uint8 ``[h, w, 3]``.

    Left to right goes from blue to red and top to bottom from bright to dark with green fading in: cells of one colour
    came from one place. Draw the positions of `cell_grid` beside it as the key.
    """
    y, x = np.clip(position[..., 0] / 2 + 0.5, 0, 1), np.clip(position[..., 1] / 2 + 0.5, 0, 1)
    colours = np.stack([x * (1 - 0.45 * y), 0.15 + 0.7 * y * (1 - 0.3 * x), (1 - x) * (1 - 0.45 * y)], axis=-1)
    return np.round(255 * (0.12 + 0.88 * np.clip(colours, 0, 1))).astype(np.uint8)
