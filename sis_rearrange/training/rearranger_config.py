"""Settings of a rearranger's training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sis_rearrange.errors import InputError
from sis_rearrange.sampling import check_psi
from sis_rearrange.training.checks import check_not_negative, check_positive, check_share
from sis_rearrange.training.scale import check_precision
from sis_rearrange.training.seeds import GUIDE_SEEDS


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; 0 switches it off."""

    self_feature: float = 4.0  # own mask: L1 of features, in standard deviations
    self_image: float = 10.0  # own mask: L1 of images
    agreement: float = 1.0  # both masks: cross-entropy of the soft assignment with the target mask
    attention: float = 0.5  # both masks: -log attention mass on the asked class
    guide: float = 0.5  # both masks: the same for the guide class, see training.guide
    style: float = 4.0  # other mask: per-class means and spreads of features and skip image
    colour: float = 4.0  # other mask: per-class mean colour of the images
    parts: float = 0.0  # other mask: the segmenter finds the donor's parts. This and the next need annotated pictures
    part_colour: float = 0.0  # other mask: per-part mean colour of the images
    adversarial: float = 1.0  # other mask: fool the generator's own discriminator, which sees the mask too

    @property
    def uses_parts(self) -> bool:
        """Whether a segmenter is needed."""
        return self.parts > 0 or self.part_colour > 0


@dataclass(frozen=True)
class RearrangerConfig:
    """Settings of one training run."""

    kimg: float = 16.0  # thousands of samples
    batch: int = 8  # samples per step, over all processes, each rearranged after its neighbour's mask
    own: int = 2  # of these, how many are also rearranged after their own: the easier task needs fewer
    lr: float = 1e-3  # Adam, cosine to 2 % of it
    d_lr: float = 5e-4  # of the discriminator
    psi: float = 0.9  # truncation of the samples
    relax: int = 0  # cells forgiven at region borders
    sharpness: float = 4.0  # of the cross-entropy; see losses.proxy_agreement
    adversarial_after: float = 1.0  # kimg before the adversarial term starts
    r1_gamma: float = 0.1
    r1_interval: int = 16  # discriminator updates between R1 penalties
    ema: float = 0.998  # decay per step of the averaged weights that are shipped
    width: int = 64  # of queries and keys
    refine_width: int = 128
    guide_classes: int = 32  # for the guide term, and of the style and colour terms; 0: the proxy clusters do
    guide_samples: int = 1000  # that the guide classes are fitted on
    precision: str = "float32"  # of convolutions; bfloat16 is faster on processors that have it
    accumulate: int = 1  # pieces that each process works through one after the other: less memory, the same step
    seed: int = 0
    save_every: int = 200  # steps between states, scores and image grids
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise InputError(f"--batch {self.batch}: must be at least 2, samples exchange their masks")
        if not 1 <= self.own <= self.batch:
            raise InputError(f"--own {self.own}: must be 1 to the batch size, {self.batch}")
        check_positive(self, "kimg", "lr", "d_lr", "save_every", "width", "sharpness", "r1_interval", "guide_samples")
        check_not_negative(self, "seed", "relax", "refine_width", "adversarial_after", "r1_gamma", "guide_classes")
        check_not_negative(self.weights, *vars(self.weights))
        check_share(self, "ema")
        check_psi(self.psi)
        check_precision(self.precision, self.accumulate)
        if self.guide_samples > len(GUIDE_SEEDS):
            raise InputError(f"--guide-samples {self.guide_samples}: there are {len(GUIDE_SEEDS)}")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.kimg * 1000 / self.batch)
