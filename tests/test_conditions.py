"""Conditions: people's files land where the training inputs lie, and files that cannot be used are refused in words."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sis_rearrange.conditions import (
    CONDITIONS,
    Palette,
    Scribble,
    Segmentation,
    Sketch,
    as_palette,
    get_condition,
    load_palette,
)
from sis_rearrange.conditions.base import coverage, reduced
from sis_rearrange.conditions.strokes import plan
from sis_rearrange.errors import InputError
from sis_rearrange.tensors import from_uint8, one_hot

NAMES = ("background", "skin", "eyes", "hair")
COLOURS = ((30, 30, 60), (250, 210, 170), (90, 220, 230), (240, 180, 40))
PALETTE = as_palette(NAMES, COLOURS)
K = len(PALETTE)


def head(side: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A head with two eyes and hair at any size: picture uint8 [side, side, 3], labels uint8 [side, side]."""
    big = Image.new("L", (4 * side, 4 * side), 0)
    pen, s = ImageDraw.Draw(big), 4 * side
    pen.ellipse([s * (0.2 + shift), s * 0.1, s * (0.8 + shift), s * 0.55], fill=3)
    pen.ellipse([s * (0.26 + shift), s * 0.25, s * (0.74 + shift), s * 0.9], fill=1)
    for x in (0.36, 0.54):
        pen.ellipse([s * (x + shift), s * 0.45, s * (x + 0.1 + shift), s * 0.57], fill=2)
    fine = np.asarray(big)
    colours = np.array([(150, 180, 220), (230, 180, 150), (40, 30, 30), (120, 60, 20)], np.uint8)
    picture = np.asarray(Image.fromarray(colours[fine]).reduce(4))
    return picture, fine[2::4, 2::4].copy()


def batch(side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [head(side, shift) for shift in (-0.1, 0.0, 0.1)]
    labels = torch.from_numpy(np.stack([p[1] for p in pairs]).astype(np.int64))
    return from_uint8(np.stack([p[0] for p in pairs])), labels


BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def lines(side: int, width: float, ink: tuple[int, ...] = BLACK, paper: tuple[int, ...] = WHITE) -> Image.Image:
    """An outline drawing with strokes of `width` pixels, anti-aliased."""
    image = Image.new("RGBA" if len(ink) == 4 else "RGB", (4 * side, 4 * side), paper)
    pen, s, w = ImageDraw.Draw(image), 4 * side, round(4 * width)
    for x0, y0, x1, y1 in ((0.2, 0.2, 0.8, 0.9), (0.3, 0.4, 0.45, 0.55), (0.55, 0.4, 0.7, 0.55)):
        pen.ellipse([x0 * s - w / 2, y0 * s - w / 2, x1 * s + w / 2, y1 * s + w / 2], outline=ink, width=w)
    pen.line([(0.35 * s, 0.75 * s), (0.65 * s, 0.75 * s)], fill=ink, width=w)
    return image.reduce(4)


def jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().mean())


# -- every condition -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONDITIONS)
def test_drawing_reads_like_training(name: str) -> None:
    """A 256 px drawing is nearer to the training inputs of its own 64 px picture than to those of another picture."""
    condition = get_condition(name, PALETTE)
    images, labels = batch()
    trained = torch.stack([condition.from_samples(images, labels, np.random.default_rng(s)) for s in range(8)]).mean(0)
    for n, shift in enumerate((-0.1, 0.0, 0.1)):
        x, fit = condition.read(condition.draw(*head(256, shift), seed=n), 64)
        assert x.shape == (1, condition.channels, 64, 64) and x.dtype == torch.float32
        assert float(x.min()) >= 0 and float(x.max()) <= 1
        distances = [far(x[0], t) for t in trained]
        assert int(np.argmin(distances)) == n, distances
    if name != "scribble":
        assert min(distances) < 0.5 * sorted(distances)[1]
    assert fit.size == (256, 256)


