"""Palettes as files, those of the package, masks painted in other palettes, and what is reported of them."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sis_rearrange.cli import main
from sis_rearrange.conditions import Palette, Scribble, Segmentation, as_palette, load_palette, palette_names
from sis_rearrange.domains import domain_names, get_domain
from sis_rearrange.errors import InputError, InputWarning
from sis_rearrange.images import read_image

NAMES = ("background", "skin", "eyes", "hair")
COLOURS = ((30, 30, 60), (250, 210, 170), (90, 220, 230), (240, 180, 40))
PALETTE = as_palette(NAMES, COLOURS)


def mask(classes: int, side: int = 64) -> np.ndarray:
    """Labels uint8 [side, side]: blobs of every class on class 0."""
    rng = np.random.default_rng(classes)
    labels = np.zeros((side, side), np.uint8)
    for k in range(classes):
        y, x = rng.integers(0, side - 8, 2)
        labels[y : y + 8, x : x + 8] = k
    return labels


# -- files -----------------------------------------------------------------------------------------------------------


def test_the_packages_palettes():
    assert {*domain_names(), "celebamask-hq", "ade20k", "cityscapes", "cityscapes-ids"} == set(palette_names())
    sizes = {name: len(load_palette(name)) for name in palette_names()}
    assert (sizes["celebamask-hq"], sizes["ade20k"]) == (19, 150)
    assert (sizes["cityscapes"], sizes["cityscapes-ids"]) == (19, 34)
    for name in domain_names():
        domain = get_domain(name)
        assert load_palette(name) == as_palette(domain.classes, domain.palette)


@pytest.mark.parametrize(
    ("palette", "label", "name", "colour"),
    [
        ("celebamask-hq", 1, "skin", (204, 0, 0)),
        ("celebamask-hq", 13, "hair", (0, 0, 204)),
        ("celebamask-hq", 18, "cloth", (0, 204, 0)),
        ("ade20k", 0, "wall", (120, 120, 120)),
        ("ade20k", 12, "person", (150, 5, 61)),
        ("ade20k", 149, "flag", (92, 0, 255)),
        ("cityscapes", 0, "road", (128, 64, 128)),
        ("cityscapes", 18, "bicycle", (119, 11, 32)),
        ("cityscapes-ids", 7, "road", (128, 64, 128)),
        ("cityscapes-ids", 26, "car", (0, 0, 142)),
        ("cityscapes-ids", 33, "bicycle", (119, 11, 32)),
    ],
)
def test_known_colours(palette, label, name, colour):
    loaded = load_palette(palette)
    assert (loaded.names[label], loaded.colours[label]) == (name, colour)


@pytest.mark.parametrize("name", palette_names())
def test_masks_in_every_palette_go_round(name, tmp_path):
    """As index PNG, as palette PNG, as RGB; by colour, classes of one colour become the first of them."""
    palette = load_palette(name)
    assert Palette.from_json(palette.to_json()) == palette
    labels = mask(len(palette))
    palette.to_image(labels).save(tmp_path / "p.png")
    np.testing.assert_array_equal(palette.from_image(read_image(tmp_path / "p.png")), labels)
    np.testing.assert_array_equal(palette.from_image(Image.fromarray(labels)), labels)
    first = np.array([palette.colours.index(colour) for colour in palette.colours])
    np.testing.assert_array_equal(palette.from_image(Image.fromarray(palette.to_rgb(labels))), first[labels])


def test_palette_files(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('[{"name": "b", "color": "#ff0000", "index": 9}, {"name": "a", "colour": [0, 255, 0], "index": 4}]')
    palette = load_palette(file)
    assert palette == Palette(("a", "b"), ((0, 255, 0), (255, 0, 0)), (4, 9))
    labels = mask(2)
    written = np.asarray(palette.to_image(labels))
    assert set(np.unique(written)) == {4, 9}
    np.testing.assert_array_equal(palette.from_image(Image.fromarray(written)), labels)
    with pytest.raises(InputError, match="classes are 4, 9"):
        palette.from_image(Image.fromarray(labels + 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a JSON list"),
        ('{"a": 1}', "not a JSON list"),
        ('[{"name": "a"}]', "not a JSON list"),
        ('[{"name": "a", "colour": [1, 2]}]', "three values"),
        ('[{"name": "a", "colour": [1, 2, 256]}]', "0-255"),
        ('[{"name": "a", "colour": "reddish"}]', "not a JSON list"),
        ('[{"name": "a", "colour": [1, 2, 3]}, {"name": "b", "colour": [1, 2, 3]}]', "share one colour"),
        ('[{"name": "a", "colour": [1, 2, 3], "index": 0}, {"name": "b", "colour": [1, 2, 4]}]', "'b' has no index"),
        ('[{"name": "a", "colour": [1, 2, 3], "index": 0}, {"name": "b", "colour": "red", "index": 0}]', "own index"),
        ('[{"name": "a", "colour": [1, 2, 3], "index": 256}]', "0..255"),
        ("[]", "0 names"),
        (json.dumps([{"name": str(k), "colour": [k % 256, k // 256, 0]} for k in range(300)]), "at most 255"),
    ],
)
def test_bad_palette_files(tmp_path, text, words):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(InputError, match="mine.json") as caught:
        load_palette(file)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_palettes(tmp_path):
    with pytest.raises(InputError, match="did you mean 'celebamask-hq'"):
        load_palette("celebamask")
    with pytest.raises(InputError, match="cannot be read"):
        load_palette(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary.json"):
        load_palette(tmp_path / "binary.json")


def test_palettes_on_the_command_line(tmp_path):
    def sis(*words: str) -> str:
        run = CliRunner().invoke(main, ["domains", "palettes", *words])
        assert run.exit_code == 0, run.output
        return run.output

    assert "ade20k: 150 classes" in sis()
    assert Palette.from_json(sis("cityscapes")) == load_palette("cityscapes")
    sis("cityscapes-ids", "--out", str(tmp_path))
    assert load_palette(tmp_path / "cityscapes-ids.json") == load_palette("cityscapes-ids")
    assert Image.open(tmp_path / "cityscapes-ids.png").width == 800


# -- masks in other palettes -----------------------------------------------------------------------------------------


def test_masks_painted_in_another_palette():
    """Order, colours and spelling differ, and two of its classes are one part of ours."""
    names = ("Hair", "l eye", "skin", "background", "EYES", "eyes")
    painted = Palette(names, tuple((40 * k + 9, 0, 200) for k in range(6)), (3, 5, 8, 11, 20, 21))
    theirs = np.array([[3, 2, 4, 5], [0, 0, 3, 3]], np.uint8).repeat(16, axis=0).repeat(8, axis=1)
    ours = np.array([[0, 1, 2, 2], [3, 3, 0, 0]], np.uint8).repeat(16, axis=0).repeat(8, axis=1)
    for file in (painted.to_image(theirs), Image.fromarray(painted.to_rgb(theirs))):
        for kind in (Segmentation, Scribble):
            x = kind(PALETTE, painted).read(file, 16, "stretch")[0]
            assert x.equal(kind(PALETTE).read(PALETTE.to_image(ours), 16, "stretch")[0])
    theirs[0, 0] = 1
    with pytest.raises(InputError, match=r"0.1 % of the mask is 'l eye'.*its parts: background, skin, eyes, hair"):
        Segmentation(PALETTE, painted).read(painted.to_image(theirs), 16)


# -- what is reported ------------------------------------------------------------------------------------------------


def notes(image: Image.Image, palette: Palette = PALETTE) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        palette.from_image(image)
    assert all(w.category is InputWarning and "\n" not in str(w.message) for w in caught)
    return [str(w.message) for w in caught]


def test_clean_masks_are_not_remarked_upon():
    labels = mask(4)
    assert notes(PALETTE.to_image(labels)) == notes(Image.fromarray(PALETTE.to_rgb(labels))) == []


def test_snapped_and_stray_colours_are_reported_with_their_share(tmp_path):
    rgb = PALETTE.to_rgb(mask(4, 128))
    rgb[100:116, 100:116] = np.array(COLOURS[0]) + 5
    rgb[40:44, 20:36] = (255, 0, 255)
    file = tmp_path / "mine.png"
    Image.fromarray(rgb).save(file)
    (note,) = notes(read_image(file))
    assert note.startswith(str(file)) and "1.6 % of the pixels are up to 5 levels off" in note
    assert "0.39 % (such as #ff00ff) have no class's colour" in note
    reading = PALETTE.read(Image.fromarray(rgb))
    assert reading.by == "colour"
    assert (reading.snapped, reading.filled) == (16 * 16 / 128**2, 4 * 16 / 128**2)


def test_the_command_line_says_it_in_one_line(tiny_pack, tmp_path):
    """A mask in another palette, a little off: a picture, and a warning that names the file."""
    parts = tiny_pack.palette()
    theirs = Palette(parts.names, tuple((9 + 20 * k, 200 - 20 * k, 90) for k in range(len(parts))))
    (tmp_path / "parts.json").write_text(theirs.to_json())
    rgb = theirs.to_rgb(mask(len(parts)))
    rgb[:8] += 3
    Image.fromarray(rgb).save(tmp_path / "mask.png")
    words = ["synthesize", tiny_pack.path, "--condition", "segmentation", tmp_path / "mask.png", "--seeds", "1"]
    options = ["--palette", tmp_path / "parts.json", "--out", tmp_path / "out", "--backend", "torch"]
    run = CliRunner().invoke(main, [str(word) for word in [*words, *options]])
    assert run.exit_code == 0, run.output
    (line,) = [line for line in run.stderr.splitlines() if "Warning" in line]
    assert line.startswith(f"Warning: {tmp_path / 'mask.png'}: ") and "up to 3 levels off" in line
    assert (tmp_path / "out" / "mask_seed1.png").exists()


def test_compressed_masks_are_reported():
    stream = io.BytesIO()
    Image.fromarray(PALETTE.to_rgb(mask(4, 128))).save(stream, "JPEG", quality=90)
    (note,) = notes(Image.open(stream))
    assert "were snapped" in note


def test_masks_that_count_from_1():
    """Certain where a value is too large; a remark where all values are classes but none is the background."""
    for image in (Image.fromarray(mask(4) + 1), PALETTE_OF_OTHERS.to_image(mask(5).clip(1))):
        with pytest.raises(InputError, match="counts from 1.*subtract 1"):
            PALETTE.from_image(image)
    (note,) = notes(Image.fromarray(mask(3) + 1))
    assert "no pixel has the value 0" in note and "subtract 1" in note


PALETTE_OF_OTHERS = as_palette("abcde", [(0, 255, 0), (0, 0, 255), (255, 0, 255), (128, 128, 0), (0, 128, 128)])


def test_line_drawings_are_no_scribbles():
    """Even where the palette has black: a black-and-white drawing names no part."""
    palette = load_palette("celebamask-hq")
    drawing = Image.new("RGB", (64, 64), "white")
    drawing.paste((0, 0, 0), (10, 10, 40, 14))
    with pytest.raises(InputError, match="'sketch'"):
        palette.from_strokes(drawing)


def test_a_photo_handed_in_as_mask_is_refused_in_bounded_memory():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="outside the palette"):
        load_palette("ade20k").from_image(photo)
