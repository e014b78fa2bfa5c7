"""Renderer of the embedded domain: deterministic, resolution-independent, masks true to the layers."""

from __future__ import annotations

import io
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import resvg_py
from PIL import Image

from sis_rearrange.domains import SPLITS, domain_names, get_domain, render_many, split_indices, toonhead
from sis_rearrange.errors import InputError

DOMAIN = get_domain("toonhead")


def layer_by_layer(tree: ElementTree.Element, side: int) -> np.ndarray:
    """The mask the slow way: every layer rendered on its own (alpha only), stacked in drawing order."""
    labels = np.zeros((side, side), np.uint8)
    layers = [use.get("href", "")[1:] for use in tree.iter("use")]
    for kept in layers:
        alone = toonhead._flat(tree)
        for backdrop in alone.findall("rect"):
            alone.remove(backdrop)
        figure = alone.find("g")
        assert figure is not None
        for use in list(figure):
            if use.get("href") != f"#{kept}":
                figure.remove(use)
        svg = ElementTree.tostring(alone, encoding="unicode")
        png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
        alpha = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))[..., 3]
        labels[alpha > 127] = toonhead._LABELS[kept.split("-")[0]]
    return labels


def test_shapes_and_labels():
    picture, mask = DOMAIN.render(7, 64)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert mask.shape == (64, 64) and mask.dtype == np.uint8
    assert DOMAIN.classes[0] == "background" and len(DOMAIN.classes) == len(DOMAIN.palette) == 10
    assert set(np.unique(mask)) <= set(range(10)) and len(np.unique(mask)) >= 7


def test_every_class_occurs_and_every_label_is_pure():
    """_rasterise_mask raises on a blended colour, so 60 clean renders say something about cut-outs and edges too."""
    masks = render_many(DOMAIN, range(60), 32, workers=1)[1]
    assert set(np.unique(masks)) == set(range(10))


def test_same_index_same_bytes_other_index_other_picture():
    first, again, other = (DOMAIN.render(index, 32) for index in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert np.abs(first[0].astype(int) - other[0]).mean() > 10


@pytest.mark.parametrize("index", [0, 5, 1_000_123])
def test_resolution_only_samples_the_same_drawing(index):
    small, small_mask = DOMAIN.render(index, 64)
    large, large_mask = DOMAIN.render(index, 256)
    reduced = np.asarray(Image.fromarray(large).reduce(4))
    assert np.abs(reduced.astype(int) - small).mean() < 1.5
    assert (toonhead.majority(large_mask, 4, 10) == small_mask).mean() > 0.99


@pytest.mark.parametrize("index", [0, 1, 2, 7, 11, 1_001_000])
def test_mask_agrees_with_layers_rendered_one_by_one(index):
    tree = toonhead._drawing(index)
    ours = toonhead._rasterise_mask(tree, 96)
    assert (ours == toonhead.majority(layer_by_layer(tree, 96 * 4), 4, 10)).mean() > 0.999


def test_mask_lies_on_the_picture():
    """Inside the background's mask, away from edges, the picture is the backdrop (a thin outline may graze it)."""
    picture, mask = DOMAIN.render(12, 64)
    inside = mask == 0
    for axis in (0, 1):
        inside &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
    assert inside.sum() > 200 and np.ptp(picture[inside], axis=0).max() <= 40
    assert np.ptp(picture[mask != 0], axis=0).min() > 50


def test_majority_counts_and_prefers_the_layer_on_top():
    labels = np.array([[0, 0, 3, 3], [0, 5, 9, 9]], np.uint8)
    assert toonhead.majority(labels, 2, 10).tolist() == [[0, 9]]


def test_render_many_does_not_depend_on_workers_and_keeps_order():
    indices = [*range(40, 72), 3]
    alone, together = (render_many(DOMAIN, indices, 16, workers) for workers in (1, 2))
    for one, two in zip(alone, together, strict=True):
        assert np.array_equal(one, two)
    assert np.array_equal(alone[0][-1], DOMAIN.render(3, 16)[0])


def test_splits_are_disjoint_and_sized_as_documented():
    assert len(SPLITS["train"]) == 1_000_000 and len(SPLITS["val"]) == len(SPLITS["test"]) == 1_000
    assert SPLITS["train"].stop <= SPLITS["val"].start and SPLITS["val"].stop <= SPLITS["test"].start
    assert split_indices("test", 4, start=2) == range(1_001_002, 1_001_006)


@pytest.mark.parametrize("split, count", [("tests", 1), ("val", 1001), ("val", 0)])
def test_bad_split_requests(split, count):
    with pytest.raises(InputError, match="split"):
        split_indices(split, count)


@pytest.mark.parametrize("index, resolution", [(-1, 64), (0, 4), (0, 100_000)])
def test_bad_render_requests(index, resolution):
    with pytest.raises(InputError, match="index|resolution"):
        DOMAIN.render(index, resolution)


def test_unknown_domain_suggests_the_nearest():
    assert domain_names() == ("toonhead",)
    with pytest.raises(InputError, match="did you mean 'toonhead'"):
        get_domain("toonheads")


def test_palette_colours_can_be_told_apart():
    colours = np.array([*DOMAIN.palette, (255, 255, 255)])  # white is a scribble's empty canvas
    distances = np.abs(colours[:, None] - colours[None]).max(-1)
    assert distances[~np.eye(len(colours), dtype=bool)].min() >= 30


def test_missing_rendering_packages_are_named():
    code = (
        "import sys\n"
        "sys.modules['dicebear_styles'] = None\n"
        "from sis_rearrange.domains import get_domain\n"
        "from sis_rearrange.errors import InputError\n"
        "try:\n    get_domain('toonhead').render(0, 16)\n"
        "except InputError as error:\n    sys.stdout.write(str(error))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'sis_rearrange[domains]'" in run.stdout
