"""Teach a U-Net to label pictures as an extractor labels their feature maps.

The extractor needs the feature maps of a sample; a rearranged picture has none of its own before the tap. A U-Net needs
the picture alone, so it can stand where a segmenter trained on true masks stands. The extractor labels a number of
samples once, since that takes longer than a step of the U-Net on as many; their colours are changed at random at every
step, so that the U-Net learns shapes more than the colours it saw.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from sis_rearrange.errors import InputError
from sis_rearrange.extractor import SemanticExtractor
from sis_rearrange.features import sample_ws
from sis_rearrange.losses import part_weights
from sis_rearrange.sample_parts import COLOUR_WEIGHT, sample_parts
from sis_rearrange.stylegan2 import Generator
from sis_rearrange.tensors import one_hot
from sis_rearrange.training.checks import check_not_negative, check_positive
from sis_rearrange.training.colour_changes import AUGMENTATIONS, augment
from sis_rearrange.training.run import Training
from sis_rearrange.training.schedule import learning_rate
from sis_rearrange.training.seeds import RUN_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS
from sis_rearrange.training.segmenter import soft_dice_loss
from sis_rearrange.unet import UNet

_FIRST_SEED = TRAIN_SEEDS + 50_000_000  # of the samples; the mapper's training draws from others
_POOL_BYTES = 2**29  # of labelled samples in memory


@dataclass(frozen=True)
class DistilConfig:
    """Settings of one training."""

    kind: str = "nonlinear"  # of the extractor
    extractor_steps: int | None = None  # None: as many as `train_extractor` takes
    steps: int = 480  # optimiser steps of the U-Net
    batch: int = 24  # samples per step; one annotated sample comes on top
    samples: int = 768  # that are labelled, at most: fewer where the pictures are large
    lr: float = 4e-3  # peak of AdamW, reached after 10 % of the steps, cosine to 0
    weight_decay: float = 1e-2
    widths: tuple[int, ...] = (16, 32, 64, 96)  # of the U-Net
    bfloat16: bool = False  # convolutions in bfloat16: faster on processors that have it
    psi: float = 0.9  # truncation of the samples
    seed: int = 0
    save_every: int = 60  # steps between states, scores and image grids

    def __post_init__(self) -> None:
        check_positive(self, "steps", "batch", "samples", "lr", "save_every")
        check_not_negative(self, "seed", "weight_decay")


class DistilTraining(Training):
    """U-Net and optimiser of one training; the extractor stays as it is."""

    shown = ("loss", "score/agreement")

    def __init__(
        self,
        generator: Generator,
        extractor: SemanticExtractor,
        ws: torch.Tensor,  # [N, num_ws, w_dim] of the annotated samples
        labels: torch.Tensor,  # int64 [N, H, W], -1 where nothing was painted
        config: DistilConfig,
        identity: str = "",  # of the annotated samples: a run is not resumed with others
    ) -> None:
        if generator.img_resolution % 2 ** (len(config.widths) - 1):
            raise InputError(f"{len(config.widths)} widths are too many for pictures of {generator.img_resolution} px")
        self.generator, self.extractor, self.config, self.identity = generator, extractor, config, identity
        self.device = generator.mapping.w_avg.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = UNet(3, extractor.num_classes, config.widths)
        self.segmenter = network.to(memory_format=torch.channels_last).to(self.device)
        self.optimizer = torch.optim.AdamW(self.segmenter.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        with torch.no_grad():
            self.own_images = torch.cat([generator.synthesis(w[None].to(self.device)) for w in ws]).clamp(-1, 1)
        self.own_labels = labels.to(self.device)
        bytes_of_one = 4 * generator.img_resolution**2  # three colours and a label
        self._pool_size = max(config.batch, min(config.samples, _POOL_BYTES // bytes_of_one))
        self._pool: tuple[torch.Tensor, torch.Tensor] | None = None
        self.name, self.steps, self.batch, self.save_every = "segmenter", config.steps, config.batch, config.save_every

    def settings(self) -> dict[str, Any]:
        """All settings, how samples are labelled, and which annotated samples they are used on."""
        return asdict(self.config) | {"colours": COLOUR_WEIGHT, "shots_sha256": self.identity}

    def parts(self) -> tuple[dict[str, torch.nn.Module], dict[str, torch.optim.Optimizer]]:
        """The U-Net and its optimiser."""
        return {"segmenter": self.segmenter}, {"segmenter": self.optimizer}

    def labelled(self, seeds: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures ``[N, 3, H, W]`` in [-1, 1] of samples, and the parts int64 ``[N, H, W]`` that are read off them."""
        return sample_parts(self.generator, self.extractor, sample_ws(self.generator, seeds, self.config.psi))

    def pool(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The labelled samples, made when first asked for: pictures uint8 ``[M, 3, H, W]``, labels ``[M, H, W]``."""
        if self._pool is None:
            first = _FIRST_SEED + self.config.seed * RUN_SEEDS
            pictures, parts = [], []
            for start in range(first, first + self._pool_size, self.config.batch):
                images, found = self.labelled(range(start, min(start + self.config.batch, first + self._pool_size)))
                pictures.append(images.add(1).mul(127.5).round().byte())
                parts.append(found.byte())
            self._pool = torch.cat(pictures), torch.cat(parts)
        return self._pool

    def train_step(self) -> dict[str, float]:
        """One update; returns the loss."""
        config, (pictures, parts) = self.config, self.pool()
        changes = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        at = torch.randperm(len(pictures), generator=changes)[: config.batch].to(self.device)
        own = self.step % len(self.own_labels)
        images = torch.cat([pictures[at].float().div(127.5).sub(1), self.own_images[own : own + 1]])
        labels = torch.cat([parts[at].long(), self.own_labels[own : own + 1].clamp_min(0)])
        target = one_hot(labels, self.extractor.num_classes)
        counted = torch.ones_like(target[:, 0])
        counted[-1] = (self.own_labels[own] >= 0).float()
        images = augment(images.cpu(), AUGMENTATIONS["segmenter"], changes).to(self.device)
        self.segmenter.train()
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.step, config.steps, config.lr)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bfloat16):
            logits = self.segmenter(images.contiguous(memory_format=torch.channels_last))
        logits = logits.float()
        loss = weighted_loss(logits, target, counted)
        loss = loss + soft_dice_loss(logits[:-1], labels[:-1])  # small parts come much sooner
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.segmenter.eval()
        self.step += 1
        return {"loss": loss.item()}

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Share of held-out pixels that the U-Net labels as the extractor does."""
        images, labels = self.labelled(VALIDATION_SEEDS[:32])
        agreement = (self.segmenter.eval()(images).argmax(1) == labels).float().mean()
        return {"score/agreement": agreement.item()}


def weighted_loss(logits: torch.Tensor, target: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with targets ``[N, P, H, W]``, rare parts weighing more, over pixels ``counted [N, H, W]``."""
    weights = part_weights(target.argmax(1), target.shape[1])
    each = -(target * weights[None, :, None, None] * logits.log_softmax(1)).sum(1)
    return (each * counted).sum() / counted.sum().clamp_min(1)
