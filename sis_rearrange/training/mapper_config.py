"""Settings of a mapper's training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sis_rearrange.conditions import condition_names
from sis_rearrange.errors import InputError, nearest
from sis_rearrange.sampling import check_psi
from sis_rearrange.training.checks import check_not_negative, check_positive, check_share
from sis_rearrange.training.scale import check_precision


@dataclass(frozen=True)
class MapperConfig:
    """Settings of one training run."""

    condition: str  # one of `condition_names()`
    kimg: float = 20.0  # thousands of samples
    batch: int = 16  # samples per step, over all processes
    lr: float = 3e-3  # peak of AdamW, reached after 10 % of the steps, cosine to 0
    weight_decay: float = 1e-2
    psi: float = 0.9  # truncation of the samples
    widths: tuple[int, ...] = (24, 48, 96, 128, 128)  # channels per level of the U-Net
    label_smoothing: float = 0.05  # share of the target spread over all clusters
    cycle: float = 1.0  # weight of the parts seen in the rearranged picture; 0 switches it off
    natural: float = 0.0  # weight of the discriminator's opinion of that picture; 0 switches it off
    cycle_batch: int = 4  # samples of each step that are followed to the picture
    cycle_after: float = 0.3  # share of the run before that starts
    unpainted: float = 0.0  # share of samples with a part that the drawing leaves out, for the mapper to fill in
    precision: str = "float32"  # of convolutions; bfloat16 is faster on processors that have it
    seed: int = 0
    ema: float = 0.998  # decay per step of the averaged weights that are shipped
    save_every: int = 250  # steps between states, scores and image grids

    def __post_init__(self) -> None:
        if self.condition not in condition_names():
            hint = f"{nearest(self.condition, condition_names())} (known: {', '.join(condition_names())})"
            raise InputError(f"--condition {self.condition}: unknown{hint}")
        check_positive(self, "batch", "kimg", "lr", "save_every")
        check_not_negative(self, "seed", "weight_decay", "cycle", "natural")
        check_share(self, "cycle_after", "ema", "label_smoothing", "unpainted")
        check_psi(self.psi)
        if self.cycle > 0 and not 1 <= self.cycle_batch < self.batch:
            raise InputError(f"--cycle-batch {self.cycle_batch}: must be at least 1 and below --batch {self.batch}")
        check_precision(self.precision, 1)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.kimg * 1000 / self.batch)
