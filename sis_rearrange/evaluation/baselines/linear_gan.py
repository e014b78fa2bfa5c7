"""LinearGAN's semantic-conditional sampling: search z until a linear read-out of the features shows the mask.

The read-out is LinearGAN's: a bias-free 1x1 convolution for each layer of the generator, enlarged and summed. For each
picture 100 random z are tried, the best is followed by 50 Adam steps on cross-entropy + 1e-3 |z - z0|^2 + 1e-3 |z|^2.
Their learning rate is not given; see ``lr``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sis_rearrange.evaluation.baselines.base import Baseline, check_masks, check_shots, fitted
from sis_rearrange.features import all_features
from sis_rearrange.pack import Pack
from sis_rearrange.tensors import seeded_normal
from sis_rearrange.training.few_shot import EXTRACTOR_STEPS, Shot, train_extractor

AT_ONCE = 64  # pictures that are made at a time: more are slower, for want of cache
CANDIDATES = 7  # stream of the random z that are tried; 0 is the sample of the seed


@dataclass
class LinearGAN(Baseline):
    """Search of z by a linear extractor of a few shots (NeurIPS 2023 paper's main rival)."""

    psi: float = 0.9
    extractor_steps: int = EXTRACTOR_STEPS["linear"]  # of Adam at 1e-3
    candidates: int = 100  # random z tried for each picture, the plain sample of the seed among them
    steps: int = 50  # Adam steps on the best of them
    lr: float = 0.1  # of these steps: of 0.01, 0.03, 0.1, 0.3 the one that ends nearest to masks of the val split
    near: float = 1e-3  # weight of |z - z0|^2
    small: float = 1e-3  # weight of |z|^2

    name = "lineargan"
    title = "LinearGAN, semantic-conditional sampling"

    def fit(self, pack: Pack, shots: Sequence[Shot], seed: int, progress: bool | None = None) -> None:
        """Train the linear extractor; see `Baseline.fit`."""
        check_shots(shots, pack)
        self._generator = pack.generator()
        self._extractor = train_extractor(
            self._generator, shots, len(pack.classes), "linear", self.extractor_steps, seed, progress
        )

    def synthesize(self, masks: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """See `Baseline.synthesize`."""
        check_masks(masks, seeds, fitted(self, "_generator").img_resolution)
        pictures = []
        for start in range(0, len(seeds), AT_ONCE):
            at = slice(start, start + AT_ONCE)
            pictures.append(self._picture(self.refine(self.best(masks[at], seeds[at]), masks[at])))
        return torch.cat(pictures)

    @torch.no_grad()
    def best(self, masks: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """The z ``[N, z_dim]`` among each picture's candidates whose parts are nearest to its mask."""
        found = []
        for mask, seed in zip(masks, seeds, strict=True):
            z = self._candidates(seed)
            loss = torch.cat([self.mismatch(part, mask.expand(len(part), -1, -1)) for part in z.split(AT_ONCE)])
            found.append(z[loss.argmin()])
        return torch.stack(found)

    def refine(self, z0: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """z after Adam from ``z0 [N, z_dim]``; samples do not touch each other."""
        z = z0.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([z], lr=self.lr)
        for _ in range(self.steps):
            loss = self.mismatch(z, masks) + self.near * (z - z0).square().sum(1) + self.small * z.square().sum(1)
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimizer.step()
        return z.detach()

    def mismatch(self, z: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Cross-entropy per picture ``[N]`` of the parts that the extractor reads from the features of ``z``."""
        logits = self._extractor(all_features(self._generator, self._ws(z))[0])
        return F.cross_entropy(logits, masks, reduction="none").mean(dim=(1, 2))

    def _candidates(self, seed: int) -> torch.Tensor:
        """z ``[candidates, z_dim]`` of one picture."""
        width = self._generator.z_dim
        own = seeded_normal([seed], [width])
        if self.candidates == 1:
            return own
        return torch.cat([own, seeded_normal([seed], [self.candidates - 1, width], CANDIDATES)[0]])

    def _ws(self, z: torch.Tensor) -> torch.Tensor:
        generator = self._generator
        c = torch.zeros(len(z), generator.c_dim) if generator.c_dim else None
        return generator.mapping(z, c, truncation_psi=self.psi)

    @torch.no_grad()
    def _picture(self, z: torch.Tensor) -> torch.Tensor:
        return self._generator.synthesis(self._ws(z)).clamp(-1, 1)
