"""Train a rearranger from the generator's own samples (paper, section 3.2): no pictures, no labels.

Each step samples a batch. Every sample is rearranged after its own proxy mask (to be reconstructed) and after its
neighbour's (to be matched). Sample number i of a run always comes from the same seed: a run has no random state.
"""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange import losses
from sis_rearrange.critic import Critic
from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.proxy import ProxyClusters, palette
from sis_rearrange.rearranger import Rearranged, Rearranger
from sis_rearrange.stylegan2 import Discriminator
from sis_rearrange.tensors import one_hot
from sis_rearrange.training.checks import check_not_negative, check_positive
from sis_rearrange.training.guide import Guide
from sis_rearrange.training.run import Training, run_training
from sis_rearrange.training.stopping import Diverged
from sis_rearrange.unet import UNet

TRAIN_SEEDS = 10_000_000  # samples seen in training have seeds from here on; everything below is free for evaluation
VALIDATION_SEEDS = range(500_000, 500_064)
GUIDE_SEEDS = range(TRAIN_SEEDS - 200_000, TRAIN_SEEDS - 100_000)


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
    parts: float = 0.0  # other mask: the segmenter finds the donor's parts. The one term that needs annotated pictures
    adversarial: float = 1.0  # other mask: fool the generator's own discriminator, which sees the mask too


@dataclass(frozen=True)
class RearrangerConfig:
    """Settings of one training run."""

    kimg: float = 16.0  # thousands of samples
    batch: int = 8  # samples per step, each rearranged after its neighbour's mask
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
    bfloat16: bool = False  # convolutions in bfloat16: faster on processors that have it
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

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.kimg * 1000 / self.batch)


class Batch(NamedTuple):
    """A batch of samples, and whose mask each of them gets."""

    ws: torch.Tensor  # [B, num_ws, w_dim]
    feature_map: torch.Tensor  # [B, C, r, r]
    skip: torch.Tensor  # [B, 3, r, r]
    labels: torch.Tensor  # [B, r, r]
    image: torch.Tensor  # [B, 3, H, W]
    guide: torch.Tensor  # [B, r, r]: guide classes; the labels again where there are none


def sample_batch(
    split: SplitGenerator, proxy: ProxyClusters, seeds: range, psi: float, guide: Guide | None = None
) -> Batch:
    """Samples of the generator with everything that training needs of them."""
    with torch.no_grad():
        ws = sample_ws(split.generator, seeds, psi)
        feature_map, skip = split.g1(ws)
        labels = proxy.labels(feature_map)
        finer = labels if guide is None else guide.labels(ws, feature_map)
        return Batch(ws, feature_map, skip, labels, split.g2(feature_map, skip, ws), finer)


