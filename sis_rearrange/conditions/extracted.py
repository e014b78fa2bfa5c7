"""Conditions that an extractor makes of a picture: HED, depth, and whatever function a user registers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sis_rearrange.conditions.base import Condition, displace, jitter_grid, per_sample, reduced, smooth_field
from sis_rearrange.conditions.lines import CELL, from_paper, ink_mask, opaque, regular
from sis_rearrange.conditions.sketch import with_closeness
from sis_rearrange.errors import InputError
from sis_rearrange.images import Fit, fit_image, flatten, read_image
from sis_rearrange.tensors import from_uint8, to_uint8

GREY = 16  # 8-bit levels that the channels of a grey picture may differ by (JPEG)
COLOURED = 0.005  # share of pixels above that from which a file is a photo, not a map
EXTREME = 64  # 8-bit levels from black or white that the paper of an edge map may be
LOOK = 32  # times `base.MAX_CELLS` pixels are enough to tell a map from a photo
PAPER = 0.5  # share of an edge map that is paper
LINE = 0.3  # edge strength, relative to the strongest lines, from which a line is drawn
TAILS = 2.0  # per cent of the values of a depth map that may lie beyond its darkest and lightest tone

Extract = Callable[[np.ndarray], np.ndarray]


class MapCondition(Condition):
    """What an extractor makes of a picture, as a person hands it in or computed from the person's photo.

    ``lines``: an edge map. Channels: lines of even width (0-1), closeness to them, and the strength of the edges as
    the extractor sees it. Otherwise: a map of values such as depth; one channel, spread over 0-1 in each picture.
    """

    needs_labels = False

    def __init__(self, name: str, lines: bool) -> None:
        self.name, self.lines, self.channels = name, lines, 3 if lines else 1

    @abstractmethod
    def maps(self, images: torch.Tensor, rng: np.random.Generator | None) -> np.ndarray:
        """Images float32 [N, 3, H, W] in [-1, 1] -> float32 [N, h, w] of any size, for lines in [0, 1] with 1 on them.

        ``rng``, given in training, may vary how.
        """

    # ---------------------------------------------------------------- training

    def from_samples(self, images: torch.Tensor, labels: torch.Tensor | None, rng: np.random.Generator) -> torch.Tensor:
        """See `Condition.from_samples`: maps of other threshold, thickness and contrast, wandering; lines missing."""
        maps, R = self.maps(images, rng), images.shape[-1]
        if not self.lines:
            return _vary_values(torch.stack([_resized(spread(m), R) for m in maps]), rng)
        thresholds = rng.uniform(0.6, 1.5, len(maps)) * LINE
        planes = [line_planes(m, R, float(t)) for m, t in zip(maps, thresholds, strict=True)]
        return _vary_lines(torch.stack(planes), rng)

    # ---------------------------------------------------------------- people's files

    def draw(self, picture: np.ndarray, labels: np.ndarray | None, seed: int) -> Image.Image:
        """The map of the picture at its own size, mode "L": light lines on black as tools write them, or near bright.

        `seed` is not used.
        """
        found = self.maps(from_uint8(picture[None].copy()), None)[0]
        values = found if self.lines else spread(found)
        plane = Image.fromarray(np.rint(255 * values).astype(np.uint8))
        return plane.resize((picture.shape[1], picture.shape[0]), Image.Resampling.BICUBIC)

    def read(self, image: Image.Image, resolution: int, fit: str = "pad") -> tuple[torch.Tensor, Fit]:
        """See `Condition.read`. A grey picture on even black or white is an edge map, any other one a photo.

        Where the condition is a map of values, every grey picture is taken for one. Edge maps may be of either
        polarity; maps of values have to be as the extractor makes them. Raises `InputError` for an empty map.
        """
        image = read_image(image)
        if self.is_map(image):
            return self._read_map(image, resolution, fit)
        found, how = self._map_of_photo(flatten(image), resolution, fit)
        if not self.lines:
            return _resized(spread(found), resolution)[None], how
        if found.max() < LINE:
            raise InputError("no edges were found in this picture; hand in one with more contrast")
        return line_planes(found, resolution, LINE)[None], how

    def is_map(self, image: Image.Image) -> bool:
        """Whether a file is a map, rather than a photo of which one has to be made."""
        planes = opaque(reduced(image, LOOK, "pad"))
        if np.mean(np.ptp(planes, axis=0) > GREY) >= COLOURED:
            return False
        low, high = (planes[0] <= EXTREME).mean(), (planes[0] >= 255 - EXTREME).mean()
        return not self.lines or bool(max(low, high) >= PAPER)

    def _map_of_photo(self, photo: Image.Image, resolution: int, fit: str) -> tuple[np.ndarray, Fit]:
        """RGB -> map float32 [S, S]. Bars of "pad" are put around the map: around the photo they would have edges."""
        how = Fit(fit, (photo.height, photo.width))
        if fit != "pad":
            photo, _ = fit_image(photo, resolution, mode=fit)
            return self.maps(from_uint8(np.asarray(photo)[None].copy()), None)[0], how
        left, top, right, bottom = how.inner(resolution)
        inner = photo.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        found = self.maps(from_uint8(np.asarray(inner)[None].copy()), None)[0]
        times = max(1, round(max(found.shape) / resolution))
        size = ((bottom - top) * times, (right - left) * times)
        values = F.interpolate(torch.from_numpy(found)[None, None], size=size, mode="bilinear", align_corners=False)
        square = np.full((resolution * times,) * 2, 0 if self.lines else np.median(found), np.float32)
        square[top * times : bottom * times, left * times : right * times] = values[0, 0].numpy()
        return square, how

    def _read_map(self, image: Image.Image, resolution: int, fit: str) -> tuple[torch.Tensor, Fit]:
        side = CELL * resolution
        plane = from_paper(opaque(image)) if self.lines else np.asarray(flatten(image).convert("L"))
        fill = 0 if self.lines else int(np.median(plane))
        resample = Image.Resampling.BOX if side < max(plane.shape) else Image.Resampling.BILINEAR
        square, how = fit_image(Image.fromarray(plane), side, mode=fit, fill=fill, resample=resample)
        values = np.asarray(square)
        if not self.lines:
            if int(values.max()) - int(values.min()) < 8:
                raise InputError("the map is empty: it has one tone all over; hand in a map with near and far parts")
            return _resized(spread(values.astype(np.float32)), resolution)[None], how
        strong = np.where(values < LINE * values.max(), 0, values).astype(np.uint8)  # soft edges are no grain of paper
        ink_mask(strong)  # refuses empty paper and noise in its own words
        return line_planes(values.astype(np.float32) / 255, resolution, LINE)[None], how

    def show(self, x: torch.Tensor) -> Image.Image:
        """Light on black: the strength of edges beside their lines (in blue), or the values."""
        if not self.lines:
            return Image.fromarray(np.rint(255 * x[0].cpu().numpy()).astype(np.uint8)).convert("RGB")
        lines, _, strength = x.cpu().numpy()
        planes = np.stack([strength, strength, np.maximum(lines, strength)], axis=-1)
        return Image.fromarray(np.rint(255 * planes).clip(0, 255).astype(np.uint8))


class Extracted(MapCondition):
    """See `MapCondition`: the one function that a condition of one's own takes."""

    def __init__(
        self,
        name: str,  # as on the command line
        extract: Extract,  # picture uint8 [H, W, 3] -> numbers [h, w], for lines in [0, 1] with 1 on them; any h, w
        lines: bool = True,
    ) -> None:
        super().__init__(name, lines)
        self._extract = extract

    def maps(self, images: torch.Tensor, rng: np.random.Generator | None) -> np.ndarray:
        """See `MapCondition.maps`. Raises `InputError` where the function returned something else."""
        return np.stack([self._checked(picture) for picture in to_uint8(images)])

    def _checked(self, picture: np.ndarray) -> np.ndarray:
        found = np.asarray(self._extract(picture), dtype=np.float32)
        if found.ndim != 2 or not found.size or not np.isfinite(found).all():
            raise InputError(
                f"condition {self.name!r}: its extractor returned {list(found.shape)}, or values that are not finite; "
                "it has to return one number for each pixel, [H, W]"
            )
        if self.lines and (found.min() < 0 or found.max() > 1):
            raise InputError(
                f"condition {self.name!r}: its extractor returned values from {found.min():.3g} to {found.max():.3g}; "
                "lines are numbers from 0 (paper) to 1 (line)"
            )
        return found


