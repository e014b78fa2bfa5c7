"""The phases of an inversion: pick starts, descend in W, descend in W+, tune the generator around the pivot.

Latents are moved in the whitened coordinates of `prior`, where one step length suits every direction and the squared
norm says how far from the generator's own samples one has gone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.inversion.perceptual import Perceptual
from sis_rearrange.inversion.prior import LatentPrior
from sis_rearrange.stylegan2 import Generator, SynthesisLayer

Progress = Callable[[int], None]

BANK_SEED = 0xBA5E0  # of the first of the samples among which starts are looked for; plus the run's seed
SEED_STRIDE = 100_003  # between the samples of one run's seed and the next one's
BANK_BYTES = 32 * 2**20  # of pictures made at a time
PATIENCE = 20  # steps without gain before the step length is halved
GAIN = 0.005  # share of the loss that counts as gain
HALVINGS = 3  # of the step length; the next plateau ends a phase
WARM_UP = 5  # steps
RAMP_DOWN = 0.4  # share of a phase's steps over which the step length goes to 0


@dataclass(frozen=True)
class Weights:
    """Of the terms beside the mean squared error of pixels."""

    perceptual: float = 0.03
    tuning: float = 0.0  # the perceptual one while tuning: measured, it costs three times the time and gains nothing
    prior: float = 0.0007  # squared norm of the whitened coordinates
    noise: float = 1e-3  # autocorrelation of the noise maps, where the generator has noise


class Plateau:
    """Step length of a phase: warms up, halves where the loss no longer falls, shrinks to nothing at the end.

    After `HALVINGS` the next plateau ends the phase.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, planned: int, patience: int = PATIENCE) -> None:
        self.optimizer, self.planned, self.patience = optimizer, planned, patience
        self.rate = float(optimizer.param_groups[0]["lr"])
        self.best, self.waited, self.halvings, self.steps = float("inf"), 0, 0, 0
        self._set()

    def _set(self) -> None:
        ramp = min(1.0, (self.steps + 1) / WARM_UP, (self.planned - self.steps) / (RAMP_DOWN * self.planned))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * max(ramp, 0.0) * 0.5**self.halvings

    def ends(self, loss: float) -> bool:
        """Count a step with this loss, set the next step's length, and say whether the phase is over."""
        self.steps += 1
        if loss < self.best * (1 - GAIN):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited >= self.patience:
            self.halvings, self.waited = self.halvings + 1, 0
        self._set()
        return self.halvings > HALVINGS


@dataclass(frozen=True, eq=False)
class Problem:
    """One picture to be found in a generator."""

    generator: Generator
    target: torch.Tensor  # [1, 3, R, R] in [-1, 1]
    perceptual: Perceptual
    wanted: list[torch.Tensor]  # features of the target
    prior: LatentPrior
    weights: Weights

    def loss(self, images: torch.Tensor, weight: float) -> torch.Tensor:
        """Pixel loss plus ``weight`` times the perceptual one, ``[N]``, of images ``[N, 3, R, R]``."""
        pixels = (images - self.target).square().mean(dim=[1, 2, 3])
        if weight == 0:
            return pixels
        return pixels + weight * self.perceptual.between(self.perceptual.features(images), self.wanted)


# ---- starts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Starts:
    """The samples nearest to a picture, and how near samples are to each other."""

    ws: torch.Tensor  # [S, num_ws, w_dim], nearest first
    nearest: float  # perceptual distance of the nearest sample to the picture
    usual: torch.Tensor  # [M] distance of each sample to the nearest other one


