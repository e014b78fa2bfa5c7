"""Train a StyleGAN2: non-saturating loss, lazy R1 and path length, style mixing, adaptive augmentation, EMA.

Step ``n`` sees pictures ``n * batch`` and on, and latents of seeds that follow from the settings and ``n``: a run has
no random state. The discriminator is trained first, then the generator on the very same latents, so that each step
makes its pictures once; in micro-batches it makes them twice, so as not to keep the way back of all of them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
from sis_rearrange.training.augmentation import Adaptive, augment, changed, draw_changes
from sis_rearrange.training.distance import JudgeDistance
from sis_rearrange.training.generator_batch import OwnPictures, Piece
from sis_rearrange.training.generator_config import GeneratorConfig
from sis_rearrange.training.growth import Networks
from sis_rearrange.training.memory import saved_bytes
from sis_rearrange.training.patch_critic import PatchCritic
from sis_rearrange.training.path_length import PathLength
from sis_rearrange.training.run import Training
from sis_rearrange.training.scale import Scale
from sis_rearrange.training.seeds import VALIDATION_SEEDS, step_seeds
from sis_rearrange.training.sources import Feed, Pictures
from sis_rearrange.training.states import completed

_MIXED, _PATHS = 100, 101  # streams of a sample's seed; noise has those from 1 on
_W_AVERAGE = 0.998  # decay of w_avg per step

__all__ = ["GeneratorConfig", "GeneratorTraining"]


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
    less_memory = "--batch, or raise --accumulate, or use --precision bfloat16"

    def __init__(
        self,
        config: GeneratorConfig,
        pictures: Pictures,
        workers: int = 2,  # processes that read pictures ahead; 0: none
        start: Networks | None = None,  # None: fresh networks
        origin: str = "",  # what ``start`` was made from: part of the settings
        distance: JudgeDistance | None = None,
        scale: Scale | None = None,  # None: this process does everything, on the CPU
    ) -> None:
        self.config, self.pictures, self.distance, self.origin = config, pictures, distance, origin
        self.scale = scale or Scale(None, config.precision, config.accumulate)
        self.device = self.scale.device
        self._positions = self.scale.pieces(config.batch, config.mbstd_group)
        generator, average, discriminator = self._networks(start)
        self.g, self.d = generator.to(self.device).train(), discriminator.to(self.device).train()
        self.ema = average.to(self.device).eval().requires_grad_(False)
        self.g.requires_grad_(True)
        self.patches = PatchCritic(config).to(self.device) if config.patch_weight > 0 else None
        self._judges = nn.ModuleList([self.d] if self.patches is None else [self.d, self.patches])
        self.g_optimizer = torch.optim.Adam(self.g.parameters(), lr=config.lr, betas=(0.0, 0.99))
        self.d_optimizer = torch.optim.Adam(self._judges.parameters(), lr=config.d_lr, betas=(0.0, 0.99))
        self._judges.requires_grad_(False)
        mine = np.concatenate(self._positions)
        self._whole = len(self._positions[0]) == config.batch
        self.feed = Feed(pictures if self._whole else OwnPictures(pictures, config.batch, mine), len(mine), workers)
        self.adaptive = Adaptive(config.ada_target, config.ada_kimg)
        self.paths = PathLength(config, self.scale)
        self.steps, self.batch, self.save_every = config.steps, config.batch, config.save_every
        if distance is not None:
            self.shown = (*self.shown, distance.name)

    def _networks(self, start: Networks | None) -> tuple[Generator, Generator, Discriminator]:
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            widths: dict[str, Any] = {"channel_base": config.channel_base, "channel_max": config.channel_max}
            group = {"mbstd_group_size": config.mbstd_group}
            if start is None:
                fresh = Generator(
                    config.z_dim, 0, config.w_dim, config.resolution, num_layers=config.num_layers, **widths
                )
                return fresh, copy.deepcopy(fresh), Discriminator(0, config.resolution, **widths, **group)
            if start.resolution != config.resolution:
                raise InputError(
                    f"--resolution {config.resolution}: the networks given are for {start.resolution} pixels"
                )
            widths = {name: start.generator.config[name] for name in widths}
            judge = start.discriminator or Discriminator(0, config.resolution, **widths)
            judge.b4.group_size = judge.config["mbstd_group_size"] = config.mbstd_group
            return start.generator, start.average, judge

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _seeds(self, positions: np.ndarray) -> list[int]:
        seeds = step_seeds(self.config.seed, self.step, self.config.batch)
        return [seeds[at] for at in positions]

    def _latents(self, positions: np.ndarray, stream: int) -> torch.Tensor:
        return seeded_normal(self._seeds(positions), [self.g.z_dim], stream).to(self.device)

    def _synthesize(self, ws: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
        mode = "random" if self.config.noise else "none"
        seeds = self._seeds(positions) if self.config.noise else None
        return self.g.synthesis(ws, mode, seeds).float()

    def _mixing(self, rng: np.random.Generator) -> np.ndarray:
        """The row of ws from which on each picture of the batch takes another sample's; past the end: none."""
        config, rows = self.config, self.g.num_ws
        mixed, cuts = rng.random(config.batch) < config.mixing, rng.integers(1, rows, config.batch)
        return np.where(mixed, cuts, rows)

    def _fakes(self, positions: np.ndarray, cuts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures ``[n, 3, r, r]`` at positions of the step's batch, with gradients, and their w ``[n, w_dim]``."""
        rows, cuts = self.g.num_ws, cuts[positions]
        ws = self.g.mapping(self._latents(positions, 0))
        first = ws[:, 0].detach()
        if (cuts < rows).any():
            second = torch.from_numpy(np.arange(rows)[None] >= cuts[:, None]).to(self.device)
            others = self.g.mapping(self._latents(positions, _MIXED))
            ws = torch.where(second[:, :, None], others, ws)
        with self.scale.autocast():
            return self._synthesize(ws, positions), first

    def train_step(self) -> dict[str, float]:
        """One update of the discriminator, one of the generator."""
        config = self.config
        started, waited = time.monotonic(), self.feed.waited
        count = len(np.concatenate(self._positions))
        real = self.feed.take(self.step * count).to(self.device).split([len(at) for at in self._positions])
        rng = np.random.default_rng([config.seed, self.step])
        cuts = self._mixing(rng)
        with torch.set_grad_enabled(config.accumulate == 1):
            fakes, ws = zip(*(self._fakes(at, cuts) for at in self._positions), strict=True)
        self._move_w_average(ws)
        pieces = [Piece(*each) for each in zip(self._positions, real, fakes, strict=True)]
        stats = self._discriminator_step(pieces, rng)
        stats |= self._generator_step(pieces, cuts, rng)
        self._average()
        self.step += 1
        waiting = (self.feed.waited - waited) / (time.monotonic() - started)
        return stats | {"augmentation": self.adaptive.p, "waiting": waiting}

    def _move_w_average(self, ws: Sequence[torch.Tensor]) -> None:
        """Towards the mean w of the step's batch, of which this process has ``ws``."""
        if self._whole and len(ws) == 1:
            mean = ws[0].mean(dim=0)
        else:
            mean = torch.cat(list(ws)).sum(dim=0) / self.config.batch
            self.scale.add_up([mean])
        self.g.mapping.w_avg.lerp_(mean, 1 - _W_AVERAGE)

    def _share(self, piece: Piece) -> float:
        return len(piece.positions) / self.config.batch

    def _discriminator_step(self, pieces: Sequence[Piece], rng: np.random.Generator) -> dict[str, float]:
        config, p = self.config, self.adaptive.p
        penalise = config.gamma > 0 and self.step % config.r1_interval == 0
        to_real, to_fake = (draw_changes(config.batch, config.resolution, p, rng) for _ in range(2))
        self._judges.requires_grad_(True)
        self.d_optimizer.param_groups[0]["lr"] = config.d_lr
        self.d_optimizer.zero_grad(set_to_none=True)
        noted, logits = {"loss/discriminator": 0.0} | ({"loss/r1": 0.0} if penalise else {}), []
        for piece in pieces:
            real = changed(piece.real, piece.its(to_real)).detach().requires_grad_(penalise)
            # The penalty needs second gradients, which reduced precision spoils
            fake = changed(piece.fake.detach(), piece.its(to_fake))
            with self.scale.autocast(not penalise):
                real_logits, fake_logits = self.d(real).float(), self.d(fake).float()
            loss = losses.discriminator(real_logits, fake_logits) * self._share(piece)
            noted["loss/discriminator"] += loss.item()
            if penalise:
                penalty = losses.r1_penalty(real_logits, real, config.gamma) * self._share(piece)
                noted["loss/r1"] += penalty.item()
                loss = loss + penalty * config.r1_interval
            if self.patches is not None:
                with self.scale.autocast(not penalise):
                    own, penalty = self.patches.own_loss(real, fake, piece.positions, self.step, penalise)
                loss = loss + (own + penalty * config.r1_interval) * self._share(piece)
                noted["loss/patch_critic"] = noted.get("loss/patch_critic", 0.0) + own.item() * self._share(piece)
            self.scale.backward(loss)
            logits.append(torch.cat([real_logits, fake_logits], dim=1).detach())
        self.scale.step(self.d_optimizer, self.step)
        self._judges.requires_grad_(False)
        every = self.scale.gather(torch.cat(logits), np.concatenate(self._positions), config.batch)
        self.adaptive.see(every[:, 0], self.step)
        real_mean, fake_mean = every.t().contiguous().mean(dim=1).tolist()
        return self.scale.total(noted) | {"logits/real": real_mean, "logits/fake": fake_mean}

    def _generator_step(self, pieces: Sequence[Piece], cuts: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
        config = self.config
        changes = draw_changes(config.batch, config.resolution, self.adaptive.p, rng)
        paths = self.paths.positions() if config.path_weight > 0 and self.step % config.path_interval == 0 else None
        known, length = False, 0.0
        if paths is not None and config.accumulate > 1:  # the mean is of all pieces: once through them to know it
            length, known = self.paths.move_mean([self._path_lengths(at, False) for at in paths]), True
        self.g_optimizer.param_groups[0]["lr"] = config.lr
        self.g_optimizer.zero_grad(set_to_none=True)
        noted = {"loss/generator": 0.0} | ({} if paths is None else {"loss/path": 0.0})
        for number, piece in enumerate(pieces):
            fake = piece.fake if piece.fake.requires_grad else self._fakes(piece.positions, cuts)[0]
            with self.scale.autocast():
                seen = changed(fake, piece.its(changes))
                logits = self.d(seen)
            loss = losses.adversarial(logits.float()) * self._share(piece)
            noted["loss/generator"] += loss.item()
            if self.patches is not None:
                with self.scale.autocast():
                    detail = self.patches.loss(seen, piece.positions, self.step) * self._share(piece)
                noted["loss/patches"] = noted.get("loss/patches", 0.0) + detail.item()
                loss = loss + detail * config.patch_weight
            if paths is not None:
                lengths = self._path_lengths(paths[number], True)
                if not known:
                    length = self.paths.move_mean([lengths])
                penalty = self.paths.penalty(lengths)
                noted["loss/path"] += penalty.item()
                loss = loss + penalty * config.path_weight * config.path_interval
            self.scale.backward(loss)
        self.scale.step(self.g_optimizer, self.step)
        return self.scale.total(noted) | ({} if paths is None else {"path_length": length})

    def _path_lengths(self, positions: np.ndarray, differentiable: bool) -> torch.Tensor:
        """Those of samples of their own, ``[n]``."""
        if not len(positions):
            return torch.zeros(0, device=self.device)
        ws = self.g.mapping(self._latents(positions, _PATHS))
        images = self._synthesize(ws, positions)
        return self.paths.lengths(images, ws, self._seeds(positions), differentiable)

    @torch.no_grad()
    def _average(self) -> None:
        config, seen = self.config, (self.step + 1) * self.config.batch
        half_life = config.ema_kimg * 1000
        if config.ema_rampup > 0:  # a transfer's start too is soon forgotten: a blend of two domains is a melted one
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
        """Those of one picture in each network, times what a piece of the discriminator's step holds at once."""
        self._judges.requires_grad_(True)
        one = np.arange(1)
        ws = self.g.mapping(self._latents(one, 0))
        with self.scale.autocast():
            made = saved_bytes(lambda: self._synthesize(ws, one), [self.g])
            picture = ws.new_zeros(1, 3, *[self.config.resolution] * 2)
            judged = saved_bytes(lambda: self.d(picture), [self.d])
            if (patches := self.patches) is not None:
                judged += saved_bytes(lambda: patches.loss(picture, one, 0), [patches])
        # Real and generated pictures; R1 keeps the way back from the real ones too
        return len(self._positions[0]) * (made + judged * (4 if self.config.gamma > 0 else 2))

    def settings(self) -> dict[str, Any]:
        """All settings but those that may be changed, the length and the pieces; what is trained on and from."""
        free = {"kimg": None, "save_every": None, "accumulate": None}
        return asdict(self.config) | free | {"data": self.pictures.describe(), "from": self.origin}

    def former(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As `Training`."""
        return completed(settings, asdict(GeneratorConfig()) | {"accumulate": None})

    def parts(self) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
        """Generator, its average, discriminator, the critic of patches where there is one, and their optimisers."""
        networks = {"G": self.g, "G_ema": self.ema, "D": self.d} | ({"patches": self.patches} if self.patches else {})
        return networks, {"G": self.g_optimizer, "D": self.d_optimizer}

    def counters(self) -> dict[str, Any]:
        """Augmentation and the mean path length."""
        return {"adaptive": self.adaptive.state(), "path_mean": self.paths.mean}

    def set_counters(self, counters: Mapping[str, Any]) -> None:
        """Take back what `counters` gave."""
        self.adaptive.set_state(counters["adaptive"])
        self.paths.mean = counters["path_mean"]

    def close(self) -> None:
        """End the workers that read pictures."""
        self.feed.close()


def _tiled(images: torch.Tensor, columns: int) -> torch.Tensor:
    """Images ``[N, 3, r, r]`` in [-1, 1] in reading order, ``[3, H, W]`` in [0, 1]; missing ones are white."""
    missing = -len(images) % columns
    images = torch.cat([images.cpu(), images.new_ones(missing, *images.shape[1:]).cpu()])
    rows = [torch.cat(list(images[at : at + columns]), dim=2) for at in range(0, len(images), columns)]
    return torch.cat(rows, dim=1) / 2 + 0.5
