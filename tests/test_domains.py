"""Renderer of the embedded domain: deterministic, resolution-independent, masks true to the layers."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import resvg_py
from PIL import Image

from sis_rearrange.domains import (
    SPLITS,
    critters,
    dicebear,
    domain_names,
    get_domain,
    landscape,
    render_many,
    split_indices,
    toonhead,
)
from sis_rearrange.errors import InputError

DOMAIN = get_domain("toonhead")


MODULES = {"critters": critters, "landscape": landscape, "toonhead": toonhead}
EVERY = pytest.mark.parametrize("name", sorted(MODULES))


def layer_by_layer(flat: ElementTree.Element, labels: range, side: int) -> np.ndarray:
    """The mask the slow way: the layers of one label at a time rendered on their own (alpha only), back to front."""
    mask = np.zeros((side, side), np.uint8)
    for label in labels[1:]:
        alone = copy.deepcopy(flat)
        for backdrop in alone.findall("rect"):
            alone.remove(backdrop)
        for element in alone.findall("defs/g//*"):
            for paint in ("fill", "stroke"):
                if element.get(paint, "none") not in ("none", f"#{25 * label:02x}0000"):
                    element.set(paint, "none")
        svg = ElementTree.tostring(alone, encoding="unicode")
        png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
        alpha = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))[..., 3]
        mask[alpha > 127] = label
    return mask


@EVERY
def test_shapes_and_labels(name):
    domain = get_domain(name)
    picture, mask = domain.render(7, 64)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert mask.shape == (64, 64) and mask.dtype == np.uint8
    assert domain.classes[0] in ("background", "sky") and len(domain.classes) == len(domain.palette) == 10
    assert set(np.unique(mask)) <= set(range(10)) and len(np.unique(mask)) >= 5


@EVERY
def test_every_class_occurs_and_every_label_is_pure(name):
    """rasterise_mask raises on a blended colour, so 60 clean renders say something about cut-outs and edges too."""
    masks = render_many(get_domain(name), range(60), 32, workers=1)[1]
    pictures_with = (masks.reshape(60, -1, 1) == np.arange(10)).any(1).sum(0)
    assert pictures_with.min() >= 3


@EVERY
def test_same_index_same_bytes_other_index_other_picture(name):
    first, again, other = (get_domain(name).render(index, 32) for index in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert np.abs(first[0].astype(int) - other[0]).mean() > 10


def test_toonhead_is_what_the_shipped_weights_were_trained_on():
    """The shipped pack's test split is rendered, so a change here would silently change what is measured."""
    digest = hashlib.sha256()
    for index in (0, 1, 1_001_000):
        for array in DOMAIN.render(index, 64):
            digest.update(array.tobytes())
    assert digest.hexdigest() == "12c5ae372e5f0bb53f3a4858b824c432d393a6b78e4fcbe21aefcad8cd378da1"


@EVERY
@pytest.mark.parametrize("index", [0, 5, 1_000_123])
def test_resolution_only_samples_the_same_drawing(name, index):
    small, small_mask = get_domain(name).render(index, 64)
    large, large_mask = get_domain(name).render(index, 256)
    reduced = np.asarray(Image.fromarray(large).reduce(4))
    assert np.abs(reduced.astype(int) - small).mean() < 1.5
    assert (dicebear.majority(large_mask, 4, 10) == small_mask).mean() > 0.99


@EVERY
def test_the_picture_alone_is_the_same_picture(name):
    domain = get_domain(name)
    assert domain.render_picture is not None
    assert np.array_equal(domain.picture(6, 48), domain.render(6, 48)[0])
    assert np.array_equal(dataclasses.replace(domain, render_picture=None).picture(6, 48), domain.render(6, 48)[0])
    with pytest.raises(InputError, match="index -1"):
        domain.picture(-1, 48)


@EVERY
def test_any_resolution(name):
    for resolution in (8, 37, 130):
        picture, mask = get_domain(name).render(2, resolution)
        assert picture.shape == (resolution, resolution, 3) and mask.shape == (resolution, resolution)


@EVERY
@pytest.mark.parametrize("index", [0, 2, 7, 11, 1_001_000])
def test_mask_agrees_with_layers_rendered_one_by_one(name, index):
    flat = MODULES[name]._flat(MODULES[name]._drawing(index))
    ours = dicebear.rasterise_mask(flat, 96, 10)
    assert (ours == dicebear.majority(layer_by_layer(flat, range(10), 96 * 4), 4, 10)).mean() > 0.999