@pytest.mark.parametrize("name", CONDITIONS)
def test_deterministic_per_seed(name: str) -> None:
    condition = get_condition(name, PALETTE)
    images, labels = batch()
    first, again, other = (condition.from_samples(images, labels, np.random.default_rng(s)) for s in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    drawings = [condition.draw(*head(128), seed=3).tobytes() for _ in range(2)]
    assert drawings[0] == drawings[1]


@pytest.mark.parametrize("name", CONDITIONS)
def test_samples_leave_their_arguments_alone(name: str) -> None:
    images, labels = batch()
    before = images.clone(), labels.clone()
    get_condition(name, PALETTE).from_samples(images, labels, np.random.default_rng(0))
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_non_square_drawings(name: str, fit: str) -> None:
    """Half a drawing, 128 x 256: padded it keeps its shape, cropped and stretched it fills the square."""
    condition = get_condition(name, PALETTE)
    drawing = condition.draw(*head(256), seed=0).crop((0, 64, 256, 192))
    x, how = condition.read(drawing, 64, fit=fit)
    assert (how.mode, how.size) == (fit, (128, 256))
    assert x.shape == (1, condition.channels, 64, 64)
    if fit == "pad":
        empty = {"segmentation": 0, "scribble": K}.get(name)
        bars = torch.cat([x[0, :, :12], x[0, :, 52:]], dim=1)
        assert float(bars[0].max()) == 0 if empty is None else float(bars[empty].min()) == 1


@pytest.mark.parametrize("name", CONDITIONS)
def test_show_is_a_picture_of_the_input(name: str) -> None:
    condition = get_condition(name, PALETTE)
    x, _ = condition.read(condition.draw(*head(128), seed=0), 64)
    shown = condition.show(x[0])
    assert shown.mode == "RGB" and shown.size == (64, 64)
    assert len(shown.getcolors(4096) or []) > 2


def test_unknown_condition_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="'sketch'"):
        get_condition("skech", PALETTE)
    with pytest.raises(InputError, match="palette"):
        get_condition("segmentation", None)


# -- palette ---------------------------------------------------------------------------------------------------------


def test_palette_round_trips() -> None:
    assert Palette.from_json(PALETTE.to_json()) == PALETTE
    labels = head(64)[1]
    image = PALETTE.to_image(labels)
    assert image.mode == "P"
    np.testing.assert_array_equal(PALETTE.from_image(image), labels)
    np.testing.assert_array_equal(PALETTE.from_image(image.convert("RGB")), labels)
    np.testing.assert_array_equal(PALETTE.from_image(Image.fromarray(labels)), labels)
    with pytest.raises(InputError):
        Palette.from_json("[1, 2]")


def test_index_file_saved_as_grey_rgb() -> None:
    """Values 0..3 in all three channels look black; reading them as colours would give one class only."""
    labels = head(64)[1]
    np.testing.assert_array_equal(PALETTE.from_image(Image.fromarray(labels).convert("RGB")), labels)


def test_reordered_colour_table_is_read_by_colour() -> None:
    labels = head(64)[1]
    flipped = Palette(NAMES[::-1], COLOURS[::-1]).to_image(K - 1 - labels)
    np.testing.assert_array_equal(PALETTE.from_image(flipped), labels)


def test_foreign_colour_table_is_read_by_index() -> None:
    labels = head(64)[1]
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])  # the PASCAL VOC colours
    np.testing.assert_array_equal(PALETTE.from_image(image), labels)


def test_compression_and_anti_aliasing_are_snapped() -> None:
    labels = head(256)[1]
    colour = Image.fromarray(PALETTE.to_rgb(labels))
    smooth = colour.resize((320, 320), Image.Resampling.BICUBIC)
    enlarged = np.asarray(Image.fromarray(labels).resize((320, 320), Image.Resampling.NEAREST))
    for image, truth in ((jpeg(colour, 90), labels), (smooth, enlarged)):
        read = PALETTE.from_image(image)
        assert read.shape == truth.shape and (read == truth).mean() > 0.985


