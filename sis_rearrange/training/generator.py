"""Train a StyleGAN2: non-saturating loss, lazy R1 and path length, style mixing, adaptive augmentation, EMA.

Step ``n`` sees pictures ``n * batch`` and on, and latents of seeds that follow from the settings and ``n``: a run has
no random state. The discriminator is trained first, then the generator on the very same latents, so that each step
makes its pictures once.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn as nn

from sis_rearrange import losses
from sis_rearrange.errors import InputError
from sis_rearrange.features import sample_ws
from sis_rearrange.sampling import DEFAULT_PSI
from sis_rearrange.stylegan2 import Discriminator, Generator
from sis_rearrange.tensors import seeded_normal
from sis_rearrange.training.augmentation import Adaptive, augment
from sis_rearrange.training.checks import check_not_negative, check_positive
from sis_rearrange.training.distance import JudgeDistance
from sis_rearrange.training.growth import Networks
from sis_rearrange.training.memory import saved_bytes
from sis_rearrange.training.rearranger import TRAIN_SEEDS, VALIDATION_SEEDS
from sis_rearrange.training.run import Training
from sis_rearrange.training.sources import Feed, Pictures

_MIXED, _PATHS, _DIRECTIONS = 100, 101, 102  # streams of a sample's seed; noise has those from 1 on
_W_AVERAGE = 0.998  # decay of w_avg per step
_PATH_AVERAGE = 0.01  # share of the newest path length in its running mean


@dataclass(frozen=True)
class GeneratorConfig:
    """Settings of one training run."""

    resolution: int = 64  # pixels per side, a power of two
    kimg: float = 100.0  # thousands of pictures
    batch: int = 8  # pictures per step; early on, many steps count for more than many pictures
    lr: float = 2e-3  # Adam, of the generator
    d_lr: float = 2e-3  # of the discriminator
    gamma: float = 0.1  # weight of R1
    r1_interval: int = 16  # steps between R1 penalties
    path_weight: float = 0.0  # of the path length penalty; 0 switches it off
    path_interval: int = 8  # steps between path length penalties
    mixing: float = 0.3  # share of samples with two styles
    noise: bool = False  # noise inputs: texture for photos, speckles on flat art
    ema_kimg: float = 10.0  # half-life of the averaged weights
    ema_rampup: float = 0.05  # that half-life as a share of what was seen, where that is shorter; 0: no ramp
    ada_target: float = 0.0  # mean sign of the logits at real pictures to aim at, 0.6 say; 0: no augmentation
    ada_kimg: float = 500.0  # thousands of pictures in which the augmentation probability can go from 0 to 1
    z_dim: int = 128
    w_dim: int = 128
    num_layers: int = 4  # of the mapping network
    channel_base: int = 2048
    channel_max: int = 128
    bfloat16: bool = False  # convolutions in bfloat16: faster on processors that have it
    seed: int = 0
    save_every: int = 1000  # steps between states, scores and sample sheets

    def __post_init__(self) -> None:
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise InputError(f"--resolution {self.resolution}: must be a power of two, at least 8")
        check_positive(self, "kimg", "batch", "lr", "d_lr", "r1_interval", "path_interval", "ema_kimg", "ada_kimg")
        check_positive(self, "save_every", "z_dim", "w_dim", "num_layers", "channel_base", "channel_max")
        check_not_negative(self, "gamma", "path_weight", "mixing", "ema_rampup", "ada_target", "seed")
        if self.mixing > 1 or self.ada_target >= 1:
            raise InputError("--mixing and --ada-target are shares: at most 1")
        if self.channel_base < self.resolution:
            raise InputError(f"--channel-base {self.channel_base}: leaves no channels at {self.resolution} pixels")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return math.ceil(self.kimg * 1000 / self.batch)


class GeneratorTraining(Training):
    """Networks, optimisers and counters of one run."""

    name = "generator"
    shown: tuple[str, ...] = (
        "loss/generator",
        "loss/discriminator",
        "logits/real",
        "logits/fake",
        "augmentation",
        "waiting",
    )
    less_memory = "--batch, or use --bfloat16"

    def __init__(
        self,
        config: GeneratorConfig,
        pictures: Pictures,
        workers: int = 2,  # processes that read pictures ahead; 0: none
        start: Networks | None = None,  # None: fresh networks
        origin: str = "",  # what ``start`` was made from: part of the settings
        distance: JudgeDistance | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.config, self.pictures, self.distance, self.origin = config, pictures, distance, origin
        self.device = device or torch.device("cpu")
        generator, average, discriminator = self._networks(start)
        self.g, self.d = generator.to(self.device).train(), discriminator.to(self.device).train()
        self.ema = average.to(self.device).eval().requires_grad_(False)
        self.g.requires_grad_(True)
        self.g_optimizer = torch.optim.Adam(self.g.parameters(), lr=config.lr, betas=(0.0, 0.99))
        self.d_optimizer = torch.optim.Adam(self.d.requires_grad_(True).parameters(), lr=config.d_lr, betas=(0.0, 0.99))
        self.d.requires_grad_(False)
        self.feed = Feed(pictures, config.batch, workers)
        self.adaptive = Adaptive(config.ada_target, config.ada_kimg)
        self.path_mean = 0.0
        self.fresh = start is None
        self.steps, self.batch, self.save_every = config.steps, config.batch, config.save_every
        if distance is not None:
            self.shown = (*self.shown, distance.name)

    def _networks(self, start: Networks | None) -> tuple[Generator, Generator, Discriminator]:
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            widths = {"channel_base": config.channel_base, "channel_max": config.channel_max}
            if start is None:
                fresh = Generator(
                    config.z_dim, 0, config.w_dim, config.resolution, num_layers=config.num_layers, **widths
                )
                return fresh, copy.deepcopy(fresh), Discriminator(0, config.resolution, **widths)
            if start.resolution != config.resolution:
                raise InputError(
                    f"--resolution {config.resolution}: the networks given are for {start.resolution} pixels"
                )
            widths = {name: start.generator.config[name] for name in widths}
            return start.generator, start.average, start.discriminator or Discriminator(0, config.resolution, **widths)

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self.config.bfloat16 else nullcontext()

    def _seeds(self, count: int) -> range:
        first = TRAIN_SEEDS + self.config.seed * 100_000_000 + self.step * self.config.batch
        return range(first, first + count)

    def _latents(self, count: int, stream: int) -> torch.Tensor:
        return seeded_normal(self._seeds(count), [self.g.z_dim], stream).to(self.device)

    def _synthesize(self, ws: torch.Tensor) -> torch.Tensor:
        mode = "random" if self.config.noise else "none"
        seeds = self._seeds(ws.shape[0]) if self.config.noise else None
        return self.g.synthesis(ws, mode, seeds).float()

    def _fakes(self, rng: np.random.Generator) -> torch.Tensor:
        """The step's pictures ``[batch, 3, r, r]``, with gradients to the generator; moves ``w_avg`` too."""
        config, rows = self.config, self.g.num_ws
        ws = self.g.mapping(self._latents(config.batch, 0))
        self.g.mapping.w_avg.lerp_(ws[:, 0].detach().mean(dim=0), 1 - _W_AVERAGE)
        mixed, cuts = rng.random(config.batch) < config.mixing, rng.integers(1, rows, config.batch)
        if mixed.any():
            second = np.arange(rows)[None] >= np.where(mixed, cuts, rows)[:, None]
            others = self.g.mapping(self._latents(config.batch, _MIXED))
            ws = torch.where(torch.from_numpy(second).to(self.device)[:, :, None], others, ws)
        with self._autocast():
            return self._synthesize(ws)

    def train_step(self) -> dict[str, float]:
        """One update of the discriminator, one of the generator."""
        config = self.config
        started, waited = time.monotonic(), self.feed.waited
        real = self.feed.take(self.step * config.batch).to(self.device)
        rng = np.random.default_rng([config.seed, self.step])
        fake = self._fakes(rng)
        stats = self._discriminator_step(real, fake.detach(), rng)
        stats |= self._generator_step(fake, rng)
        self._average()
        self.step += 1
        waiting = (self.feed.waited - waited) / (time.monotonic() - started)
        return stats | {"augmentation": self.adaptive.p, "waiting": waiting}

    def _discriminator_step(self, real: torch.Tensor, fake: torch.Tensor, rng: np.random.Generator) -> dict[str, float]:
        config, p = self.config, self.adaptive.p
        penalise = config.gamma > 0 and self.step % config.r1_interval == 0
        self.d.requires_grad_(True)
        real = augment(real, p, rng).detach().requires_grad_(penalise)
        # The penalty needs second gradients, which reduced precision spoils
        with nullcontext() if penalise else self._autocast():
            real_logits, fake_logits = self.d(real).float(), self.d(augment(fake, p, rng)).float()
        loss = losses.discriminator(real_logits, fake_logits)
        stats = {
            "loss/discriminator": loss.item(),
            "logits/real": real_logits.mean().item(),
            "logits/fake": fake_logits.mean().item(),
        }
        if penalise:
            penalty = losses.r1_penalty(real_logits, real, config.gamma)
            stats["loss/r1"] = penalty.item()
            loss = loss + penalty * config.r1_interval
        self.d_optimizer.param_groups[0]["lr"] = config.d_lr
        self.d_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.d_optimizer.step()
        self.d.requires_grad_(False)
        self.adaptive.see(real_logits, self.step)
        return stats

    def _generator_step(self, fake: torch.Tensor, rng: np.random.Generator) -> dict[str, float]:
        config = self.config
        with self._autocast():
            logits = self.d(augment(fake, self.adaptive.p, rng))
        loss = losses.adversarial(logits.float())
        stats = {"loss/generator": loss.item()}
        if config.path_weight > 0 and self.step % config.path_interval == 0:
            penalty, stats["path_length"] = self._path_penalty()
            stats["loss/path"] = penalty.item()
            loss = loss + penalty * config.path_weight * config.path_interval
        self.g_optimizer.param_groups[0]["lr"] = config.lr
        self.g_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.g_optimizer.step()
        return stats

    def _path_penalty(self) -> tuple[torch.Tensor, float]:
        """Squared distance of path lengths to their running mean (equation 4 of StyleGAN2), and the mean length."""
        count = max(1, self.config.batch // 2)
        ws = self.g.mapping(self._latents(count, _PATHS))
        images = self._synthesize(ws)
        side = self.config.resolution
        directions = seeded_normal(self._seeds(count), [3, side, side], _DIRECTIONS).to(self.device) / side
        (gradient,) = torch.autograd.grad((images * directions).sum(), ws, create_graph=True)
        lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
        mean = lengths.mean().item()
        self.path_mean += _PATH_AVERAGE * (mean - self.path_mean)
        return (lengths - self.path_mean).square().mean(), mean

    @torch.no_grad()
    def _average(self) -> None:
        config, seen = self.config, (self.step + 1) * self.config.batch
        half_life = config.ema_kimg * 1000
        if config.ema_rampup > 0 and self.fresh:
            half_life = min(half_life, seen * config.ema_rampup)
        decay = 0.5 ** (config.batch / half_life)
        for mean, now in zip(self.ema.parameters(), self.g.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for held, buffer in zip(self.ema.buffers(), self.g.buffers(), strict=True):
            held.copy_(buffer)

    # ---- scores, pictures, state -------------------------------------------------------------------------------------

    @torch.inference_mode()
    def samples(self, seeds: range, psi: float = DEFAULT_PSI) -> torch.Tensor:
        """Pictures ``[N, 3, r, r]`` of the averaged generator, as users get them."""
        return self.ema.synthesis(sample_ws(self.ema, seeds, psi)).clamp(-1, 1)

    def score(self) -> dict[str, float]:
        """Distance to held-out renders in a judge's features, where there is a judge."""
        return {} if self.distance is None else {self.distance.name: self.distance.score(self.samples)}

    def grid(self, rows: int = 4, columns: int = 8) -> torch.Tensor:
        """Samples of fixed seeds."""
        seeds = VALIDATION_SEEDS[: rows * columns]
        parts = [self.samples(seeds[at : at + columns]).cpu() for at in range(0, len(seeds), columns)]
        return _tiled(torch.cat(parts), columns)

    def first_batch(self) -> torch.Tensor:
        """The pictures of the first step, and below them what the discriminator sees at the highest augmentation."""
        real = self.feed.take(0)
        if not self.adaptive.on:
            return _tiled(real, 8)
        changed = augment(real, 0.85, np.random.default_rng(self.config.seed)).clamp(-1, 1)
        return torch.cat([_tiled(real, 8), _tiled(changed, 8)], dim=1)

    def activation_bytes(self) -> int:
        """Those of one picture in each network, times what the discriminator's step holds at once."""
        self.d.requires_grad_(True)
        ws = self.g.mapping(self._latents(1, 0))
        with self._autocast():
            made = saved_bytes(lambda: self._synthesize(ws), [self.g])
            judged = saved_bytes(lambda: self.d(ws.new_zeros(1, 3, *[self.config.resolution] * 2)), [self.d])
        # Real and generated pictures; R1 keeps the way back from the real ones too
        return self.config.batch * (made + judged * (4 if self.config.gamma > 0 else 2))

    def settings(self) -> dict[str, Any]:
        """All settings but the length, which may be changed, and what is trained on and from."""
        free = {"kimg": None, "save_every": None}
        return asdict(self.config) | free | {"data": self.pictures.describe(), "from": self.origin}

    def parts(self) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
        """Generator, its average, discriminator, and their optimisers."""
        return {"G": self.g, "G_ema": self.ema, "D": self.d}, {"G": self.g_optimizer, "D": self.d_optimizer}

    def counters(self) -> dict[str, Any]:
        """Augmentation and the mean path length."""
        return {"adaptive": self.adaptive.state(), "path_mean": self.path_mean}

    def set_counters(self, counters: Mapping[str, Any]) -> None:
        """Take back what `counters` gave."""
        self.adaptive.set_state(counters["adaptive"])
        self.path_mean = counters["path_mean"]

    def close(self) -> None:
        """End the workers that read pictures."""
        self.feed.close()


def _tiled(images: torch.Tensor, columns: int) -> torch.Tensor:
    """Images ``[N, 3, r, r]`` in [-1, 1] in reading order, ``[3, H, W]`` in [0, 1]; missing ones are white."""
    missing = -len(images) % columns
    images = torch.cat([images.cpu(), images.new_ones(missing, *images.shape[1:]).cpu()])
    rows = [torch.cat(list(images[at : at + columns]), dim=2) for at in range(0, len(images), columns)]
    return torch.cat(rows, dim=1) / 2 + 0.5
