"""Parts that nobody named: what a rearranger's training looks for in pictures where no picture was ever annotated.

The training's term of parts asks whether a rearranged picture *shows* what the donor shows, which no term on features
can. It needs a network that sees parts in pictures. Where labels are missing, or must not help, classes that k-means
finds in feature maps of the generator (`guide.py`) are the parts, and a U-Net that has learnt to read them off pictures
(`distil.py`) is the network: more classes than a person would name, but borders between hair and skin are among theirs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sis_rearrange.features import SplitGenerator
from sis_rearrange.training.distil import DistilConfig, DistilTraining
from sis_rearrange.training.guide import Guide
from sis_rearrange.training.rearranger_config import RearrangerConfig
from sis_rearrange.training.run import TICK, resume, run_training
from sis_rearrange.training.scale import ALONE, Scale
from sis_rearrange.training.seeds import GUIDE_SEEDS
from sis_rearrange.training.watching import progress_bar
from sis_rearrange.unet import UNet

FOLDER = "pseudo-parts"  # in the rearranger's run folder
SETTINGS = DistilConfig()  # of the U-Net, but for what the rearranger's settings say


def pseudo_parts_training(split: SplitGenerator, config: RearrangerConfig, scale: Scale = ALONE) -> DistilTraining:
    """The training of a U-Net that sees ``config.pseudo_parts`` classes in pictures."""
    generator, samples = split.generator, config.guide_samples
    with progress_bar(samples, "pseudo-parts") as bar:
        guide = Guide(split, config.pseudo_parts, GUIDE_SEEDS[:samples], config.psi, bar.update)
    distil = replace(SETTINGS, psi=config.psi, seed=config.seed, bfloat16=config.precision == "bfloat16")
    size = generator.img_resolution
    nothing = torch.zeros(0, generator.num_ws, generator.w_dim), torch.zeros(0, size, size, dtype=torch.int64)
    training = DistilTraining(generator, guide, *nothing, distil, scale=scale)
    training.name = "pseudo-parts"
    return training


def untrained_unet(config: RearrangerConfig) -> UNet:
    """The U-Net as it is before anything was learnt, for a look at sizes and memory."""
    with torch.random.fork_rng(devices=[]):
        return UNet(3, config.pseudo_parts, SETTINGS.widths).eval().requires_grad_(False)


def pseudo_segmenter(
    split: SplitGenerator, config: RearrangerConfig, run: Path, scale: Scale = ALONE, tick: float = TICK
) -> UNet:
    """Train that U-Net, or take it from, a folder of the rearranger's run; eval mode, on the generator's device.

    Raises as `run_training`.
    """
    training = pseudo_parts_training(split, config, scale)
    run_training(training, run / FOLDER, tick)
    resume(training, run / FOLDER)  # all processes have the first one's, to the bit
    return training.segmenter.eval().requires_grad_(False)
