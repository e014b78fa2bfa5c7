"""The learning rate over a training."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear rise over the first 10 % of the steps, then half a cosine down to 0."""
    rise = max(1, steps // 10)
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