def edge_contrast(picture: np.ndarray, mask: np.ndarray) -> float:
    """Share of the mask's vertical edges at which the picture changes visibly within two pixels."""
    width = mask.shape[1]
    rows, columns = np.nonzero(mask[:, 3 : width - 4] != mask[:, 4 : width - 3])
    near = np.stack([picture[rows, columns + at].astype(int) for at in range(2, 7)])
    return float((np.ptp(near, axis=0).max(-1) >= 12).mean())


@EVERY
def test_mask_edges_lie_on_picture_edges(name):
    domain = get_domain(name)
    on, off = [], []
    for index in range(12):
        picture, mask = domain.render(index, 128)
        on.append(edge_contrast(picture, mask))
        off.append(edge_contrast(picture, np.roll(mask, (9, 13), (0, 1))))
    assert np.mean(on) > 0.93 and np.mean(on) > np.mean(off) + 0.3


def test_what_grows_on_a_critter_is_labelled_by_its_kind():
    """Each of the style's fifteen tops has exactly one class, and no layer of a drawing is without one."""
    _, components = dicebear.load_style("critters")
    assert set(critters._TOP_CLASS) == set(components["top"]["variants"])
    assert sorted(map(len, critters._TOPS.values())) == [3, 3, 4, 5]


@pytest.mark.parametrize("index", range(6))
def test_houses_stand_on_the_ground(index):
    """Below a wall comes meadow, or what is before it, never the hills behind: nothing floats."""
    mask = get_domain("landscape").render(index, 256)[1]
    names = landscape.LANDSCAPE.classes
    above, below = mask[:-1], mask[1:]
    wall = names.index("wall")
    under_walls = below[(above == wall) & (below != wall)]
    floating = [names.index(name) for name in ("hills", "mountains", "sky")]
    assert not under_walls.size or np.isin(under_walls, floating).mean() < 0.02


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
    assert dicebear.majority(labels, 2, 10).tolist() == [[0, 9]]


def test_render_many_does_not_depend_on_workers_and_keeps_order():
    indices = [*range(40, 72), 3]
    alone, together = (render_many(DOMAIN, indices, 16, workers) for workers in (1, 2))
    for one, two in zip(alone, together, strict=True):
        assert np.array_equal(one, two)
    assert np.array_equal(alone[0][-1], DOMAIN.render(3, 16)[0])


def test_a_log_gets_no_progress_bar(capfd):
    render_many(DOMAIN, range(3), 8, workers=1, progress="heads")
    assert capfd.readouterr() == ("", "")


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
    assert domain_names() == ("critters", "landscape", "toonhead")
    with pytest.raises(InputError, match="did you mean 'toonhead'"):
        get_domain("toonheads")


@EVERY
def test_palette_colours_can_be_told_apart(name):
    colours = np.array([*get_domain(name).palette, (255, 255, 255)])  # white is a scribble's empty canvas
    distances = np.abs(colours[:, None] - colours[None]).max(-1)
    assert distances[~np.eye(len(colours), dtype=bool)].min() >= 30


@pytest.mark.parametrize(
    "name, package",
    [("critters", "dicebear"), ("landscape", "dicebear"), ("landscape", "resvg_py"), ("toonhead", "dicebear_styles")],
)
def test_missing_rendering_packages_are_named(name, package):
    code = (
        "import sys\n"
        f"sys.modules['{package}'] = None\n"
        "from sis_rearrange.domains import get_domain\n"
        "from sis_rearrange.errors import InputError\n"
        f"try:\n    get_domain('{name}').render(0, 16)\n"
        "except InputError as error:\n    sys.stdout.write(str(error))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'sis_rearrange[domains]'" in run.stdout and f"'{package}'" in run.stdout


def test_a_toonhead_says_which_shapes_it_has():
    pytest.importorskip("dicebear", reason="the extra domains is not installed")
    found = [toonhead.shapes(index) for index in range(40)]
    assert {each["mouth"] for each in found} == {"agape", "angry", "laugh", "sad", "smile"}
    bearded = (
        toonhead.TOONHEAD.classes.index("beard")
        in toonhead.TOONHEAD.render(next(i for i in range(40) if "beard" in found[i]), 64)[1]
    )
    shaven = (
        toonhead.TOONHEAD.classes.index("beard")
        in toonhead.TOONHEAD.render(next(i for i in range(40) if "beard" not in found[i]), 64)[1]
    )
    assert bearded and not shaven
