"""What goes into the facade and what comes out: layouts that were read from drawings, and pictures made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from sis_rearrange.conditions import OF_PARTS
from sis_rearrange.errors import InputError
from sis_rearrange.images import Fit, write_png
from sis_rearrange.sampling import check_seed
from sis_rearrange.variants import BANK

MAX_SAMPLES = BANK  # layouts of one drawing
MAX_REFINE = 100  # steps
MAX_TEMPERATURE = 10.0  # there a drawing only rules out


@dataclass(frozen=True)
class Layouts:
    """How many layouts of one drawing are wanted, and how far those beside the likeliest go; see `Synthesizer.vary`."""

    samples: int = 1  # with the likeliest
    temperature: float = 1.0  # 0: no variation; more: bolder
    seed: int = 0

    def __post_init__(self) -> None:
        count = self.samples
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= MAX_SAMPLES:
            raise InputError(f"samples {count!r}: give a whole number from 1 to {MAX_SAMPLES}")
        if not 0 <= self.temperature <= MAX_TEMPERATURE:  # NaN too
            raise InputError(f"temperature {self.temperature}: a number from 0 to {MAX_TEMPERATURE:g}, usually 1")
        check_seed(self.seed)


def check_refine(steps: int, condition: str) -> None:
    """InputError unless drawings of this condition can be refined (`Synthesizer.refine`) in that many steps."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or not 0 <= steps <= MAX_REFINE:
        raise InputError(f"refine {steps!r}: give a whole number of steps from 0 to {MAX_REFINE}, usually 6")
    if steps and condition not in OF_PARTS:
        raise InputError(f"refine: is for {' and '.join(OF_PARTS)}; {condition!r} does not say which part is where")


@dataclass(frozen=True, eq=False)
class Target:
    """A layout read from a drawing, ready to be painted in any number of looks."""

    condition: str
    labels: torch.Tensor  # [1, r, r] int64: proxy mask
    logits: torch.Tensor | None  # [1, K, r, r]: how well other clusters would do; None where the mask is to the letter
    mapped: bool  # whether the logits are a mapper's, and say how sure it was
    drawing: Image.Image  # what the mapper was given
    fit: Fit
    temperature: float = 1.0  # the mapper's: its probabilities are softmax(logits / temperature)
    variation: torch.Tensor | None = None  # [1, K, r, r]: added to the logits for another layout, see `vary`
    parts: torch.Tensor | None = None  # [1, R, R] int64: which part was drawn where, see `Condition.parts`
    refined: int = 0  # steps of `Synthesizer.refine`, which fits the layout to one look
    layout: str | None = None  # which layout of the drawing it is, for metadata; None: the likeliest


class Pictures(NamedTuple):
    """What `Synthesizer.rearrange` returns."""

    images: torch.Tensor  # [N, 3, H, W] in about [-1, 1]
    labels: torch.Tensor  # [N, r, r] int64: proxy masks asked for
    correspondence: torch.Tensor  # [N, 2, r, r]: where each cell came from, (y, x) in [-1, 1]
    class_mass: torch.Tensor  # [N, r, r]: share of the attention on source cells of the class asked for


@dataclass(frozen=True, eq=False)
class Result:
    """One drawing in one look. The arrays are the generator's square, whatever the drawing's aspect ratio."""

    image: Image.Image  # RGB; the drawing's aspect ratio where the fit can be undone
    proxy_mask: np.ndarray  # [r, r] int64: what was asked for
    source_proxy_mask: np.ndarray  # [r, r] int64
    correspondence: np.ndarray  # [r, r, 2] float32: where each cell came from, (y, x) in [-1, 1]
    confidence: np.ndarray  # [r, r] float32 in [0, 1]: the mapper's probability of `proxy_mask`, 1 without a mapper
    drawing: Image.Image  # what the mapper was given
    metadata: dict[str, str] = field(default_factory=dict)  # see `metadata`
    alternatives: tuple[Result, ...] = ()  # other layouts of the same drawing, where they were asked for

    @property
    def samples(self) -> tuple[Result, ...]:
        """This one, which is the likeliest, and the alternatives: as many as were asked for."""
        return (self, *self.alternatives)

    def save(self, path: str | Path) -> None:
        """Write the picture as PNG, whole or not at all, with its metadata. InputError where that fails."""
        write_png(path, self.image, self.metadata)
