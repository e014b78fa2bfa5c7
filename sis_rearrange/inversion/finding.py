"""`invert`: one picture through all phases."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sis_rearrange.errors import InputError
from sis_rearrange.images import Source as PictureSource
from sis_rearrange.images import flatten, read_image
from sis_rearrange.inversion.crops import Crop, square_tensor
from sis_rearrange.inversion.optimise import Problem, Starts, Weights, descend, find_starts
from sis_rearrange.inversion.optimise import tune as tune_generator
from sis_rearrange.inversion.perceptual import perceptual
from sis_rearrange.inversion.prior import LatentPrior
from sis_rearrange.inversion.result import Inversion, rounded, tuned_generator
from sis_rearrange.pack import DISCRIMINATOR, ENCODER, GENERATOR, PROXY, Pack
from sis_rearrange.stylegan2 import Generator

SPACES = ("w", "w+")
MARGIN = 1.15  # times the distance below which QUANTILE of the samples find another: beyond it, outside the domain
QUANTILE = 0.99


@dataclass(frozen=True)
class InversionConfig:
    """Settings of one inversion."""

    steps: int = 300  # in W+; a twelfth of them in W before, twice as many of tuning after; fewer on a plateau
    starts: int = 4  # of the nearest samples, followed through W; the best goes on
    space: str = "w+"  # or "w": one w for all layers, closer to samples and less like the picture
    tune: bool = True  # pivotal tuning of the generator
    seed: int = 0  # which samples starts are looked for among
    samples: int = 0  # how many of those; 0: as many as cost a few seconds
    features: str = "auto"  # of the perceptual distance: "hed", "discriminator", or "auto"
    lr: float = 0.2  # of Adam in whitened coordinates, whose unit is a standard deviation of samples; half in W
    tune_lr: float = 2e-2  # of Adam on the generator's weights, which are about unit normal
    weights: Weights = field(default_factory=Weights)

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise InputError(f"--space {self.space}: must be w or w+")
        for name, least in (("steps", 1), ("starts", 1), ("seed", 0), ("samples", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: must be at least {least}")

    @property
    def w_steps(self) -> int:
        """Steps in W."""
        return max(1, self.steps if self.space == "w" else self.steps // 12)

    @property
    def plus_steps(self) -> int:
        """Steps in W+."""
        return self.steps if self.space == "w+" else 0

    @property
    def tune_steps(self) -> int:
        """Steps of tuning."""
        return 2 * self.steps if self.tune else 0

    def bank(self, resolution: int) -> int:
        """Samples to look for starts among."""
        wanted = self.samples or min(96, max(16, 96 * 64**2 // resolution**2))
        return max(wanted, self.starts, 2)


def work(config: InversionConfig, resolution: int) -> int:
    """What ``progress`` of `invert` adds up to."""
    return config.bank(resolution) + config.w_steps * config.starts + config.plus_steps + config.tune_steps


def invert(
    source: Pack | Generator,
    image: PictureSource,
    steps: int = InversionConfig.steps,
    starts: int = InversionConfig.starts,
    space: str = "w+",
    tune: bool = True,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    crop: Crop | None = None,
    device: torch.device | str = "cpu",
    config: InversionConfig | None = None,
) -> Inversion:
    """Find a picture in a generator: W, W+, then tuning around the pivot.

    Args:
        source: a pack, whose discriminator then serves as the perceptual distance, or a bare generator.
        image: path, PIL image or array of any size, as `read_image`.
        steps, starts, space, tune, seed: see `InversionConfig`; ``config`` replaces them all.
        progress: called with the amount of work done since the last call; `work` is the whole.
        crop: the square to look at; None: the largest in the middle.

    The same arguments give the same result on one machine. Raises InputError for a picture, crop or setting that
    cannot be used. A picture outside the domain is inverted all the same: see `Inversion.outside`.
    """
    config = config or InversionConfig(steps, starts, space, tune, seed)
    advance = progress or (lambda _: None)
    began = time.monotonic()
    upright = flatten(read_image(image))
    crop = (crop or Crop.middle(upright)).check(upright)
    device = torch.device(device)
    problem = _problem(source, square_tensor(crop.cut(upright), _generator(source).img_resolution), config, device)
    generator = problem.generator

    # Starts
    found = find_starts(problem, config.bank(generator.img_resolution), config.starts, config.seed, advance)
    starts_ws = _with_guess(source, problem.target, found.ws)

    # Latents
    ws, losses = descend(problem, starts_ws, config.w_steps, config.lr / 2, False, advance)
    ws = ws[losses.argmin()][None]
    if config.plus_steps:
        ws, _ = descend(problem, ws, config.plus_steps, config.lr, True, advance)
    before = _scores(problem, generator, ws)

    # Generator
    delta: dict[str, torch.Tensor] = {}
    if config.tune_steps:
        delta = tune_generator(problem, ws, config.tune_steps, config.tune_lr, _tap(source, generator), advance)

    inversion = Inversion(
        ws=ws[0].cpu(),
        delta={name: change.cpu() for name, change in delta.items()},
        error_map=np.zeros((generator.img_resolution,) * 2, np.float32),
        scores=dict.fromkeys(("psnr", "psnr_latent", "distance", "nearest", "limit", "prior_distance", "seconds"), 0.0),
        crop=crop,
        picture=_about(image, upright),
        pack=_pack_of(source),
        settings={**asdict(config), "features": problem.perceptual.kind},
    )
    return _measured(rounded(inversion), problem, found, before["psnr"], time.monotonic() - began)


def error_picture(inversion: Inversion, square: Image.Image) -> Image.Image:
    """The error map over the picture it is of: grey where it was found, red where not; RGB, the size of ``square``."""
    grey = np.asarray(square.convert("L"), np.float32)[..., None].repeat(3, axis=2) * 0.6 + 60
    plane = Image.fromarray(inversion.error_map).resize(square.size, Image.Resampling.BILINEAR)
    heat = np.clip(np.asarray(plane)[..., None] / 0.25, 0, 1)  # a quarter of the range is plainly wrong
    return Image.fromarray(
        np.round(grey * (1 - heat) + np.array([225.0, 30.0, 40.0]) * heat).clip(0, 255).astype(np.uint8)
    )


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _generator(source: Pack | Generator) -> Generator:
    return source.generator() if isinstance(source, Pack) else source


def _problem(source: Pack | Generator, target: torch.Tensor, config: InversionConfig, device: torch.device) -> Problem:
    generator = copy.deepcopy(_generator(source)).to(device).eval().requires_grad_(False)
    discriminator = None
    if isinstance(source, Pack) and DISCRIMINATOR in source.info["files"]:
        discriminator = source.discriminator()
        discriminator = discriminator if device.type == "cpu" else copy.deepcopy(discriminator).to(device)
    target = target.to(device)
    measure = perceptual(config.features, discriminator, device)
    with torch.no_grad():
        wanted = measure.features(target)
    return Problem(generator, target, measure, wanted, LatentPrior(generator), config.weights)


@torch.no_grad()
def _with_guess(source: Pack | Generator, target: torch.Tensor, ws: torch.Tensor) -> torch.Tensor:
    """Starts with the encoder's guess in place of the last of them, where the pack has an encoder."""
    if not isinstance(source, Pack) or ENCODER not in source.info["files"]:
        return ws
    guess = source.encoder()(target.cpu()).to(ws)
    return torch.cat([guess, ws[:-1]])