# -- maps to planes --------------------------------------------------------------------------------------------------


def spread(values: np.ndarray) -> np.ndarray:
    """Values of any range -> float32 in [0, 1], its darkest and lightest `TAILS` per cent cut; 0.5 where all agree."""
    low, high = np.percentile(values, [TAILS, 100 - TAILS])
    if high - low < 1e-6 * max(1.0, abs(float(high))):
        return np.full(values.shape, 0.5, np.float32)
    return ((values - low) / (high - low)).clip(0, 1).astype(np.float32)


def line_planes(edges: np.ndarray, resolution: int, threshold: float) -> torch.Tensor:
    """Edge map float32 [S, S] in [0, 1] -> [3, R, R]: lines of even width, closeness, strength.

    ``threshold`` is relative to the strongest lines, so the contrast of a map does not matter.
    """
    strongest = float(np.percentile(edges[edges > 0.1], 95)) if (edges > 0.1).any() else 1.0
    strength = (edges / strongest).clip(0, 1).astype(np.float32)
    side = CELL * resolution
    fine = F.interpolate(torch.from_numpy(strength)[None, None], size=(side, side), mode="bilinear")[0, 0].numpy()
    ink = fine > threshold
    lines = regular(ink) if ink.any() else ink
    planes = with_closeness(F.avg_pool2d(torch.from_numpy(lines.astype(np.float32))[None], CELL))[0]
    return torch.cat([planes, _resized(strength, resolution)])


