"""Train a semantic mapper from the generator alone (paper, section 3.3): no pictures, no drawings, no labels by hand.

Each step samples a batch, runs the condition's extractor on the pictures, and asks the mapper for the samples' own
proxy masks. Sample number i of a run always comes from the same seed, and its drawing from a generator seeded by the
run and the step: a run has no random state. Pictures are never mirrored, since clusters know left from right.

Several processes share the samples, and batch normalisation sees those of all. Drawing is left to chance from sample to
sample, so every process draws the whole batch and keeps its own; micro-batches would be normalised each by itself, and
are not offered.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.conditions import Condition
from sis_rearrange.cycle import Cycle, Looks
from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.losses import part_weights
from sis_rearrange.mapper import SemanticMapper
from sis_rearrange.proxy import ProxyClusters, palette
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.stylegan2 import Discriminator
from sis_rearrange.training.mapper_config import MapperConfig
from sis_rearrange.training.run import Training, run_training
from sis_rearrange.training.scale import Scale, cut
from sis_rearrange.training.schedule import learning_rate
from sis_rearrange.training.seeds import VALIDATION_SEEDS, step_seeds
from sis_rearrange.training.states import completed
from sis_rearrange.unet import UNet, take_levels

__all__ = ["MapperConfig", "MapperTraining", "Pairs", "train_mapper"]


class Pairs(NamedTuple):
    """Samples of the generator as a mapper sees them."""

    images: torch.Tensor  # [N, 3, R, R] in [-1, 1]
    drawings: torch.Tensor  # [N, channels, R, R], what the condition made of the images
    parts: torch.Tensor | None  # [N, R, R] int64, what the segmenter sees in them
    looks: Looks  # features and proxy masks of the samples


class MapperTraining(Training):
    """Networks, optimiser and counters of one run."""

    shown = ("loss/cross_entropy", "batch/accuracy", "score/proxy_accuracy")
    less_memory = "--batch, or --cycle-batch, or use --precision bfloat16"

    def __init__(
        self,
        split: SplitGenerator,
        proxy: ProxyClusters,
        condition: Condition,
        segmenter: UNet | None,  # part labels for the samples; None where neither condition nor cycle needs them
        config: MapperConfig,
        rearranger: Rearranger | None = None,  # needed where config.cycle > 0
        discriminator: Discriminator | None = None,  # needed where config.natural > 0 too
        scale: Scale | None = None,  # None: this process does everything
        start: SemanticMapper | None = None,  # weights to begin with; None: random ones
        origin: str = "",  # where ``start`` is from: part of the settings
    ) -> None:
        if condition.needs_labels and segmenter is None:
            raise ValueError(f"{condition.name} needs a segmenter")
        self.split, self.proxy, self.config = split, proxy, config
        self.condition, self.segmenter, self.cycle = condition, segmenter, None
        if config.cycle > 0:
            if segmenter is None or rearranger is None:
                raise ValueError("the cycle term needs a segmenter and a rearranger")
            if config.natural > 0 and discriminator is None:
                raise ValueError("the natural term needs a discriminator")
            self.cycle = Cycle(split, rearranger, segmenter, discriminator if config.natural > 0 else None)
        self.device = proxy.centroids.device
        self.scale = scale or Scale(self.device, config.precision)
        self._at, self._followed = self._positions()
        # Channels last: convolutions take a fifth less time
        self.origin = origin
        self.net = self._new_mapper(start).to(memory_format=torch.channels_last).to(self.device).train()
        self.ema = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.scale.synchronised(self.net)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.name, self.steps = config.condition, config.steps
        self.batch, self.save_every = config.batch, config.save_every

    def _new_mapper(self, start: SemanticMapper | None) -> SemanticMapper:
        config, resolution = self.config, self.split.generator.img_resolution
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                mapper = SemanticMapper(
                    config.condition,
                    self.condition.channels,
                    self.proxy.K,
                    resolution,
                    self.proxy.resolution,
                    config.widths,
                )
        except ValueError as error:
            raise InputError(f"--widths {','.join(map(str, config.widths))}: {error}") from None
        if resolution % mapper.unet.stride:
            raise InputError(f"--widths: {len(config.widths)} levels are too many for pictures of {resolution} pixels")
        if start is not None:
            try:
                take_levels(mapper.unet, start.unet)
            except ValueError as error:
                raise InputError(f"--resume-from {self.origin}: {error}") from None
        return mapper

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _positions(self) -> tuple[np.ndarray, int]:
        """Which samples of a batch this process has, those followed to the picture first, and how many those are."""
        config, scale, cycle = self.config, self.scale, self.cycle
        if config.batch < scale.processes:
            raise InputError(f"--batch {config.batch}: must be at least the number of processes, {scale.processes}")
        count = 0 if cycle is None else config.cycle_batch
        rest = np.array_split(np.arange(count, config.batch), scale.processes)[scale.rank]
        if cycle is not None and cycle.discriminator is not None:  # which compares pictures with each other
            group = cycle.discriminator.b4.group_size
            followed = cut(count, scale.processes, group, "--cycle-batch")[scale.rank]
        else:
            followed = np.array_split(np.arange(count), scale.processes)[scale.rank]
        return np.concatenate([followed, rest]), len(followed)

    def _looks(self, seeds: Sequence[int]) -> Looks:
        ws = sample_ws(self.split.generator, seeds, self.config.psi)
        feature_map, skip = self.split.g1(ws)
        return Looks(ws, feature_map, skip, self.proxy.labels(feature_map))

    def _seen(self, looks: Looks) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pictures of samples, and the parts that the segmenter sees in them, where there is one."""
        images = self.split.g2(looks.feature_map, looks.skip, looks.ws).clamp(-1, 1)
        with self.scale.autocast():
            return images, None if self.segmenter is None else self.segmenter(images).argmax(dim=1)

    @torch.no_grad()
    def pairs(self, seeds: Sequence[int], rng: np.random.Generator) -> Pairs:
        """Sample the generator and draw what it shows; ``rng`` decides how."""
        looks = self._looks(seeds)
        images, parts = self._seen(looks)
        return Pairs(images, self._drawn(images, parts, rng).to(self.device), parts, looks)

    def _drawn(self, images: torch.Tensor, parts: torch.Tensor | None, rng: np.random.Generator) -> torch.Tensor:
        """What the condition makes of samples; in some it leaves out a part, for the mapper to fill in."""
        drawings = self.condition.from_samples(images, parts, rng)
        if parts is None or not self.config.unpainted:
            return drawings
        for at in np.flatnonzero(rng.random(len(drawings)) < self.config.unpainted):
            part = int(rng.choice(parts[at].unique().cpu().numpy()))
            drawings[at : at + 1] = self.condition.without(drawings[at : at + 1], [part])
        return drawings

    @torch.no_grad()
    def _step_pairs(self) -> tuple[Pairs, torch.Tensor | None]:
        """What the present step sees in this process, and the parts in all its samples."""
        config, at = self.config, self._at
        seeds, rng = step_seeds(config.seed, self.step, config.batch), np.random.default_rng([config.seed, self.step])
        if self.scale.processes == 1:
            pairs = self.pairs(seeds, rng)
            return pairs, pairs.parts
        looks = self._looks([seeds[place] for place in at])
        images, parts = self._seen(looks)
        every = self.scale.gather(images, at, config.batch)
        every_parts = None if parts is None else self.scale.gather(parts.to(torch.uint8), at, config.batch).long()
        drawings = self._drawn(every, every_parts, rng)[torch.from_numpy(at)]
        return Pairs(images, drawings.to(self.device), parts, looks), every_parts

    def _other_looks(self, pairs: Pairs) -> Looks:
        """The look that each of the samples followed to the picture is to get: another sample's of the batch."""
        config, count = self.config, self.config.cycle_batch
        first = count if config.batch >= 2 * count else config.batch - count
        if self.scale.processes == 1:
            return Looks(*(each[first : first + count] for each in pairs.looks))
        seeds = step_seeds(config.seed, self.step, config.batch)
        with torch.no_grad():
            return self._looks([seeds[first + place] for place in self._at[: self._followed]])

    def train_step(self) -> dict[str, float]:
        """One update of the mapper; returns its loss and accuracy on the batch."""
        config = self.config
        pairs, every_parts = self._step_pairs()
        share = len(self._at) / config.batch
        rate = learning_rate(self.step, config.steps, config.lr)
        self.optimizer.param_groups[0]["lr"] = rate
        with self.scale.autocast():
            logits = self.net(pairs.drawings)
        logits, labels = logits.float(), pairs.looks.labels
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing) * share
        stats = {"loss/cross_entropy": loss.item()}
        if self.cycle is not None and self.step >= config.cycle_after * config.steps:
            stats |= {"loss/cycle": 0.0} | ({} if self.cycle.discriminator is None else {"loss/natural": 0.0})
            for name, weight, term in self._followed_terms(logits, pairs, every_parts):
                stats[name] = term.item()
                loss = loss + weight * term
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        self.optimizer.zero_grad(set_to_none=True)
        self.scale.backward(loss)
        norm = self.scale.step(self.optimizer, self.step, clip=5.0)
        self._average()
        self.step += 1
        stats = self.scale.total(stats | {"batch/accuracy": accuracy.item() * share})
        return stats | {"lr": rate} | ({} if norm is None else {"grad_norm": norm})

    def _followed_terms(
        self, logits: torch.Tensor, pairs: Pairs, every_parts: torch.Tensor | None
    ) -> list[tuple[str, float, torch.Tensor]]:
        """Name, weight and value of the terms on the pictures that this process follows, as shares of all of them."""
        config, count = self.config, self._followed
        if count == 0:
            return []
        assert self.cycle is not None and pairs.parts is not None and every_parts is not None
        asked, every = pairs.parts[:count], every_parts[: config.cycle_batch]
        weights = part_weights(every, self.cycle.segmenter.out_channels)
        with self.scale.autocast():
            shown, real = self.cycle(logits[:count], self._other_looks(pairs), asked, weights)
        whole = count == config.cycle_batch
        share = 1.0 if whole else float(weights[asked].double().sum() / weights[every].double().sum())
        terms = [("loss/cycle", config.cycle, shown * share)]
        if real is not None:
            terms.append(("loss/natural", config.natural, real * (count / config.cycle_batch)))
        return terms

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged network, running statistics included, towards the trained one."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        now = self.net.state_dict()
        for name, mean in self.ema.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(now[name], 1 - decay)
            else:
                mean.copy_(now[name])

    # ---- scores, pictures, state -------------------------------------------------------------------------------------

    def _held_out(self, count: int) -> Pairs:
        return self.pairs(VALIDATION_SEEDS[:count], np.random.default_rng(VALIDATION_SEEDS.start))

    @torch.inference_mode()
    def score(self) -> dict[str, float]:
        """Share of cells that the averaged network gets right on held-out samples, and its cross-entropy in nats."""
        pairs = self._held_out(len(VALIDATION_SEEDS))
        logits, labels = self.ema(pairs.drawings), pairs.looks.labels
        return {
            "score/proxy_accuracy": (logits.argmax(dim=1) == labels).float().mean().item(),
            "score/cross_entropy": F.cross_entropy(logits, labels).item(),
        }

    @torch.inference_mode()
    def grid(self, columns: int = 10) -> torch.Tensor:
        """Held-out samples: rows sample, condition as shown, its proxy mask, predicted proxy mask."""
        return self._picture(self._held_out(columns))

    @torch.inference_mode()
    def first_batch(self) -> torch.Tensor:
        """The same of the samples that the first step sees."""
        return self._picture(self._step_pairs()[0])

    def _picture(self, pairs: Pairs) -> torch.Tensor:
        """``[3, H, W]`` in [0, 1]."""
        colours = torch.from_numpy(palette(self.proxy.K)).float() / 255

        def painted(labels: torch.Tensor) -> torch.Tensor:
            return F.interpolate(colours[labels.cpu()].permute(0, 3, 1, 2), size=pairs.images.shape[2:])

        shown = np.stack([np.asarray(self.condition.show(x)) for x in pairs.drawings.cpu()])
        rows = [
            pairs.images.cpu() / 2 + 0.5,
            torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255,
            painted(pairs.looks.labels),
            painted(self.ema(pairs.drawings).argmax(dim=1)),
        ]
        return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)

    def settings(self) -> dict[str, Any]:
        """All settings of the run."""
        return asdict(self.config) | {"from": self.origin}

    def former(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As `Training`."""
        return completed(settings, asdict(MapperConfig(self.config.condition)) | {"from": ""})

    def parts(self) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
        """The mapper, its average, its optimiser."""
        return {"net": self.net, "ema": self.ema}, {"net": self.optimizer}


def train_mapper(
    split: SplitGenerator,
    proxy: ProxyClusters,
    condition: Condition,
    segmenter: UNet | None,
    config: MapperConfig,
    run: Path,
    rearranger: Rearranger | None = None,
    discriminator: Discriminator | None = None,
) -> tuple[SemanticMapper, dict[str, float]]:
    """Train, or go on with, the run in the folder ``run``; returns the averaged network and its scores.

    What the folder gets and what is raised: see `run_training`.
    """
    training = MapperTraining(split, proxy, condition, segmenter, config, rearranger, discriminator)
    scores = run_training(training, run)
    return training.ema, scores
