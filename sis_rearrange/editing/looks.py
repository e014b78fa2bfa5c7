"""What edits work on: the networks of a pack, and looks, each with the generator that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sis_rearrange.conditions import cluster_palette
from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.inversion import Inversion
from sis_rearrange.pack import Pack
from sis_rearrange.proxy import within_reach
from sis_rearrange.rearranger import Rearranged
from sis_rearrange.sampling import DEFAULT_PSI, check_psi, check_seed, on_device, pick_device
from sis_rearrange.tensors import one_hot


@dataclass(frozen=True, eq=False)
class Look:
    """A sample or an inverted picture up to the tap. An inverted one may bring a generator of its own."""

    name: str
    split: SplitGenerator
    ws: torch.Tensor  # [1, num_ws, w_dim]
    feature_map: torch.Tensor  # [1, C, r, r]
    skip: torch.Tensor  # [1, 3, r, r]
    labels: torch.Tensor  # [1, r, r] int64: its proxy mask
    logits: torch.Tensor  # [1, K, r, r]: how well other clusters would do

    def picture(self) -> torch.Tensor:
        """As it comes from the generator, ``[1, 3, R, R]`` in [-1, 1]."""
        return self.decode(self.feature_map, self.skip)

    @torch.inference_mode()
    def decode(self, feature_map: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Features of any layout in this look, ``[1, 3, R, R]`` in [-1, 1]."""
        return self.split.g2(feature_map, skip, self.ws).clamp(-1, 1)


class Editor:
    """The networks of a pack that edits need, on one device. Few pictures are made, so plain torch runs them."""

    def __init__(self, pack: Pack, device: str | torch.device = "auto") -> None:
        self.pack, self.device = pack, pick_device(device)
        self.proxy = on_device(pack.proxy(), self.device)
        self.rearranger = on_device(pack.rearranger(), self.device)
        self.proxy_palette = cluster_palette(self.proxy.K)

    @torch.inference_mode()
    def look(self, of: int | Inversion, psi: float = DEFAULT_PSI) -> Look:
        """The look of a seed (truncated with ``psi``) or of an inversion. InputError for one that does not fit."""
        if isinstance(of, Inversion):
            of.check(self.pack)
            generator = of.generator(self.pack.generator())
            name, ws = of.picture.get("name") or "picture", of.ws[None]
        else:
            generator, name = self.pack.generator(), f"seed {of}"
            ws = sample_ws(generator, [check_seed(of)], check_psi(psi))
        split = SplitGenerator(on_device(generator, self.device), self.proxy.resolution)
        ws = ws.to(self.device)
        feature_map, skip = split.g1(ws)
        logits = self.proxy.logits(feature_map)
        return Look(name, split, ws, feature_map, skip, logits.argmax(dim=1), logits)

    @torch.inference_mode()
    def move(self, look: Look, target: torch.Tensor) -> Rearranged:
        """The features of a look after a target: labels ``[1, r, r]`` int64, or a soft mask ``[1, K, r, r]``."""
        mask = one_hot(target, self.proxy.K) if target.ndim == 3 else target
        return self.rearranger(look.feature_map, look.skip, one_hot(look.labels, self.proxy.K), mask.to(self.device))

    def reachable(self, logits: torch.Tensor, look: Look) -> torch.Tensor:
        """The best labels ``[1, r, r]`` of a wanted layout among the clusters that a look has."""
        return within_reach(logits, look.labels).argmax(dim=1)

    @torch.inference_mode()
    def parts(self, images: torch.Tensor) -> torch.Tensor:
        """Part labels int64 ``[N, R, R]`` that the pack's segmenter sees in images ``[N, 3, R, R]``."""
        return on_device(self.pack.segmenter(), self.device)(images.to(self.device)).argmax(dim=1)

    def part_numbers(self, names: Sequence[str]) -> list[int]:
        """Labels of part classes by name. InputError, with the known ones, for another name or a pack without parts."""
        classes = self.pack.classes
        for name in names:
            if name not in classes:
                known = ", ".join(classes) or "none"
                raise InputError(f"unknown part {name!r}; pack {self.pack.name!r} names {known}")
        return [classes.index(name) for name in names]
