"""Sources: the looks that pictures are painted in, of a seed, of ws or of an inverted picture.

Everything that depends on the look alone is computed here once and kept in a `Source`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from PIL import Image

from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.inversion import Inversion
from sis_rearrange.pack import Pack
from sis_rearrange.sampling import DEFAULT_PSI, check_psi, check_seed, on_device
from sis_rearrange.tensors import one_hot, to_uint8
from sis_rearrange.whole_graph import Paths, Source

BANK_SEEDS, BANK_BATCH = 540_000, 8  # of the samples whose layouts are tried


class Sources:
    """A pack's networks on a device, and the sources they give. What runs the networks is `paths_of` a source."""

    def __init__(self, pack: Pack, device: torch.device, backend: str) -> None:
        self.pack, self.device = pack, device
        self.proxy = on_device(pack.proxy(), device)
        self.rearranger = on_device(pack.rearranger(), device)
        self.split = SplitGenerator(on_device(pack.generator(), device), self.proxy.resolution)
        self.paths = Paths(pack.hash, self.split, self.rearranger, backend, device)

    @torch.inference_mode()
    def encode(self, ws: torch.Tensor, split: SplitGenerator | None = None) -> Source:
        """The looks of ws ``[M, num_ws, w_dim]``; ``split``: the generator that shows them, None: the pack's."""
        ws = ws.to(self.device)
        feature_map, skip = (split or self.split).g1(ws)
        labels = self.proxy.labels(feature_map)
        mask = one_hot(labels, self.proxy.K)
        return Source(ws, feature_map, skip, labels, mask, self.rearranger.encode(mask))

    def of_seed(self, seed: int, psi: float = DEFAULT_PSI) -> Source:
        """The look of a sample. InputError for a seed or truncation out of range."""
        seed, psi = check_seed(seed), check_psi(psi)
        with torch.inference_mode():
            ws = sample_ws(self.split.generator, [seed], psi)
        return replace(self.encode(ws), seed=seed, psi=psi)

    def of_ws(self, ws: torch.Tensor) -> Source:
        """The look of one ``[num_ws, w_dim]`` or ``[1, num_ws, w_dim]``. InputError for other shapes, NaN, infinity."""
        wanted = [self.split.generator.num_ws, self.split.generator.w_dim]
        if not isinstance(ws, torch.Tensor) or list(ws.shape[-2:]) != wanted or ws.numel() != math.prod(wanted):
            shape = list(ws.shape) if isinstance(ws, torch.Tensor) else type(ws).__name__
            raise InputError(f"ws must be a tensor of shape {wanted}, got {shape}")
        if not torch.isfinite(ws).all():
            raise InputError("ws holds NaN or infinite values")
        return self.encode(ws.detach().float().reshape(1, *wanted))

    def of_inversion(self, inversion: Inversion) -> Source:
        """The look of an inverted picture, with the generator that was tuned to it, if it was.

        InputError for an inversion of another pack.
        """
        inversion.check(self.pack)
        name, tuned = str(inversion.picture.get("name") or "picture"), None
        if inversion.tuned:
            own = inversion.tuned_pack(self.pack)
            split = SplitGenerator(on_device(own.generator(), self.device), self.proxy.resolution)
            tuned = split, Paths(own.hash, split, self.rearranger, self.paths.backend, self.device)
        source = self.encode(inversion.ws[None], None if tuned is None else tuned[0])
        return replace(source, name=name, tuned=tuned)

    @torch.inference_mode()
    def image(self, source: Source) -> Image.Image:
        """The picture that gives the look, as it comes from the generator."""
        return Image.fromarray(to_uint8(self.split_of(source).g2(source.feature_map, source.skip, source.ws))[0])

    def split_of(self, source: Source) -> SplitGenerator:
        """The generator that shows a source: the pack's, or the one that was tuned to it."""
        return self.split if source.tuned is None else source.tuned[0]

    def paths_of(self, source: Source) -> Paths:
        """What runs the networks for a source, on the generator that shows it."""
        return self.paths if source.tuned is None else source.tuned[1]

    @torch.inference_mode()
    def layouts(self, count: int) -> torch.Tensor:
        """Proxy masks ``[count, r, r]`` of samples, always the same ones."""
        seeds = range(BANK_SEEDS, BANK_SEEDS + count)
        parts = (seeds[at : at + BANK_BATCH] for at in range(0, count, BANK_BATCH))
        maps = (self.split.g1(sample_ws(self.split.generator, part, DEFAULT_PSI))[0] for part in parts)
        return torch.cat([self.proxy.labels(feature_map) for feature_map in maps])
