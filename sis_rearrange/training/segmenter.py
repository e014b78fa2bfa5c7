"""Train a U-Net to read part masks off pictures, from the renderer's true masks.

Two roles, trained on disjoint pictures from different seeds, so that a result is never judged by the network that
helped to make it: the *segmenter* labels the generator's samples when mappers are trained, the *judge* only evaluates.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sis_rearrange.domains import SPLITS, Domain, get_domain, render_many
from sis_rearrange.errors import InputError, nearest
from sis_rearrange.metrics import class_iou, confusion, miou, pixel_accuracy
from sis_rearrange.tensors import from_uint8
from sis_rearrange.training.colour_changes import AUGMENTATIONS, Augmentation, augment
from sis_rearrange.training.origins import origin_of
from sis_rearrange.training.run import Training, run_training
from sis_rearrange.training.schedule import learning_rate
from sis_rearrange.unet import UNet
from sis_rearrange.weights import read_weights, write_weights

# Halves of the training split, and seeds, per role.
ROLES: dict[str, tuple[range, int]] = {
    "judge": (SPLITS["train"][:500_000], 1),
    "segmenter": (SPLITS["train"][500_000:], 2),
}
_DICE_SMOOTHING = 32.0  # pixels; keeps the dice of a class that a batch hardly holds from swinging between 0 and 1


@dataclass(frozen=True)
class SegmenterConfig:
    """Settings of one training. ``resolution`` must be divisible by 2**(len(widths) - 1)."""

    resolution: int = 64  # pixels per side
    images: int = 16_000  # rendered training pictures
    steps: int = 3_000  # optimiser steps
    batch: int = 32  # pictures per step
    lr: float = 4e-3  # peak learning rate of AdamW, reached after 10 % of the steps
    weight_decay: float = 1e-2
    dice: float = 1.0  # weight of the soft-dice term; 0 switches it off
    widths: tuple[int, ...] = (16, 32, 64, 96, 128)  # of the U-Net
    bfloat16: bool = True  # convolutions in bfloat16: faster on processors that have it
    validation: int = 1_000  # pictures of the val split scored at the end
    evaluate_every: int = 500  # steps between scores on the first 128 of them
    save_every: float = 60.0  # seconds between checkpoints

    def __post_init__(self) -> None:
        if self.resolution % 2 ** (len(self.widths) - 1):
            raise InputError(
                f"resolution {self.resolution} must be divisible by {2 ** (len(self.widths) - 1)} "
                f"for {len(self.widths)} widths"
            )
        if self.batch < 1 or self.images < self.batch or self.steps < 1:
            raise InputError(
                f"need steps >= 1 and images >= batch >= 1, got steps {self.steps}, "
                f"images {self.images}, batch {self.batch}"
            )
        if not 1 <= self.validation <= len(SPLITS["val"]):
            raise InputError(f"validation must be 1..{len(SPLITS['val'])} pictures, got {self.validation}")


@dataclass(frozen=True)
class Renders:
    """Rendered pictures uint8 ``[N, r, r, 3]`` and their true masks uint8 ``[N, r, r]``."""

    pictures: np.ndarray
    masks: np.ndarray


# ---- data ------------------------------------------------------------------------------------------------------


def cached_renders(domain: Domain, indices: range, resolution: int, path: Path, workers: int = 2) -> Renders:
    """Render ``indices``, or read them from the .npz at ``path`` where an earlier run left the very same pictures.

    Raises InputError where they cannot be written there.
    """
    asked = np.array([indices.start, indices.stop, indices.step, resolution])
    if path.is_file():
        damage = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)  # then they are rendered again
        with contextlib.suppress(*damage), np.load(path, allow_pickle=False) as stored:
            if str(stored["domain"]) == domain.name and np.array_equal(stored["asked"], asked):
                return Renders(stored["pictures"], stored["masks"])
    pictures, masks = render_many(domain, indices, resolution, workers, progress=f"rendering {domain.name}")
    partial = path.with_suffix(".partial.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(partial, domain=domain.name, asked=asked, pictures=pictures, masks=masks)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    return Renders(pictures, masks)


def batch(
    data: Renders, config: SegmenterConfig, augmentation: Augmentation, seed: int, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images ``[B, 3, r, r]`` in [-1, 1] and labels int64 ``[B, r, r]`` of a step, by the seed and its number alone."""
    per_epoch = config.images // config.batch
    order = np.random.default_rng([seed, 0, step // per_epoch]).permutation(config.images)
    at = step % per_epoch * config.batch
    chosen = np.sort(order[at : at + config.batch])
    images, labels = from_uint8(data.pictures[chosen]), torch.from_numpy(data.masks[chosen]).long()
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    mirrored = torch.rand(config.batch, generator=generator) < 0.5
    images[mirrored], labels[mirrored] = images[mirrored].flip(3), labels[mirrored].flip(2)
    return augment(images, augmentation, generator), labels


# ---- loss ------------------------------------------------------------------------------------------------------


def class_weights(masks: np.ndarray, num_classes: int) -> torch.Tensor:
    """Weights ~ 1/sqrt(frequency), float32 ``[K]``, at most 5, averaging 1 over the pixels of ``masks``."""
    frequency = np.bincount(masks.ravel(), minlength=num_classes) / masks.size
    weights = 1 / np.sqrt(np.maximum(frequency, 1e-4))
    weights = np.minimum(weights / (weights * frequency).sum(), 5.0)
    return torch.from_numpy(weights / (weights * frequency).sum()).float()


def soft_dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 - mean dice over classes, each pooled over the batch; logits ``[N, K, H, W]``, labels int64 ``[N, H, W]``."""
    probabilities = logits.softmax(1)
    target = F.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2)
    overlap = (probabilities * target).sum((0, 2, 3))
    total = probabilities.sum((0, 2, 3)) + target.sum((0, 2, 3))
    return 1 - ((2 * overlap + _DICE_SMOOTHING) / (total + _DICE_SMOOTHING)).mean()


# ---- training --------------------------------------------------------------------------------------------------


@torch.no_grad()
def score(network: UNet, data: Renders, classes: tuple[str, ...], batch: int = 50) -> dict[str, Any]:
    """Scores against true masks: ``miou``, ``accuracy``, ``iou`` (by class name), ``images``; network in eval mode."""
    network.eval()
    matrix = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    for at in range(0, len(data.pictures), batch):
        predicted = network(from_uint8(data.pictures[at : at + batch])).argmax(1)
        matrix += confusion(predicted, torch.from_numpy(data.masks[at : at + batch]), len(classes))
    per_class = {
        name: round(value, 4)
        for name, value in zip(classes, class_iou(matrix).tolist(), strict=True)
        if not math.isnan(value)
    }
    return {
        "miou": round(miou(matrix), 4),
        "accuracy": round(pixel_accuracy(matrix), 4),
        "iou": per_class,
        "images": len(data.pictures),
    }


class SegmenterTraining(Training):
    """Network and optimiser of one training."""

    shown = ("loss", "miou", "accuracy")
    less_memory = "batch"

    def __init__(
        self,
        domain: Domain,
        role: str,
        config: SegmenterConfig,
        data: Renders,
        held_out: Renders,
        start: UNet | None = None,  # weights to begin with, of any resolution; None: random ones
        origin: str = "",  # where ``start`` is from: part of the settings
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ROLES[role][1])
            network = UNet(3, len(domain.classes), config.widths)
        if start is not None:
            network.load_state_dict(start.state_dict())
        self.network = network.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.config, self.role, self.domain, self.data, self.origin = config, role, domain, data, origin
        self.glimpse = Renders(held_out.pictures[:128], held_out.masks[:128])
        self.weights = class_weights(data.masks, len(domain.classes))
        self.name, self.device = f"training {role}", torch.device("cpu")
        self.steps, self.batch, self.save_every = config.steps, config.batch, config.evaluate_every
        self.save_seconds = config.save_every

    def settings(self) -> dict[str, Any]:
        """All settings, the domain, the role, and what the training started from."""
        return {"domain": self.domain.name, "role": self.role, "from": self.origin, **asdict(self.config)}

    def former(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As `Training`."""
        return {"from": "", **settings}

    def parts(self) -> tuple[dict[str, torch.nn.Module], dict[str, torch.optim.Optimizer]]:
        """The U-Net and its optimiser."""
        return {"network": self.network}, {"network": self.optimizer}

    def train_step(self) -> dict[str, float]:
        """One update; returns the loss."""
        config = self.config
        images, labels = batch(self.data, config, AUGMENTATIONS[self.role], ROLES[self.role][1], self.step)
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config.steps, config.lr)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            logits = self.network(images.contiguous(memory_format=torch.channels_last))
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, self.weights) + config.dice * soft_dice_loss(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return {"loss": loss.item()}

    def score(self) -> dict[str, float]:
        """Scores on the first held-out pictures."""
        scores = score(self.network, self.glimpse, self.domain.classes)
        per_class = scores.pop("iou")
        return scores | {f"iou/{name}": value for name, value in per_class.items()}


def _start(source: str, role: str, domain: Domain, config: SegmenterConfig, run: Path) -> tuple[UNet | None, str]:
    """A pack's network of a role and the pack's name; neither where no pack is asked for."""
    origin = origin_of(source, run)
    if origin.pack is None:
        return None, origin.name
    if origin.pack.classes != domain.classes:
        raise InputError(f"--resume-from {source}: its parts are not those of {domain.name}")
    # The same role: a judge must never have seen what a segmenter learned from
    start = origin.pack.judge() if role == "judge" else origin.pack.segmenter()
    if start.widths != config.widths:
        raise InputError(f"--resume-from {source}: its {role} has widths {start.widths}, not {config.widths}")
    return start, origin.name


def train_segmenter(
    domain: str | Domain,
    out: str | Path,
    role: str,
    config: SegmenterConfig | None = None,
    workers: int = 2,
    resume_from: str = "",
) -> Path:
    """Train and score the U-Net of a role; returns the weight file ``out/<role>.safetensors`` (fp16).

    ``out`` also gets the cached renders and what `run_training` writes; the same call again goes on. The weight file's
    config holds the U-Net's arguments (``args``), role, classes, resolution, held-out metrics and training settings.
    ``resume_from`` names a pack whose network of that role, of any resolution, is trained on.
    Raises InputError for an unknown domain or role, a pack that does not fit, and as `run_training`.
    """
    if role not in ROLES:
        raise InputError(f"unknown role '{role}'{nearest(role, ROLES)} (known: {', '.join(ROLES)})")
    domain = get_domain(domain) if isinstance(domain, str) else domain
    config, out = config or SegmenterConfig(), Path(out)
    indices, seed = ROLES[role]
    if config.images > len(indices):
        raise InputError(f"the {role} has {len(indices):,} training pictures, {config.images:,} were asked for")

    start, origin = _start(resume_from, role, domain, config, out)  # before minutes of rendering
    # The cache remembers what it holds, so it may outlive a change of settings.
    data = cached_renders(domain, indices[: config.images], config.resolution, out / "train.npz", workers)
    held_out = cached_renders(domain, SPLITS["val"][: config.validation], config.resolution, out / "val.npz", workers)
    training = SegmenterTraining(domain, role, config, data, held_out, start, origin)
    run_training(training, out)

    written = out / f"{role}.safetensors"
    description: dict[str, Any] = {
        "kind": "unet",
        "args": training.network.config,
        "role": role,
        "classes": list(domain.classes),
        "resolution": config.resolution,
        "training": {
            **asdict(config),
            "domain": domain.name,
            "indices": [indices.start, indices.start + config.images],
            "seed": seed,
            "augmentation": asdict(AUGMENTATIONS[role]),
            "from": training.origin,
            "seconds": round(training.seconds),
            "threads": torch.get_num_threads(),
        },
    }
    # Score what users get, half precision and all: write, read back, then write again with the scores inside.
    write_weights(written, training.network.state_dict(), description)
    network = UNet(**training.network.config)
    network.load_state_dict(read_weights(written)[1])
    description["metrics"] = {"split": "val", **score(network, held_out, domain.classes)}
    write_weights(written, training.network.state_dict(), description)
    return written
