"""Train an encoder from pictures to w on the generator's own samples: a start for the inversion of real ones.

Each step samples a batch, and the encoder is asked for the samples' whitened w and for a w that shows their pictures.
Colours, blur and noise of the pictures are varied a little, since real ones differ from samples in just these. Sample
number i of a run always comes from the same seed: a run has no random state.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.encoder import Encoder
from sis_rearrange.errors import InputError
from sis_rearrange.features import sample_ws
from sis_rearrange.inversion.prior import LatentPrior
from sis_rearrange.pack import ENCODER, Pack, write_component
from sis_rearrange.stylegan2 import Generator
from sis_rearrange.training.checks import check_not_negative, check_positive
from sis_rearrange.training.colour_changes import Augmentation, augment
from sis_rearrange.training.pack_training import provenance
from sis_rearrange.training.run import Training
from sis_rearrange.training.scale import Scale, check_precision, launched
from sis_rearrange.training.schedule import learning_rate
from sis_rearrange.training.seeds import VALIDATION_SEEDS, step_seeds

AUGMENTATION = Augmentation(hue=0.02, contrast=0.06, brightness=0.04, blur=0.3, noise=0.04)


@dataclass(frozen=True)
class EncoderConfig:
    """Settings of one training run."""

    kimg: float = 64.0  # thousands of samples
    batch: int = 16  # samples per step
    lr: float = 2e-3  # peak of AdamW, reached after 10 % of the steps, cosine to 0
    weight_decay: float = 1e-2
    pixels: float = 4.0  # weight of the pictures' mean squared error beside that of the coordinates; 0: no pictures
    widths: tuple[int, ...] = (32, 64, 96, 128)  # of the encoder
    hidden: int = 256
    precision: str = "float32"  # of convolutions; bfloat16 is faster on processors that have it
    seed: int = 0
    ema: float = 0.998  # decay per step of the averaged weights that are shipped
    save_every: int = 500  # steps between states, scores and image grids

    def __post_init__(self) -> None:
        check_positive(self, "batch", "kimg", "lr", "save_every", "hidden")
        check_not_negative(self, "seed", "weight_decay", "pixels", "ema")
        check_precision(self.precision, 1)
        if launched():
            raise InputError("train_encoder.py: runs in one process; start it without 'accelerate launch'")
        if not self.widths or min(self.widths) < 1:
            raise InputError("--widths: give positive whole numbers such as 32,64,96,128")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.kimg * 1000 / self.batch)


class EncoderTraining(Training):
    """Network, optimiser and counters of one run."""

    name = "encoder"
    shown = ("loss/coordinates", "loss/pixels", "score/explained")

    def __init__(self, generator: Generator, config: EncoderConfig) -> None:
        self.generator, self.config, self.prior = generator, config, LatentPrior(generator)
        self.device = generator.mapping.w_avg.device
        self.scale = Scale(self.device, config.precision)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            net = Encoder(
                generator.img_resolution, generator.num_ws, generator.w_dim, list(config.widths), config.hidden
            )
        net.mean.copy_(self.prior.mean)
        net.axes.copy_(self.prior.axes)
        self.net = net.to(self.device).train()
        self.ema = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.steps, self.batch, self.save_every = config.steps, config.batch, config.save_every

    @torch.no_grad()
    def _samples(self, seeds: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Whitened w ``[N, w_dim]`` and images ``[N, 3, R, R]``."""
        ws = sample_ws(self.generator, seeds, 1.0)
        return self.prior.whiten(ws[:, 0]), self.generator.synthesis(ws).clamp(-1, 1)

    def train_step(self) -> dict[str, float]:
        """One update; returns its losses."""
        config = self.config
        wanted, images = self._samples(step_seeds(config.seed, self.step, config.batch))
        random = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        seen = augment(images.cpu(), AUGMENTATION, random).to(self.device)
        rate = learning_rate(self.step, config.steps, config.lr)
        self.optimizer.param_groups[0]["lr"] = rate
        with self.scale.autocast():
            found = self.net.coordinates(seen)
        found = found.float()
        loss = F.mse_loss(found, wanted)
        stats = {"loss/coordinates": loss.item(), "lr": rate}
        if config.pixels > 0:
            shown = F.mse_loss(self.generator.synthesis(self.net.colour(found)), images)
            stats["loss/pixels"] = shown.item()
            loss = loss + config.pixels * shown
        self.optimizer.zero_grad(set_to_none=True)
        self.scale.backward(loss)
        norm = self.scale.step(self.optimizer, self.step, clip=5.0)
        self._average()
        self.step += 1
        return stats | ({} if norm is None else {"grad_norm": norm})

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.ema.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)

    @torch.inference_mode()
    def score(self) -> dict[str, float]:
        """On held-out samples: share of the coordinates' variance that is explained, and PSNR of the pictures in dB."""
        wanted, images = self._samples(VALIDATION_SEEDS)
        found = self.ema.coordinates(images)
        shown = self.generator.synthesis(self.ema.colour(found)).clamp(-1, 1)
        error = (shown - images).square().mean(dim=[1, 2, 3]).clamp_min(1e-9)
        return {
            "score/explained": 1 - ((found - wanted).square().mean() / wanted.square().mean()).item(),
            "score/psnr": (10 * (4 / error).log10()).mean().item(),
        }

    @torch.inference_mode()
    def grid(self, columns: int = 10) -> torch.Tensor:
        """Held-out samples above the pictures of their encoded w, ``[3, H, W]`` in [0, 1]."""
        _, images = self._samples(VALIDATION_SEEDS[:columns])
        rows = [images, self.generator.synthesis(self.ema(images)).clamp(-1, 1)]
        return torch.cat([torch.cat(list(row / 2 + 0.5), dim=2) for row in rows], dim=1).cpu()

    def first_batch(self) -> torch.Tensor:
        """The same of the network as it starts."""
        return self.grid()

    def settings(self) -> dict[str, Any]:
        """All settings of the run."""
        return asdict(self.config)

    def parts(self) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
        """The encoder, its average, its optimiser."""
        return {"net": self.net, "ema": self.ema}, {"net": self.optimizer}


def encoder_training(pack: Pack, config: EncoderConfig, device: torch.device) -> EncoderTraining:
    """The training of a pack's encoder."""
    return EncoderTraining(copy.deepcopy(pack.generator()).to(device), config)


def write_encoder(pack: Pack, training: EncoderTraining, scores: dict[str, float]) -> None:
    """Write the averaged network into the pack, with where it is from."""
    net, config = training.ema, training.config
    rounded = {name: round(value, 4) for name, value in scores.items() if name != "minutes"}
    settings = {**asdict(config), "widths": list(config.widths)}
    facts = provenance(config=settings, seed=config.seed, minutes=round(scores["minutes"], 2), scores=rounded)
    write_component(pack.path, ENCODER, net.state_dict(), {"kind": "encoder", "args": net.config}, facts)
