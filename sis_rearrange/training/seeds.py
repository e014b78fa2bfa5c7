"""Which seeds are whose: no sample is both trained on and evaluated."""

from __future__ import annotations

TRAIN_SEEDS = 10_000_000  # samples seen in training have seeds from here on; everything below is free for evaluation
VALIDATION_SEEDS = range(500_000, 500_064)
GUIDE_SEEDS = range(TRAIN_SEEDS - 200_000, TRAIN_SEEDS - 100_000)
RUN_SEEDS = 100_000_000  # apart are the samples of two runs


def step_seeds(seed: int, step: int, batch: int) -> range:
    """Seeds of the samples that a step of a run sees."""
    first = TRAIN_SEEDS + seed * RUN_SEEDS + step * batch
    return range(first, first + batch)
