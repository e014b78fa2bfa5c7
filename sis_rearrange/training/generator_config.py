"""Settings of a generator's training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sis_rearrange.errors import InputError
from sis_rearrange.training.checks import check_not_negative, check_positive
from sis_rearrange.training.scale import check_precision


@dataclass(frozen=True)
class GeneratorConfig:
    """Settings of one training run."""

    resolution: int = 64  # pixels per side, a power of two
    kimg: float = 100.0  # thousands of pictures
    batch: int = 8  # pictures per step, over all processes; early on, many steps count for more than many pictures
    lr: float = 2e-3  # Adam, of the generator
    d_lr: float = 2e-3  # of the discriminator
    gamma: float = 0.1  # weight of R1
    r1_interval: int = 16  # steps between R1 penalties
    path_weight: float = 0.0  # of the path length penalty; 0 switches it off
    path_interval: int = 8  # steps between path length penalties
    patch_weight: float = 0.0  # of a second discriminator, which sees small patches alone; 0: there is none
    patch_gamma: float = 0.001  # weight of its R1
    mixing: float = 0.3  # share of samples with two styles
    noise: bool = False  # noise inputs: texture for photos, speckles on flat art
    ema_kimg: float = 10.0  # half-life of the averaged weights
    ema_rampup: float = 0.05  # that half-life as a share of what this run has seen, where that is shorter; 0: no ramp
    ada_target: float = 0.0  # mean sign of the logits at real pictures to aim at, 0.6 say; 0: no augmentation
    ada_kimg: float = 500.0  # thousands of pictures in which the augmentation probability can go from 0 to 1
    z_dim: int = 128
    w_dim: int = 128
    num_layers: int = 4  # of the mapping network
    channel_base: int = 2048
    channel_max: int = 128
    mbstd_group: int = 4  # pictures that the discriminator compares with each other
    precision: str = "float32"  # of convolutions; bfloat16 is faster on processors that have it
    accumulate: int = 1  # pieces that each process works through one after the other: less memory, the same step
    seed: int = 0
    save_every: int = 1000  # steps between states, scores and sample sheets

    def __post_init__(self) -> None:
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise InputError(f"--resolution {self.resolution}: must be a power of two, at least 8")
        check_positive(self, "kimg", "batch", "lr", "d_lr", "r1_interval", "path_interval", "ema_kimg", "ada_kimg")
        check_positive(self, "save_every", "z_dim", "w_dim", "num_layers", "channel_base", "channel_max", "mbstd_group")
        check_precision(self.precision, self.accumulate)
        check_not_negative(
            self, "gamma", "patch_weight", "patch_gamma", "path_weight", "mixing", "ema_rampup", "ada_target", "seed"
        )
        if self.mixing > 1 or self.ada_target >= 1:
            raise InputError("--mixing and --ada-target are shares: at most 1")
        if self.channel_base < self.resolution:
            raise InputError(f"--channel-base {self.channel_base}: leaves no channels at {self.resolution} pixels")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.kimg * 1000 / self.batch)