def _tap(source: Pack | Generator, generator: Generator) -> int:
    """Blocks above it are tuned; up to it, features keep the meaning that clusters and rearranger know."""
    if isinstance(source, Pack) and PROXY in source.info["files"]:
        return int(source.component_config(PROXY)["args"]["resolution"])
    return generator.img_resolution // 2


@torch.no_grad()
def _scores(problem: Problem, generator: Generator, ws: torch.Tensor) -> dict[str, float]:
    image = generator.synthesis(ws).clamp(-1, 1)
    error = float((image - problem.target).square().mean())
    return {
        "psnr": 10 * math.log10(4 / max(error, 1e-9)),
        "distance": float(problem.perceptual.between(problem.perceptual.features(image), problem.wanted)),
    }


@torch.no_grad()
def _measured(inversion: Inversion, problem: Problem, starts: Starts, psnr_latent: float, seconds: float) -> Inversion:
    """With scores and error map of exactly what is stored."""
    ws = inversion.ws[None].to(problem.target)
    generator = tuned_generator(problem.generator, inversion.delta)
    image = generator.synthesis(ws).clamp(-1, 1)
    difference = (image - problem.target).abs().mean(dim=1)[0] / 2
    inversion.error_map[:] = difference.half().float().cpu().numpy()
    inversion.scores.update(
        _scores(problem, generator, ws),
        psnr_latent=psnr_latent,
        nearest=starts.nearest,
        limit=MARGIN * float(starts.usual.quantile(QUANTILE)),
        prior_distance=float(problem.prior.distance(ws)),
        seconds=round(seconds, 2),
    )
    return inversion


def _about(image: PictureSource, upright: Image.Image) -> dict[str, Any]:
    name = Path(image).name if not isinstance(image, Image.Image | np.ndarray) else ""
    digest = hashlib.sha256(upright.tobytes()).hexdigest()
    return {"name": name, "width": upright.width, "height": upright.height, "sha256": digest}


def _pack_of(source: Pack | Generator) -> dict[str, str]:
    if not isinstance(source, Pack):
        return {"name": "", "generator": ""}
    return {"name": source.name, "generator": str(source.info["files"][GENERATOR]["sha256"])}
