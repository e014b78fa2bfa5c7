"""Readers: a drawing of any kind, or another sample, to a layout that can be painted in any look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sis_rearrange.conditions import Condition, Palette, cluster_palette, get_condition, read_proxy_mask
from sis_rearrange.errors import InputError, nearest
from sis_rearrange.images import Fit, fit_image, flatten, name_of, read_image
from sis_rearrange.inversion import Inversion
from sis_rearrange.mapper import SemanticMapper
from sis_rearrange.sampling import on_device
from sis_rearrange.sources import Sources
from sis_rearrange.targets import Target
from sis_rearrange.whole_graph import Source

INVERSION_SUFFIX = ".safetensors"
EXEMPLAR_STEPS = 60  # of the inversion of a picture whose layout alone is wanted

Reader = Callable[[Any, str, float], Target]  # drawing, fit, psi


class Readers:
    """One reader for each condition that a pack takes; those with mappers, exemplars and proxy masks."""

    def __init__(self, sources: Sources, painted: Palette | None) -> None:
        self.sources, self.pack, self.device, self._painted = sources, sources.pack, sources.device, painted
        self.proxy_palette = cluster_palette(sources.proxy.K)
        self._halves: dict[str, tuple[Condition, SemanticMapper]] = {}
        self._by_condition: Mapping[str, Reader] = {
            **{name: partial(self._mapped, name) for name in self.pack.conditions()},
            "exemplar": self._exemplar,
            "proxy": self._proxy,
        }

    @property
    def conditions(self) -> tuple[str, ...]:
        """What `read` takes."""
        return tuple(self._by_condition)

    def check(self, condition: str, fit: str = "pad") -> None:
        """Raise InputError, with the nearest known name, unless condition and fit are ones that `read` takes."""
        if condition not in self._by_condition:
            raise InputError(
                f"unknown condition {condition!r}{nearest(condition, self._by_condition)} "
                f"(pack {self.pack.name!r} takes {', '.join(self._by_condition)})"
            )
        Fit(fit, (1, 1))

    def read(self, drawing: Any, condition: str, fit: str, psi: float) -> Target:
        """The layout of a drawing (see `Synthesizer.synthesize`); ``psi`` truncates samples given by their seeds.

        Raises InputError for a drawing, condition or fit that cannot be used.
        """
        self.check(condition, fit)
        with torch.inference_mode():
            return self._by_condition[condition](drawing, fit, psi)

    def halves(self, condition: str) -> tuple[Condition, SemanticMapper]:
        """The two halves of a condition that the pack has a mapper for: file to tensor, tensor to logits."""
        if condition not in self._halves:
            mapper = on_device(self.pack.mapper(condition), self.device)
            self._halves[condition] = get_condition(condition, self.pack.palette(), self._painted), mapper
        return self._halves[condition]

    def file(self, drawing: Any, condition: str, fit: str) -> tuple[torch.Tensor, Fit]:
        """A drawing as the condition's tensor ``[1, channels, R, R]`` on the CPU; InputError names the file."""
        image = read_image(drawing)
        condition_of, mapper = self.halves(condition)
        try:
            return condition_of.read(image, mapper.image_resolution, fit)
        except InputError as error:
            raise InputError(f"{name_of(image)}: {error}") from None

    def map(self, x: torch.Tensor, condition: str) -> torch.Tensor:
        """Condition tensors ``[N, channels, R, R]`` to logits of proxy masks ``[N, K, r, r]``."""
        return self.sources.paths.map(self.halves(condition)[1], x.to(self.device))

    # ---------------------------------------------------------------- one per kind of drawing

    def _mapped(self, name: str, drawing: Any, fit: str, psi: float) -> Target:
        """A drawing of a condition that has a mapper."""
        x, how = self.file(drawing, name, fit)
        logits, (condition, mapper) = self.map(x, name), self.halves(name)
        labels, drawn = logits.argmax(dim=1), condition.show(x[0])
        return Target(name, labels, logits, True, drawn, how, mapper.temperature, parts=condition.parts(x))

    def _exemplar(self, drawing: Any, fit: str, psi: float) -> Target:
        """The layout of another sample, which is square, so that there is nothing to fit; or of a real picture."""
        if isinstance(drawing, str | Path) and Path(drawing).suffix == INVERSION_SUFFIX:
            drawing = Inversion.load(drawing, self.pack)
        if isinstance(drawing, str | Path | Image.Image | np.ndarray):
            return self._picture(drawing, fit)
        if isinstance(drawing, Source):
            exemplar = drawing
        elif isinstance(drawing, Inversion):
            exemplar = self.sources.of_inversion(drawing)
        elif isinstance(drawing, torch.Tensor):
            exemplar = self.sources.of_ws(drawing)
        elif isinstance(drawing, int | np.integer):
            exemplar = self.sources.of_seed(int(drawing), psi)
        else:
            kind = type(drawing).__name__
            raise InputError(f"{kind}: an exemplar is a picture, or a sample: give its seed, as in 12")
        picture = self.sources.image(exemplar)
        return self._layout_of(exemplar, picture, Fit("stretch", (picture.height, picture.width)))

    def _picture(self, drawing: Any, fit: str) -> Target:
        """The layout of a real picture: that of the ws which show it. Looks stay, so the generator is not tuned."""
        from sis_rearrange.inversion import invert

        square, how = fit_image(flatten(read_image(drawing)), self.sources.split.generator.img_resolution, fit)
        with torch.inference_mode(False), torch.enable_grad():
            ws = invert(self.pack, square, EXEMPLAR_STEPS, starts=2, tune=False, device=self.device).ws
        return self._layout_of(self.sources.of_ws(ws), square, how)

    def _layout_of(self, exemplar: Source, picture: Image.Image, fit: Fit) -> Target:
        target = self._given("exemplar", exemplar.labels[:1], picture, fit)
        return replace(target, logits=self.sources.proxy.logits(exemplar.feature_map[:1]))

    def _proxy(self, drawing: Any, fit: str, psi: float) -> Target:
        """A proxy mask that somebody edited or painted."""
        cells, drawn, how = read_proxy_mask(drawing, self.proxy_palette, self.sources.proxy.resolution, fit)
        return self._given("proxy", torch.from_numpy(cells)[None].to(self.device), drawn, how)

    def _given(self, condition: str, labels: torch.Tensor, drawing: Image.Image, fit: Fit) -> Target:
        return Target(condition, labels, None, False, drawing, fit)
