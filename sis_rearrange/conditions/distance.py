"""Exact distances in pixels, for drawings: most are short, and short ones are quick to find."""

from __future__ import annotations

import numpy as np


def squared_distance(mask: np.ndarray, reach: int) -> np.ndarray:
    """Squared Euclidean distance of every pixel of a bool ``[H, W]`` to the nearest False one, int16 ``[H, W]``.

    Exact up to ``reach`` (at most 100) pixels, anything above ``reach**2`` beyond it. Its root is what
    `scipy.ndimage.distance_transform_edt` gives, which takes several times as long for the few pixels of a stroke.
    """
    far = reach + 1
    # Along the rows: how often a pixel outlives erosion from both sides is its distance to the end of its run.
    alive, along = mask.view(np.uint8).copy(), mask.astype(np.int16)
    for _ in range(far - 1):
        eroded = alive.copy()
        eroded[:, 1:] &= alive[:, :-1]
        eroded[:, :-1] &= alive[:, 1:]
        along += eroded
        alive = eroded
    along *= along
    # Across the rows: the nearest False pixel may be k rows up or down.
    best = along.copy()
    for k in range(1, min(far, mask.shape[0])):
        other = along + np.int16(k * k)
        np.minimum(best[k:], other[:-k], out=best[k:])
        np.minimum(best[:-k], other[k:], out=best[:-k])
    return best


def largest_of_3x3(values: np.ndarray) -> np.ndarray:
    """The largest value of each pixel's 3x3 neighbourhood, ``[H, W]``; what lies outside does not count."""
    rows = values.copy()
    np.maximum(rows[1:], values[:-1], out=rows[1:])
    np.maximum(rows[:-1], values[1:], out=rows[:-1])
    found = rows.copy()
    np.maximum(found[:, 1:], rows[:, :-1], out=found[:, 1:])
    np.maximum(found[:, :-1], rows[:, 1:], out=found[:, :-1])
    return found


def median_of_counts(count: np.ndarray) -> tuple[int, int]:
    """The two middle values (equal where the number is odd) of values 0, 1, ... that occur ``count`` times each."""
    below = np.cumsum(count)
    low, high = np.searchsorted(below, [(below[-1] - 1) // 2, below[-1] // 2], side="right")
    return int(low), int(high)
