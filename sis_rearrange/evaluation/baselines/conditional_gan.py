"""The supervised rival with the same few shots: a conditional GAN on pairs of pictures and masks.

A few pairs alone teach it nothing, so it gets what our mapper gets: samples of the pack's generator with the labels of
a segmenter that was trained on the few shots, the shots themselves among them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import trange

from sis_rearrange.evaluation.baselines.base import Baseline, check_masks, check_shots, fitted
from sis_rearrange.evaluation.baselines.spade import (
    Judged,
    PatchDiscriminator,
    SpatialGenerator,
    StyleEncoder,
)
from sis_rearrange.evaluation.networks import bars_shown
from sis_rearrange.features import all_features, sample_ws
from sis_rearrange.pack import Pack
from sis_rearrange.tensors import from_uint8, one_hot, seeded_normal, to_uint8
from sis_rearrange.training.few_shot import EXTRACTOR_STEPS, Shot, train_extractor

POOL_SEEDS = 9_000_000  # samples that are labelled for training; evaluation draws from others
STYLE = 5  # stream of the style vectors that pictures are made with
AT_ONCE = 64


@dataclass
class ConditionalGAN(Baseline):
    """SPADE-like conditional GAN on pseudo pairs."""

    psi: float = 0.9
    kind: str = "nonlinear"  # of the extractor that labels the pool
    extractor_steps: int = EXTRACTOR_STEPS["nonlinear"]
    pool: int = 2000  # labelled samples
    steps: int = 2000  # each a step of both networks
    batch: int = 8
    style_dim: int = 16
    lr: float = 4e-4  # of the discriminator; generator and encoder learn at half of it
    matching: float = 10.0  # weight of feature matching
    prior: float = 0.05  # weight of the styles' divergence from the normal distribution
    ema: float = 0.995  # decay per step of the averaged generator

    name = "cgan"
    title = "conditional GAN (SPADE-like) on pseudo pairs"

    def fit(self, pack: Pack, shots: Sequence[Shot], seed: int, progress: bool | None = None) -> None:
        """Label the pool, train on it; see `Baseline.fit`."""
        check_shots(shots, pack)
        self._classes, self._resolution = len(pack.classes), pack.resolution
        pictures, labels = self._pairs(pack, shots, seed, progress)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nets = _Networks(self._classes, self._resolution, self.style_dim)
        self._generator = self._train(nets, pictures, labels, seed, progress)

    @torch.inference_mode()
    def synthesize(self, masks: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """See `Baseline.synthesize`; the seed gives the style."""
        generator = fitted(self, "_generator")
        check_masks(masks, seeds, self._resolution)
        style = seeded_normal(seeds, [self.style_dim], STYLE)
        chunks = zip(masks.split(AT_ONCE), style.split(AT_ONCE), strict=True)
        return torch.cat([generator(one_hot(mask, self._classes), some) for mask, some in chunks])

    def _pairs(
        self, pack: Pack, shots: Sequence[Shot], seed: int, progress: bool | None
    ) -> tuple[np.ndarray, torch.Tensor]:
        """Pictures uint8 ``[N, R, R, 3]`` and labels uint8 ``[N, R, R]``: shots first, then the pool."""
        generator = pack.generator()
        extractor = train_extractor(generator, shots, self._classes, self.kind, self.extractor_steps, seed, progress)
        ws = torch.stack([shot.ws for shot in shots])
        first = POOL_SEEDS + seed * self.pool
        with torch.inference_mode():
            pictures = [to_uint8(generator.synthesis(ws))]
            labels = [torch.stack([shot.labels for shot in shots]).to(torch.uint8)]
            for start in range(first, first + self.pool, AT_ONCE):
                ws = sample_ws(generator, range(start, min(start + AT_ONCE, first + self.pool)), self.psi)
                maps, images = all_features(generator, ws)
                pictures.append(to_uint8(images))
                labels.append(extractor(maps).argmax(dim=1).to(torch.uint8))
        return np.concatenate(pictures), torch.cat(labels)

    def _train(
        self, nets: _Networks, pictures: np.ndarray, labels: torch.Tensor, seed: int, progress: bool | None
    ) -> SpatialGenerator:
        """The averaged generator."""
        average = copy.deepcopy(nets.generator).eval().requires_grad_(False)
        made = [*nets.generator.parameters(), *nets.encoder.parameters()]
        makers = torch.optim.Adam(made, lr=self.lr / 2, betas=(0.0, 0.9))
        critic = torch.optim.Adam(nets.discriminator.parameters(), lr=self.lr, betas=(0.0, 0.9))
        rng = np.random.default_rng([seed, 1])
        for step in trange(self.steps, desc="conditional GAN", disable=not bars_shown(progress)):
            at = rng.integers(0, len(pictures), self.batch)
            real, mask = from_uint8(pictures[at]), one_hot(labels[at].long(), self._classes)
            noise = torch.from_numpy(rng.standard_normal((self.batch, self.style_dim)).astype(np.float32))
            mean, log_variance = nets.encoder(real)
            fake = nets.generator(mask, mean + noise * (log_variance / 2).exp())
            # The discriminator has its turn first, on pictures that carry no gradient
            loss = hinge(nets.discriminator(real, mask), nets.discriminator(fake.detach(), mask))
            _update(critic, loss)
            seen = nets.discriminator(fake, mask)
            with torch.no_grad():
                wanted = nets.discriminator(real, mask).features
            loss = -seen.logits.mean() + self.matching * matching(seen.features, wanted)
            _update(makers, loss + self.prior * divergence(mean, log_variance))
            decay = min(self.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for kept, now in zip(average.parameters(), nets.generator.parameters(), strict=True):
                    kept.lerp_(now, 1 - decay)
        return average


class _Networks(nn.Module):
    """The three that are trained together."""

    def __init__(self, classes: int, resolution: int, style_dim: int) -> None:
        super().__init__()
        self.generator = SpatialGenerator(classes, resolution, style_dim)
        self.encoder = StyleEncoder(style_dim)
        self.discriminator = PatchDiscriminator(classes)


def hinge(real: Judged, fake: Judged) -> torch.Tensor:
    """The discriminator's loss, a scalar."""
    return (F.relu(1 - real.logits) + F.relu(1 + fake.logits)).mean()


def matching(features: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean absolute difference of discriminator features, averaged over layers; a scalar."""
    return torch.stack([F.l1_loss(have, want) for have, want in zip(features, wanted, strict=True)]).mean()


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of styles from the standard normal, per picture; both ``[N, style_dim]``."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()


def _update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step on the optimiser's own parameters; gradients elsewhere are dropped by their owner's next step."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