def test_transparent_mask_pixels_are_background() -> None:
    labels = head(64)[1]
    rgba = np.dstack([PALETTE.to_rgb(labels), np.where(labels == 0, 0, 255).astype(np.uint8)])
    rgba[labels == 0, :3] = 255
    np.testing.assert_array_equal(PALETTE.from_image(Image.fromarray(rgba)), labels)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_binary_masks_are_explained(mode: str) -> None:
    mask = Image.fromarray(np.where(head(64)[1] > 0, 255, 0).astype(np.uint8))
    with pytest.raises(InputError, match="black-and-white.*0..3") as error:
        PALETTE.from_image(mask.convert(mode))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "hint"), [(lambda v: v + 1, "subtract 1"), (lambda v: np.where(v == 2, 255, v), "ignore"),
                         (lambda v: v * 40, "index PNG")]
)  # fmt: skip
def test_index_values_out_of_range(change, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        PALETTE.from_image(Image.fromarray(change(head(64)[1]).astype(np.uint8)))


def test_stray_colours_are_named() -> None:
    rgb = PALETTE.to_rgb(head(128)[1])
    few = rgb.copy()
    few[:8, :8] = (255, 0, 255)  # 0.4 %: filled from around it
    assert (PALETTE.from_image(Image.fromarray(few)) == head(128)[1]).all()
    rgb[:40, :64] = (255, 0, 255)
    with pytest.raises(InputError, match=r"16 % .*#ff00ff.*hair #f0b428"):
        PALETTE.from_image(Image.fromarray(rgb))


def test_photo_is_not_a_mask() -> None:
    ramp = np.add.outer(np.arange(256), np.arange(256)) // 2
    photo = np.stack([ramp, ramp[::-1], 255 - ramp], axis=-1).astype(np.uint8)
    with pytest.raises(InputError, match="outside the palette"):
        Segmentation(PALETTE).read(Image.fromarray(photo), 64)


# -- segmentation ----------------------------------------------------------------------------------------------------


def test_drawings_without_a_part() -> None:
    labels = torch.tensor([[[0, 1], [2, 2]]])
    segmentation, scribble = (get_condition(name, PALETTE) for name in ("segmentation", "scribble"))
    x = one_hot(labels, segmentation.channels)
    bare = segmentation.without(x, [2])
    assert torch.equal(bare[:, :2], x[:, :2]) and not bare[:, 2:].any() and x[:, 2].any()
    x = one_hot(labels, scribble.channels)
    bare = scribble.without(x, [1, 2])
    assert torch.equal(bare[0, -1], torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    assert torch.equal(bare.sum(dim=1), x.sum(dim=1)) and torch.equal(bare[:, 0], x[:, 0])
    lines = torch.rand(1, 1, 4, 4)
    assert torch.equal(get_condition("sketch").without(lines, [0, 1]), lines)


def test_segmentation_averages_cover_not_labels() -> None:
    """Half a cell of 1 and half of 3 is half and half, never label 2."""
    labels = np.zeros((64, 64), np.uint8)
    labels[:, :1] = 1
    labels[:, 1:] = 3
    x, _ = Segmentation(PALETTE).read(Image.fromarray(labels), 32)
    assert x[0, :, 5, 0].tolist() == [0, 0.5, 0, 0.5]
    assert torch.allclose(x.sum(1), torch.ones(1, 32, 32))


def test_coverage_of_whole_and_fractional_cells_agree() -> None:
    labels = head(256)[1][None]
    planes = torch.stack([torch.from_numpy(labels == k) for k in range(K)], dim=1).float()
    for resolution in (64, 60):
        expected = torch.nn.functional.interpolate(planes, size=(resolution, resolution), mode="area")
        assert torch.allclose(coverage(labels, K, resolution), expected, atol=1e-6)


def test_segmentation_any_size_gives_the_same_layout() -> None:
    condition = Segmentation(PALETTE)
    reads = [condition.read(Image.fromarray(head(side)[1]), 64)[0] for side in (64, 200, 256, 1100)]
    for x in reads[:-1]:
        assert far(x, reads[-1]) < 0.01


@pytest.mark.parametrize("make", [Segmentation, Scribble])
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_posters_are_reduced_before_their_colours_are_read(make, fit: str) -> None:
    """Reading a large mask pixel by pixel would take gigabytes; the result is that of a smaller copy."""
    small = PALETTE.to_image(head(256)[1]).convert("RGB").crop((64, 0, 192, 256))
    large = small.resize((1920, 3840), Image.Resampling.NEAREST)
    assert max(reduced(large, 32, fit).size) <= 16 * 32
    (x, _), (y, how) = (make(PALETTE).read(image, 32, fit) for image in (small, large))
    assert (x - y).abs().mean() < 0.01
    assert how.size == (3840, 1920)


def test_segmentation_training_keeps_layout() -> None:
    images, labels = batch()
    for seed in range(5):
        x = Segmentation(PALETTE).from_samples(images, labels, np.random.default_rng(seed))
        assert torch.allclose(x.sum(1), torch.ones(3, 64, 64), atol=1e-4)
        large = (labels != 2) & (x.argmax(1) != 2)
        assert float((x.argmax(1) == labels)[large].float().mean()) > 0.97


def test_empty_masks_are_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        Segmentation(PALETTE).read(Image.new("L", (64, 64), 0), 64)


# -- sketch ----------------------------------------------------------------------------------------------------------


def test_polarity_colour_and_transparency_do_not_matter() -> None:
    sketch = Sketch()
    plain = sketch.read(lines(256, 4), 64)[0]
    assert 0.03 < float(plain[:, 0].mean()) < 0.3
    same = {
        "inverted": lines(256, 4, (255, 255, 255), (0, 0, 0)),
        "grey": lines(256, 4).convert("L"),
        "transparent": lines(256, 4, (0, 0, 0, 255), (0, 0, 0, 0)),
        "white on transparent": lines(256, 4, (255, 255, 255, 255), (255, 255, 255, 0)),
    }
    for name, drawing in same.items():
        assert far(sketch.read(drawing, 64)[0], plain) < 0.01, name
    alike = {
        "coloured": lines(256, 4, (20, 60, 220), (250, 240, 170)),
        "faint": lines(256, 4, (205, 205, 205)),
        "compressed": jpeg(lines(256, 4), 50),
    }
    for name, drawing in alike.items():
        assert far(sketch.read(drawing, 64)[0], plain) < 0.03, name


@pytest.mark.parametrize(("side", "width"), [(1024, 1.0), (1024, 30.0), (512, 2.0), (256, 8.0), (64, 1.0), (3000, 3.0)])
def test_thin_and_thick_pens_read_alike(side: int, width: float) -> None:
    """Without the width correction a thin pen on a large canvas would nearly vanish, a thick one double the ink."""
    plain = Sketch().read(lines(256, 6), 64)[0]
    other = Sketch().read(lines(side, width), 64)[0]
    assert 0.6 < float(other[:, 0].sum() / plain[:, 0].sum()) < 1.4
    assert far(other[:, 1], plain[:, 1]) < 0.09


def test_filled_areas_keep_their_outline() -> None:
    drawing = lines(256, 4)
    ImageDraw.Draw(drawing).ellipse([20, 20, 120, 120], fill=(0, 0, 0))
    ink = Sketch().read(drawing, 64)[0][0, 0]
    assert float(ink[17, 17]) == 0 and float(ink[5:30, 5:30].max()) == 1


@pytest.mark.parametrize("ink", [(0, 0, 0), (40, 70, 160)])
def test_drawings_that_are_mostly_filled_keep_their_outline(ink) -> None:
    """Even paper under a large filled area is not taken for uneven light."""
    drawing = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(drawing).ellipse([30, 30, 225, 225], fill=ink)
    lines = Sketch().read(drawing, 64)[0][0, 0]
    assert float(lines[32, 7:12].max()) == 1
    assert float(lines[20:44, 16:48].max()) == 0 and float(lines[:7].max()) == 0


def test_extractor_is_scale_aware() -> None:
    sketch = Sketch()
    small, large = (np.asarray(sketch.draw(head(side)[0], None, 0)) for side in (64, 256))
    reduced = large.reshape(64, 4, 64, 4).mean((1, 3))
    assert np.corrcoef(small.ravel(), reduced.ravel())[0, 1] > 0.9


def test_extractor_finds_borders_of_equal_luminance() -> None:
    """Red and green of one grey value: an extractor on luminance would see nothing."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :32], picture[:, 32:] = (200, 50, 80), (60, 121, 80)
    ink = 255 - np.asarray(Sketch().draw(picture, None, 0)).astype(int)
    assert ink[:, 31:33].min() > 200 and ink[:, :26].max() == 0 and ink[:, 38:].max() == 0


def test_empty_drawings_are_refused() -> None:
    rng = np.random.default_rng(0)
    paper = Image.fromarray((245 + rng.normal(0, 1.5, (128, 128, 3))).astype(np.uint8))
    for blank in (Image.new("RGB", (128, 128), "white"), Image.new("L", (64, 64), 0), paper,
                  Image.new("RGBA", (64, 64), (0, 0, 0, 0))):  # fmt: skip
        with pytest.raises(InputError, match="empty"):
            Sketch().read(blank, 64)


def test_noise_is_not_a_line_drawing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    with pytest.raises(InputError):
        Sketch().read(Image.fromarray(noise), 64)


# -- scribble --------------------------------------------------------------------------------------------------------


def test_strokes_stay_in_their_parts() -> None:
    picture, labels = head(256)
    condition = Scribble(PALETTE)
    for seed in range(4):
        strokes = PALETTE.from_strokes(condition.draw(picture, labels, seed))
        painted = strokes >= 0
        assert 0.03 < painted.mean() < 0.5
        assert (strokes == labels)[painted].mean() > 0.9
        assert set(np.unique(strokes[painted])) == {0, 1, 2, 3}  # a person leaves no part out


def test_training_scribbles_skip_parts_but_never_all() -> None:
    images, labels = batch()
    seen = []
    for seed in range(20):
        x = Scribble(PALETTE).from_samples(images, labels, np.random.default_rng(seed))
        assert torch.allclose(x.sum(1), torch.ones(3, 64, 64))
        assert (x[:, :K].sum((1, 2, 3)) > 0).all()
        seen.append((x[:, :K].amax((2, 3)) > 0).float())
    share = float(torch.stack(seen).mean())
    assert 0.8 < share < 1


def test_a_single_part_still_gets_a_stroke() -> None:
    for seed in range(30):
        assert plan(np.ones((1, 64, 64), np.int64), K, np.random.default_rng(seed))


def test_scribbles_on_white_transparent_and_index_canvas_agree() -> None:
    condition = Scribble(PALETTE)
    rgb = np.asarray(condition.draw(*head(256), seed=1))
    labels = PALETTE.from_strokes(Image.fromarray(rgb))
    alpha = np.where(labels < 0, 0, 255).astype(np.uint8)
    clear = np.dstack([np.where(alpha[..., None] > 0, rgb, 0), alpha])
    index = np.where(labels < 0, 255, labels).astype(np.uint8)
    reference = condition.read(Image.fromarray(rgb), 64)[0]
    for canvas in (clear, index):
        assert torch.equal(condition.read(Image.fromarray(canvas), 64)[0], reference)
    squeezed = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    assert torch.equal(condition.read(squeezed, 64)[0], reference)


def test_bad_scribbles_are_refused() -> None:
    condition = Scribble(PALETTE)
    with pytest.raises(InputError, match="empty"):
        condition.read(Image.new("RGB", (64, 64), "white"), 64)
    with pytest.raises(InputError, match="empty"):
        condition.read(Image.new("RGBA", (64, 64), (0, 0, 0, 0)), 64)
    with pytest.raises(InputError, match="black-and-white"):
        condition.read(lines(256, 12), 64)
    with pytest.raises(InputError, match="'eyes', #fafafa, is too close to the white canvas; give it another one"):
        Scribble(as_palette(("background", "eyes"), ((0, 0, 0), (250, 250, 250))))
    with pytest.raises(InputError, match=r"scribble.*'windowpane', #e6e6e6, .*palette file.*'segmentation'"):
        Scribble(PALETTE, load_palette("ade20k"))
