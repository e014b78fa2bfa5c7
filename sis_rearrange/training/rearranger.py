"""Train a rearranger from the generator's own samples (paper, section 3.2): no pictures, no labels.

Each step samples a batch. Every sample is rearranged after its own proxy mask (to be reconstructed) and after its
neighbour's (to be matched). Sample number i of a run always comes from the same seed: a run has no random state.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn

from sis_rearrange import losses
from sis_rearrange.critic import Critic
from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator
from sis_rearrange.proxy import ProxyClusters
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.stylegan2 import Discriminator
from sis_rearrange.tensors import one_hot
from sis_rearrange.training.guide import Guide
from sis_rearrange.training.rearranger_batch import Layouts, Piece, exchanged, in_pieces, sample_batch
from sis_rearrange.training.rearranger_config import LossWeights, RearrangerConfig
from sis_rearrange.training.rearranger_scores import rearranger_picture, rearranger_scores
from sis_rearrange.training.rearranger_terms import Terms
from sis_rearrange.training.run import Training, run_training
from sis_rearrange.training.scale import Scale, added, shares
from sis_rearrange.training.seeds import GUIDE_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS, step_seeds
from sis_rearrange.training.states import completed
from sis_rearrange.training.watching import progress_bar
from sis_rearrange.unet import UNet

__all__ = [
    "TRAIN_SEEDS",
    "VALIDATION_SEEDS",
    "LossWeights",
    "RearrangerConfig",
    "RearrangerTraining",
    "train_rearranger",
]


class RearrangerTraining(Training):
    """Networks, optimisers and counters of one run."""

    name = "rearranger"
    shown = ("loss/total", "score/agreement_cross", "score/agreement_self", "score/psnr_self")
    less_memory = "--batch, or --own, or raise --accumulate, or use --precision bfloat16"

    def __init__(
        self,
        split: SplitGenerator,
        proxy: ProxyClusters,
        discriminator: Discriminator | None,  # None: no adversarial term
        segmenter: UNet | None,  # needed where config.weights.uses_parts
        config: RearrangerConfig,
        scale: Scale | None = None,  # None: this process does everything
        start: Rearranger | None = None,  # weights to begin with; None: random ones
        origin: str = "",  # where ``start`` is from: part of the settings
    ) -> None:
        if config.weights.uses_parts and segmenter is None:
            raise ValueError("the terms of parts need a segmenter")
        self.split, self.proxy, self.config, self.device = split, proxy, config, proxy.centroids.device
        self.segmenter = segmenter if config.weights.uses_parts else None
        self.scale = scale or Scale(self.device, config.precision, config.accumulate)
        self.steps, self.batch, self.save_every = config.steps, config.batch, config.save_every
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = Rearranger(split.tap.channels, proxy.K, split.tap.resolution, config.width, config.refine_width)
        if start is not None:
            self._take(start, origin)
        self.origin = origin
        self.net.feature_std.copy_(proxy.feature_std)
        self.net.to(self.device)
        self.ema = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.lr, betas=(0.5, 0.99))
        self.critic: Critic | None = None
        self._group = 1  # of samples that the discriminator compares
        if discriminator is not None and config.weights.adversarial > 0:
            self.critic = Critic(discriminator, proxy.K).to(self.device).requires_grad_(False)
            self.d_optimizer = torch.optim.Adam(self.critic.parameters(), lr=config.d_lr, betas=(0.0, 0.99))
            self._group = discriminator.b4.group_size
        self.scale.pieces(config.batch, self._group)  # whether it can be cut shows before anything takes time
        self.guide = self._fitted_guide()
        self.terms = Terms(split, proxy, self.net, self.guide, self.segmenter, self.critic, config, self.scale)

    def _take(self, start: Rearranger, origin: str) -> None:
        if start.config != self.net.config:
            raise InputError(
                f"--resume-from {origin}: its rearranger has {start.config}, the one to be trained {self.net.config}"
            )
        self.net.load_state_dict(start.state_dict())

    def _fitted_guide(self) -> Guide | None:
        config = self.config
        if not config.guide_classes:
            return None
        with progress_bar(config.guide_samples, "guide classes") as bar:
            seeds = GUIDE_SEEDS[: config.guide_samples]
            return Guide(self.split, config.guide_classes, seeds, config.psi, bar.update)

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _set_rates(self) -> None:
        progress = self.step / self.config.steps
        factor = min(1.0, (self.step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        self.optimizer.param_groups[0]["lr"] = self.config.lr * factor
        if self.critic is not None:
            self.d_optimizer.param_groups[0]["lr"] = self.config.d_lr * max(factor, 0.1)

    def _step_pieces(self) -> tuple[list[Piece], Layouts]:
        """What the present step sees in this process, and the layouts of all its samples."""
        config = self.config
        positions = self.scale.pieces(config.batch, self._group)
        mine, seeds = np.concatenate(positions), step_seeds(config.seed, self.step, config.batch)
        batch = sample_batch(self.split, self.proxy, [seeds[at] for at in mine], config.psi, self.guide)
        layouts = exchanged(batch, mine, config.batch, self.segmenter, self.scale)
        return in_pieces(batch, layouts, positions, config.own), layouts

    def train_step(self) -> dict[str, float]:
        """One update of the rearranger and, every second step, of the discriminator; returns the loss terms."""
        config = self.config
        self._set_rates()
        pieces, layouts = self._step_pieces()
        adversarial = self.critic is not None and self.step * config.batch >= config.adversarial_after * 1000
        self.optimizer.zero_grad(set_to_none=True)
        noted, fakes = [], []
        part_weights = self.terms.part_weights(layouts)
        for piece, share in zip(pieces, self._shares(pieces, layouts, part_weights), strict=True):
            terms, images = self.terms(piece, part_weights, adversarial)
            if share:
                terms = {name: term * share[name] for name, term in terms.items()}
            total = sum((getattr(config.weights, n) * term for n, term in terms.items()), start=images.new_zeros(()))
            self.scale.backward(total)
            noted.append({f"loss/{name}": term.item() for name, term in (terms | {"total": total}).items()})
            fakes.append(images[piece.own :].detach())
        norm = self.scale.step(self.optimizer, self.step, clip=5.0)
        self._average()
        stats = self.scale.total(added(noted))
        if norm is not None:
            stats["grad_norm"] = norm
        if adversarial and self.step % 2 == 0:
            stats["loss/discriminator"] = self._critic_step(pieces, fakes)
        self.step += 1
        return stats

    def _shares(
        self, pieces: Sequence[Piece], layouts: Layouts, part_weights: torch.Tensor | None
    ) -> list[dict[str, float]]:
        """Of each piece, by term; empty for a piece that is the whole batch."""
        if self.scale.processes * self.scale.accumulate == 1:
            return [{}]
        donors = layouts.of((np.arange(self.batch) - 1) % self.batch)
        whole = self.terms.counts(layouts, donors, self.config.own, part_weights)
        return [shares(self.terms.counts(p.sources, p.donors, p.own, part_weights), whole) for p in pieces]

    def _critic_step(self, pieces: Sequence[Piece], fakes: Sequence[torch.Tensor]) -> float:
        """Real: pictures with their own mask. Fake: rearranged ones, and real pictures with somebody else's mask."""
        critic, config = self.critic, self.config
        assert critic is not None
        penalise = self.step // 2 % config.r1_interval == 0
        critic.requires_grad_(True)
        self.d_optimizer.zero_grad(set_to_none=True)
        noted = 0.0
        for piece, fake in zip(pieces, fakes, strict=True):
            mask, other = (one_hot(each.labels, self.proxy.K) for each in (piece.sources, piece.donors))
            # The penalty needs second gradients, which reduced precision spoils
            with self.scale.autocast(not penalise):
                real = piece.batch.image.detach().requires_grad_(penalise)
                real_logits = critic(real, mask).float()
                fake_logits, unlike_logits = (critic(images, other).float() for images in (fake, piece.batch.image))
                loss = losses.discriminator(real_logits, fake_logits, unlike_logits)
                if penalise:
                    loss = loss + losses.r1_penalty(real_logits, real, config.r1_gamma) * config.r1_interval
            loss = loss if len(fake) == config.batch else loss * (len(fake) / config.batch)
            self.scale.backward(loss)
            noted += loss.item()
        self.scale.step(self.d_optimizer, self.step)
        critic.requires_grad_(False)
        return self.scale.total({"loss": noted})["loss"]

    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.ema.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)

    # ---- scores, pictures, state -------------------------------------------------------------------------------------

    def score(self) -> dict[str, float]:
        """Agreement and reconstruction of the averaged network on held-out samples."""
        batch = sample_batch(self.split, self.proxy, VALIDATION_SEEDS, self.config.psi)
        return rearranger_scores(self.split, self.proxy, self.ema, batch)

    def grid(self, columns: int = 10) -> torch.Tensor:
        """Held-out samples: rows source, layout donor, target mask, reached mask, result, own mask again."""
        batch = sample_batch(self.split, self.proxy, VALIDATION_SEEDS[:columns], self.config.psi)
        return rearranger_picture(self.split, self.proxy, self.ema, batch)

    def first_batch(self) -> torch.Tensor:
        """The same of the samples that the first step sees."""
        seeds = step_seeds(self.config.seed, self.step, self.batch)
        batch = sample_batch(self.split, self.proxy, seeds, self.config.psi)
        return rearranger_picture(self.split, self.proxy, self.ema, batch)

    def settings(self) -> dict[str, Any]:
        """All settings of the run but how it is cut into pieces, which changes no result beyond rounding."""
        return asdict(self.config) | {"accumulate": None, "from": self.origin}

    def former(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As `Training`."""
        return completed(settings, asdict(RearrangerConfig()) | {"accumulate": None, "from": ""})

    def parts(self) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
        """The rearranger, its average, the critic, and the guide."""
        modules: dict[str, nn.Module] = {"net": self.net, "ema": self.ema}
        optimizers: dict[str, torch.optim.Optimizer] = {"net": self.optimizer}
        if self.guide is not None:  # fitted by threads, whose sums may differ in the last bit
            modules["guide"] = self.guide
        if self.critic is not None:
            modules["critic"] = self.critic
            optimizers["critic"] = self.d_optimizer
        return modules, optimizers


def train_rearranger(
    split: SplitGenerator,
    proxy: ProxyClusters,
    discriminator: Discriminator | None,
    segmenter: UNet | None,
    config: RearrangerConfig,
    run: Path,
) -> tuple[Rearranger, dict[str, float]]:
    """Train, or go on with, the run in the folder ``run``; returns the averaged network and its scores.

    What the folder gets and what is raised: see `run_training`.
    """
    training = RearrangerTraining(split, proxy, discriminator, segmenter, config)
    scores = run_training(training, run)
    return training.ema, scores