def _resized(values: np.ndarray, resolution: int) -> torch.Tensor:
    """float32 [S, S] -> [1, R, R]: cells averaged where there are more values than cells, between them otherwise."""
    plane = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]
    size = (resolution, resolution)
    if min(values.shape) >= resolution:
        return F.interpolate(plane, size=size, mode="area")[0]
    return F.interpolate(plane, size=size, mode="bilinear", align_corners=False)[0]


# -- augmentation ----------------------------------------------------------------------------------------------------


def _vary_lines(planes: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """[N, 3, R, R]: wandering, thinner or thicker, faded, broken, with lines forgotten; some maps are hard lines."""
    N, R = planes.shape[0], planes.shape[-1]
    moved = displace(planes[:, [0, 2]], jitter_grid(rng, N, R, rng.uniform(0, 0.5, N)))
    ink, strength = moved[:, :1], moved[:, 1:]
    soft = F.avg_pool2d(ink, 3, 1, 1) * 0.5 + 0.5 * ink
    redrawn = ((soft - per_sample(rng, N, 0.36, 0.64)) / 0.3 + 0.5).clamp(0, 1)
    ink = torch.where(per_sample(rng, N, 0, 1) < 0.5, redrawn, ink)
    strength = strength ** per_sample(rng, N, 0.6, 1.7)
    strength = torch.where(per_sample(rng, N, 0, 1) < 0.3, F.avg_pool2d(strength, 3, 1, 1), strength)
    strength = torch.where(per_sample(rng, N, 0, 1) < 0.25, ink, strength)  # edges without shades, as some tools write
    broken = smooth_field(rng, N, R, R // 4) > per_sample(rng, N, 1.5, 6.0)
    forgotten = smooth_field(rng, N, R, 6) > per_sample(rng, N, 1.8, 6.0)
    ink, strength = (plane.masked_fill(broken | forgotten, 0.0) for plane in (ink, strength))
    return torch.cat([with_closeness(ink[:, 0]), strength], dim=1)


def _vary_values(planes: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """[N, 1, R, R] in [0, 1]: other contrast curves, soft or noisy, wandering."""
    N, R = planes.shape[0], planes.shape[-1]
    moved = displace(planes, jitter_grid(rng, N, R, rng.uniform(0, 0.5, N)))
    moved = torch.where(per_sample(rng, N, 0, 1) < 0.3, F.avg_pool2d(moved, 3, 1, 1, count_include_pad=False), moved)
    curved = moved.clamp(0, 1) ** per_sample(rng, N, 0.6, 1.6)
    return (curved + smooth_field(rng, N, R, 8) * per_sample(rng, N, 0, 0.03)).clamp(0, 1)