class RearrangerTraining(Training):
    """Networks, optimisers and counters of one run."""

    name = "rearranger"
    shown = ("loss/total", "score/agreement_cross", "score/agreement_self", "score/psnr_self")
    less_memory = "--batch, or --own, or use --bfloat16"

    def __init__(
        self,
        split: SplitGenerator,
        proxy: ProxyClusters,
        discriminator: Discriminator | None,  # None: no adversarial term
        segmenter: UNet | None,  # needed where config.weights.parts > 0
        config: RearrangerConfig,
    ) -> None:
        if config.weights.parts > 0 and segmenter is None:
            raise ValueError("the parts term needs a segmenter")
        self.split, self.proxy, self.config, self.segmenter = split, proxy, config, segmenter
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.net = Rearranger(split.tap.channels, proxy.K, split.tap.resolution, config.width, config.refine_width)
        self.net.feature_std.copy_(proxy.feature_std)
        self.net.to(proxy.centroids.device)
        self.ema = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.lr, betas=(0.5, 0.99))
        self.guide: Guide | None = None
        if config.guide_classes:
            self.guide = Guide(split, config.guide_classes, GUIDE_SEEDS[: config.guide_samples], config.psi)
        self.critic: Critic | None = None
        if discriminator is not None and config.weights.adversarial > 0:
            self.critic = Critic(discriminator, proxy.K).to(proxy.centroids.device).requires_grad_(False)
            self.d_optimizer = torch.optim.Adam(self.critic.parameters(), lr=config.d_lr, betas=(0.0, 0.99))
        self.steps, self.batch, self.save_every = config.steps, config.batch, config.save_every
        self.device = proxy.centroids.device

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _autocast(self) -> Any:
        device = self.proxy.centroids.device.type
        return torch.autocast(device, torch.bfloat16) if self.config.bfloat16 else nullcontext()

    def _set_rates(self) -> None:
        progress = self.step / self.config.steps
        factor = min(1.0, (self.step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        self.optimizer.param_groups[0]["lr"] = self.config.lr * factor
        if self.critic is not None:
            self.d_optimizer.param_groups[0]["lr"] = self.config.d_lr * max(factor, 0.1)

    def _step_batch(self) -> Batch:
        """What the present step sees."""
        config = self.config
        first = TRAIN_SEEDS + config.seed * 100_000_000 + self.step * config.batch
        return sample_batch(self.split, self.proxy, range(first, first + config.batch), config.psi, self.guide)

    def train_step(self) -> dict[str, float]:
        """One update of the rearranger and, every second step, of the discriminator; returns the loss terms."""
        config = self.config
        self._set_rates()
        batch = self._step_batch()
        moved, images, target = self._both_ways(batch)
        terms = self._terms(batch, moved, images, target)
        weights = asdict(config.weights)
        total = sum((weights[name] * term for name, term in terms.items()), start=images.new_zeros(()))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        if not torch.isfinite(norm):
            raise Diverged(f"training diverged at step {self.step}: the gradient is not finite; lower --lr")
        self.optimizer.step()
        self._average()
        stats = {f"loss/{name}": term.item() for name, term in terms.items()}
        stats["loss/total"] = total.item()
        stats["grad_norm"] = norm.item()
        if "adversarial" in terms and self.step % 2 == 0:
            stats["loss/discriminator"] = self._critic_step(batch, images[config.own :].detach())
        self.step += 1
        return stats

    def _both_ways(self, batch: Batch) -> tuple[Rearranged, torch.Tensor, torch.Tensor]:
        """Rearranged features, images and target labels: first after own masks, then after the neighbours'."""
        own = self.config.own

        def sources(t: torch.Tensor) -> torch.Tensor:
            return torch.cat([t[:own], t])

        def targets(t: torch.Tensor) -> torch.Tensor:
            return torch.cat([t[:own], t.roll(1, 0)])

        mask = one_hot(batch.labels, self.proxy.K)
        follow = self.guide is not None and self.config.weights.guide > 0
        guide = self._finer(batch.guide) if follow else None
        with self._autocast():
            code = self.net.encode(mask)
            moved = self.net(
                sources(batch.feature_map),
                sources(batch.skip),
                sources(mask),
                targets(mask),
                sources(code),
                targets(code),
                None if guide is None else sources(guide),
            )
            images = self.split.g2(moved.feature_map, moved.skip, sources(batch.ws))
        return moved, images.float(), targets(batch.labels)

    def _finer(self, labels: torch.Tensor) -> torch.Tensor:
        """One-hot masks of guide classes, or of the proxy clusters where there are none."""
        return one_hot(labels, self.proxy.K if self.guide is None else self.guide.num_classes)

    def _guide_term(self, batch: Batch, carried: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Attention mass on the guide class, where it occurs in the source within the asked cluster."""
        own = self.config.own
        asked = torch.cat([batch.guide[:own], batch.guide.roll(1, 0)])
        have = (torch.cat([batch.labels[:own], batch.labels]), torch.cat([batch.guide[:own], batch.guide]))
        mass = (carried * self._finer(asked)).sum(dim=1)
        return losses.attention_mass(mass, losses.jointly_reachable(have, (target, asked)))

    def _parts_term(self, donors: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """How far the segmenter is from seeing the donors' parts in the pictures rearranged after them."""
        assert self.segmenter is not None
        with torch.no_grad():
            wanted = self.segmenter(donors.clamp(-1, 1)).argmax(dim=1)
        with self._autocast():
            seen = self.segmenter(images.clamp(-1, 1))
        return losses.parts_shown(seen.float(), wanted)

    def _terms(
        self, batch: Batch, moved: Rearranged, images: torch.Tensor, target: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The loss terms that are switched on, unweighted."""
        weights, count = self.config.weights, self.config.own
        source_mask = one_hot(batch.labels, self.proxy.K)
        target_mask = one_hot(target, self.proxy.K)
        own, other = slice(0, count), slice(count, None)
        scale = self.net.scale()
        terms: dict[str, torch.Tensor] = {}
        if weights.self_feature:
            terms["self_feature"] = losses.feature_reconstruction(
                moved.feature_map[own], batch.feature_map[own], self.net.feature_std
            )
        if weights.self_image:
            terms["self_image"] = losses.image_reconstruction(images[own], batch.image[own])
        if weights.agreement:
            logits = self.proxy.logits(moved.feature_map)
            terms["agreement"] = losses.proxy_agreement(logits, target, self.config.relax, self.config.sharpness)
        if weights.attention:
            reachable = losses.cells_reachable(torch.cat([source_mask[own], source_mask]), target_mask)
            terms["attention"] = losses.attention_mass(moved.class_mass, reachable)
        if moved.carried.shape[1]:
            terms["guide"] = self._guide_term(batch, moved.carried, target)
        here, there = self._finer(batch.guide), self._finer(batch.guide.roll(1, 0))
        if weights.style:
            new = torch.cat([moved.feature_map[other], moved.skip[other]], dim=1) / scale
            old = torch.cat([batch.feature_map, batch.skip], dim=1) / scale
            terms["style"] = losses.style_statistics(new, there, old, here)
        if weights.colour:
            terms["colour"] = losses.class_colours(images[other], there, batch.image, here)
        if weights.parts:
            terms["parts"] = self._parts_term(batch.image.roll(1, 0), images[other])
        if self.critic is not None and self.step * self.config.batch >= self.config.adversarial_after * 1000:
            with self._autocast():
                logits = self.critic(images[other], target_mask[other])
            terms["adversarial"] = losses.adversarial(logits.float())
        return terms

    def _critic_step(self, batch: Batch, fake: torch.Tensor) -> float:
        """Real: pictures with their own mask. Fake: rearranged ones, and real pictures with somebody else's mask."""
        critic = self.critic
        assert critic is not None
        mask = one_hot(batch.labels, self.proxy.K)
        other = mask.roll(1, 0)
        penalise = self.step // 2 % self.config.r1_interval == 0
        critic.requires_grad_(True)
        # The penalty needs second gradients, which reduced precision spoils
        with nullcontext() if penalise else self._autocast():
            real = batch.image.detach().requires_grad_(penalise)
            real_logits = critic(real, mask).float()
            loss = losses.discriminator(real_logits, critic(fake, other).float(), critic(batch.image, other).float())
            if penalise:
                loss = loss + losses.r1_penalty(real_logits, real, self.config.r1_gamma) * self.config.r1_interval
        self.d_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.d_optimizer.step()
        critic.requires_grad_(False)
        return loss.item()

    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.ema.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)

    # ---- scores, pictures, state -------------------------------------------------------------------------------------

    @torch.inference_mode()
    def score(self) -> dict[str, float]:
        """Agreement and reconstruction of the averaged network on held-out samples."""
        batch = sample_batch(self.split, self.proxy, VALIDATION_SEEDS, self.config.psi)
        mask = one_hot(batch.labels, self.proxy.K)
        stats = {}
        for name, shift in (("self", 0), ("cross", 1)):
            target = batch.labels.roll(shift, 0)
            target_mask = mask.roll(shift, 0)
            moved = self.ema(batch.feature_map, batch.skip, mask, target_mask)
            agree = (self.proxy.labels(moved.feature_map) == target).float()
            reachable = losses.cells_reachable(mask, target_mask)
            stats[f"score/agreement_{name}"] = agree[reachable].mean().item()
            if name == "self":
                image = self.split.g2(moved.feature_map, moved.skip, batch.ws).clamp(-1, 1)
                error = (image - batch.image.clamp(-1, 1)).square().mean(dim=[1, 2, 3]) / 4
                stats["score/psnr_self"] = (-10 * error.log10()).mean().item()
        return stats

    @torch.inference_mode()
    def grid(self, columns: int = 10) -> torch.Tensor:
        """Held-out samples: rows source, layout donor, target mask, reached mask, result, own mask again."""
        return self._picture(sample_batch(self.split, self.proxy, VALIDATION_SEEDS[:columns], self.config.psi))

    @torch.inference_mode()
    def first_batch(self) -> torch.Tensor:
        """The same of the samples that the first step sees."""
        return self._picture(self._step_batch())

    def _picture(self, batch: Batch) -> torch.Tensor:
        """``[3, H, W]`` in [0, 1]."""
        mask = one_hot(batch.labels, self.proxy.K)
        moved = self.ema(batch.feature_map, batch.skip, mask, mask.roll(1, 0))
        own = self.ema(batch.feature_map, batch.skip, mask, mask)
        colours = torch.from_numpy(palette(self.proxy.K)).float() / 127.5 - 1

        def painted(labels: torch.Tensor) -> torch.Tensor:
            return F.interpolate(colours[labels.cpu()].permute(0, 3, 1, 2), size=batch.image.shape[2:])

        reached = self.proxy.labels(moved.feature_map)
        rows = [
            batch.image,
            batch.image.roll(1, 0),
            painted(batch.labels.roll(1, 0)),
            painted(reached),
            self.split.g2(moved.feature_map, moved.skip, batch.ws),
            self.split.g2(own.feature_map, own.skip, batch.ws),
        ]
        return torch.cat([torch.cat(list(row.cpu()), dim=2) for row in rows], dim=1).clamp(-1, 1) / 2 + 0.5

    def settings(self) -> dict[str, Any]:
        """All settings of the run."""
        return asdict(self.config)

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