@torch.no_grad()
def find_starts(problem: Problem, samples: int, count: int, seed: int, progress: Progress) -> Starts:
    """The ``count`` nearest of ``samples`` seeded samples by feature distance."""
    generator, perceptual = problem.generator, problem.perceptual
    first = BANK_SEED + SEED_STRIDE * seed
    ws = sample_ws(generator, range(first, first + samples), 1.0)
    batch = max(1, BANK_BYTES // (64 * 4 * generator.img_resolution**2))
    parts: list[list[torch.Tensor]] = []
    for at in range(0, samples, batch):
        images = generator.synthesis(ws[at : at + batch])
        parts.append([x.half() for x in perceptual.features(images)])
        progress(len(images))
    bank = [torch.cat(column).float() for column in zip(*parts, strict=True)]
    distance = perceptual.to_all(problem.wanted, bank)[0]
    among = perceptual.to_all(bank, bank).fill_diagonal_(float("inf")).amin(dim=1)
    order = distance.argsort()[:count]
    return Starts(ws[order.to(ws.device)], float(distance[order[0]]), among)


# ---- latents ---------------------------------------------------------------------------------------------------------


def descend(
    problem: Problem, ws: torch.Tensor, steps: int, lr: float, plus: bool, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor]:
    """Adam from starts ``ws [S, num_ws, w_dim]``, in W (one w for all layers) or W+.

    Returns the best ws met, ``[S, num_ws, w_dim]``, and their losses ``[S]``. Ends early on a plateau; ``progress``
    gets S for every step of the plan all the same.
    """
    generator = problem.generator
    start = problem.prior.whiten(ws if plus else ws.mean(dim=1, keepdim=True))
    coordinates = start.detach().clone().requires_grad_(True)
    noise = _NoiseMaps(generator, problem.weights.noise)
    optimizer = torch.optim.Adam([coordinates, *noise.maps], lr=lr, betas=(0.9, 0.99))
    plateau = Plateau(optimizer, steps)
    best_ws, best = ws.clone(), torch.full([len(ws)], float("inf"), device=ws.device)
    for step in range(steps):
        found = problem.prior.colour(coordinates).expand(-1, generator.num_ws, -1)
        loss = problem.loss(generator.synthesis(found), problem.weights.perceptual)
        total = loss + problem.weights.prior * coordinates.square().mean(dim=[1, 2])
        with torch.no_grad():
            better = total < best
            best = torch.where(better, total, best)
            best_ws[better] = found[better]
        optimizer.zero_grad(set_to_none=True)
        (total.sum() + noise.penalty()).backward()
        optimizer.step()
        noise.normalise()
        progress(len(ws))
        if plateau.ends(float(best.min())):
            progress(len(ws) * (steps - step - 1))
            break
    noise.restore()
    return best_ws.detach(), best.detach()


class _NoiseMaps:
    """Noise regularisation (StyleGAN2, appendix D), for generators that use noise: maps move, but stay noise.

    Left alone, noise maps soak up the picture and leave the latents nothing to say. They are free while latents are
    sought, held to zero autocorrelation and unit variance, and put back afterwards: an inversion is ws alone.
    """

    def __init__(self, generator: Generator, weight: float) -> None:
        layers = [m for m in generator.synthesis.modules() if isinstance(m, SynthesisLayer)]
        used = [m for m in layers if weight > 0 and float(m.noise_strength.abs()) > 1e-6]
        self._layers, self._before = used, [m.noise_const for m in used]
        self._weight = weight
        self.maps = [m.noise_const.detach().clone().requires_grad_(True) for m in used]
        for layer, own in zip(used, self.maps, strict=True):
            layer.noise_const = own

    def penalty(self) -> torch.Tensor:
        """Squared autocorrelation at one pixel's shift over a pyramid, times the weight."""
        total = torch.zeros(())
        for own in self.maps:
            x = own[None, None]
            while True:
                total = total.to(x) + sum((x * x.roll(1, dims=d)).mean().square() for d in (2, 3))
                if x.shape[2] <= 8:
                    break
                x = F.avg_pool2d(x, 2) * 2  # keeps the variance of white noise
        return self._weight * total

    @torch.no_grad()
    def normalise(self) -> None:
        """Zero mean and unit variance."""
        for own in self.maps:
            own.sub_(own.mean()).mul_(own.square().mean().clamp_min(1e-8).rsqrt())

    def restore(self) -> None:
        """The generator as it was."""
        for layer, before in zip(self._layers, self._before, strict=True):
            layer.noise_const = before


# ---- pivotal tuning --------------------------------------------------------------------------------------------------


def tuned_layers(generator: Generator, tap: int) -> list[str]:
    """Names of the parameters that tuning moves: convolutions, biases and RGB layers of the blocks above ``tap``."""
    names = []
    for name, _ in generator.synthesis.named_parameters():
        block, _, rest = name.partition(".")
        moves = (
            rest.endswith(("conv0.weight", "conv1.weight", ".bias", "torgb.weight")) and ".affine." not in f".{rest}"
        )
        if int(block[1:]) > tap and moves:
            names.append(f"synthesis.{name}")
    return names


def tune(
    problem: Problem, pivot: torch.Tensor, steps: int, lr: float, tap: int, progress: Progress
) -> dict[str, torch.Tensor]:
    """Pivotal tuning (Roich et al. 2021) above the tap: G2 learns to show the picture at ``pivot [1, num_ws, w_dim]``.

    G1 stays, so feature map, RGB skip image and proxy mask of the pivot stay to the bit, and with them all that the
    rearranger does; they are computed once. Returns the changes of the weights by name; the generator given stays.
    """
    tuned = copy.deepcopy(problem.generator)
    names = set(tuned_layers(tuned, tap))
    free = {name: p.requires_grad_(True) for name, p in tuned.named_parameters() if name in names}
    own = {name: p.detach().clone() for name, p in free.items()}
    split = SplitGenerator(tuned, tap)
    with torch.no_grad():
        feature_map, skip = split.g1(pivot)
    optimizer = torch.optim.Adam(free.values(), lr=lr)
    plateau = Plateau(optimizer, steps)
    best, best_loss = {name: torch.zeros_like(p) for name, p in free.items()}, float("inf")
    for step in range(steps):
        loss = problem.loss(split.g2(feature_map, skip, pivot), problem.weights.tuning)[0]
        if loss.item() < best_loss:
            best_loss = loss.item()
            best = {name: (p - own[name]).detach() for name, p in free.items()}
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        progress(1)
        if plateau.ends(loss.item()):
            progress(steps - step - 1)
            break
    return best
