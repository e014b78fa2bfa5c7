"""Quick ways of reading drawings give, to the bit, what the plain ways give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_head
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

from sis_rearrange.conditions import Sketch, as_palette
from sis_rearrange.conditions.base import coverage
from sis_rearrange.conditions.distance import largest_of_3x3, median_of_counts, squared_distance
from sis_rearrange.conditions.lines import BROADEST, CELL, FAINTEST, HOLLOW, INK, STROKE
from sis_rearrange.conditions.sketch import REACH, with_closeness
from sis_rearrange.errors import InputError
from sis_rearrange.images import fit_image


def blobs(seed: int, side: int = 96) -> np.ndarray:
    """A random bool mask, fine or coarse, sparse or dense."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.random((side, side)), rng.uniform(0, 6))
    return field > np.quantile(field, rng.uniform(0.02, 0.98))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("reach", [1, 8, 30])
def test_distances_up_to_their_reach(seed, reach):
    mask = blobs(seed)
    exact, found = ndimage.distance_transform_edt(mask), squared_distance(mask, reach)
    near = exact <= reach
    assert np.array_equal(np.sqrt(found[near], dtype=np.float64), exact[near])
    assert (found[~near] > reach**2).all()


def test_distance_to_nothing_is_beyond_reach():
    assert (squared_distance(np.ones((5, 9), dtype=bool), 4) > 16).all()
    assert (squared_distance(np.zeros((5, 9), dtype=bool), 4) == 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_largest_neighbours(seed):
    values = np.random.default_rng(seed).integers(0, 100, (17, 30))
    assert np.array_equal(largest_of_3x3(values), ndimage.maximum_filter(values, 3))


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_middle_values(size):
    values = np.sort(np.random.default_rng(size).integers(0, 9, size))
    low, high = median_of_counts(np.bincount(values, minlength=256))
    assert (low, high) == (values[(size - 1) // 2], values[size // 2]) and (low + high) / 2 == np.median(values)


@pytest.mark.parametrize(("f", "R"), [(1, 16), (3, 16), (4, 8), (7, 5)])
def test_coverage_adds_up_as_pixels_do(f, R):
    labels = np.random.default_rng(f).integers(0, 6, (3, f * R, f * R))
    cells = torch.from_numpy(labels).view(3, R, f, R, f).permute(0, 2, 4, 1, 3).reshape(3, f * f, R, R)
    wanted = torch.zeros(3, 6, R, R).scatter_add_(1, cells, torch.full(cells.shape, 1 / f**2))
    assert torch.equal(coverage(labels, 6, R), wanted)


def test_closeness_is_the_plain_one():
    ink = torch.from_numpy(np.stack([blobs(seed, 48) for seed in range(4)])).float()
    ink[0] = 0
    wanted = np.zeros(ink.shape, np.float32)
    for n in range(1, 4):
        wanted[n] = 1 - ndimage.distance_transform_edt(ink[n].numpy() <= 0.4).clip(max=REACH) / REACH
    assert torch.equal(with_closeness(ink)[:, 1], torch.from_numpy(wanted))


# ---------------------------------------------------------------- the sketch reader, step by step as its formulas say


def plain_sketch(image: Image.Image, resolution: int, fit: str) -> torch.Tensor:
    """`Sketch.read` of an opaque picture without any of its short cuts."""
    picture = np.asarray(image.convert("RGB"))
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    papers = [np.median(border, axis=0), np.median(picture.reshape(-1, 3), axis=0)]
    planes = [np.abs(picture.astype(np.int16) - paper.astype(np.int16)).max(axis=2) for paper in papers]
    distance = max(planes, key=lambda d: float((d <= 32).mean())).astype(np.uint8)
    side = CELL * resolution
    resample = Image.Resampling.BOX if side < max(distance.shape) else Image.Resampling.BILINEAR
    square, _ = fit_image(Image.fromarray(distance), side, mode=fit, fill=0, resample=resample)
    d = np.asarray(square).astype(np.float32) / 255
    floor = 0.02 + 3 * float(np.median(d))
    full = float(np.percentile(d[d > floor], 95)) if (d > floor).sum() > 1e-4 * d.size else 0.0
    if full < max(FAINTEST, 1.5 * floor):
        raise InputError("empty")
    ink = d > floor + INK * (full - floor)
    if ink.mean() > 0.6:
        raise InputError("not a line drawing")
    inside = ndimage.distance_transform_edt(ink)
    ridge = inside[ink & (inside == ndimage.maximum_filter(inside, 3)) & (inside <= BROADEST / 2)]
    width = 2 * float(np.median(ridge)) - 1 if ridge.size else STROKE
    if width > 1.15 * STROKE:
        middle = ndimage.maximum_filter(inside, 2 * round(width / 2) + 1)
        ink = (inside > (width - STROKE) / 2) | (ink & (inside >= middle - STROKE / 2))
        inside = ndimage.distance_transform_edt(ink)
    ink = ink & (inside <= HOLLOW * STROKE)
    if width < STROKE:
        ink = ndimage.distance_transform_edt(~ink) <= (STROKE - width) / 2
    cells = torch.from_numpy(ink.astype(np.float32))[None]
    return with_closeness(torch.nn.functional.avg_pool2d(cells, CELL))


def drawings() -> dict[str, Image.Image]:
    """Lines of every kind: thin, thick, filled, faint, noisy, light on dark, coloured, large, small, oblong."""
    lines = Sketch().draw(tiny_head(192)[0], None, seed=0)
    grain = np.random.default_rng(0).integers(-18, 18, (192, 192))
    noisy = Image.fromarray((np.asarray(lines).astype(int) + grain).clip(0, 255).astype(np.uint8))
    colours = Image.merge("RGB", [lines, ImageOps.invert(lines), Image.new("L", lines.size, 90)])
    return {
        "plain": lines,
        "thick": lines.filter(ImageFilter.MinFilter(9)),
        "very thick": lines.filter(ImageFilter.MinFilter(21)),
        "filled": Image.fromarray((tiny_head(192)[1] == 0).astype(np.uint8) * 255),
        "faint": Image.blend(lines, Image.new("L", lines.size, 255), 0.8),
        "noisy": noisy,
        "light on dark": ImageOps.invert(lines),
        "coloured": colours,
        "large": lines.resize((901, 700)),
        "small": lines.resize((40, 64)),
    }


@pytest.mark.parametrize("name", drawings())
def test_sketches_are_read_as_the_formulas_say(name):
    image = drawings()[name]
    for fit, resolution in (("pad", 64), ("crop", 32)):
        assert torch.equal(Sketch().read(image, resolution, fit)[0], plain_sketch(image, resolution, fit))


# ---------------------------------------------------------------- colours


@pytest.mark.parametrize("seed", range(6))
def test_colours_are_looked_up_in_runs(seed):
    """Against the nearest colour pixel by pixel: flat areas, specks, soft outlines, transparent parts."""
    rng = np.random.default_rng(seed)
    palette = as_palette(["background", "a", "b", "c"], [(20, 20, 20), (200, 30, 30), (30, 200, 30), (40, 60, 220)])
    labels = np.where(blobs(seed), 1, 0) + np.where(blobs(seed + 50), 2, 0)
    picture = palette.to_rgb(labels).astype(int) + rng.integers(-9, 10, (96, 96, 3)) * (rng.random((96, 96, 1)) < 0.3)
    rgba = np.dstack([picture.clip(0, 255), np.where(blobs(seed + 99), 255, 0)]).astype(np.uint8)
    wanted = np.where(rgba[..., 3] < 128, -1, labels)
    assert np.array_equal(palette.from_strokes(Image.fromarray(rgba)), wanted)
    assert np.array_equal(palette.from_image(Image.fromarray(rgba)), np.where(wanted < 0, 0, wanted))
