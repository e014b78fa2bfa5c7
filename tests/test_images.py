"""Reading (every kind of bad file), square fits, atomic writing, sheets."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sis_rearrange.errors import InputError, nearest, one_line
from sis_rearrange.images import (
    Fit,
    contact_sheet,
    fit_image,
    flatten,
    label_strip,
    name_of,
    read_image,
    write_bytes,
    write_png,
    write_text,
)

ROOT = Path(__file__).resolve().parent.parent


def noise(height: int = 24, width: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def refused(src: Any, *words: str) -> None:
    """The source is refused with one line that has all the words in it."""
    with pytest.raises(InputError) as caught:
        read_image(src)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(side: int) -> bytes:
    """A valid 1-bit PNG of side x side pixels in a few kilobytes."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + (side + 7) // 8)) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


# ---------------------------------------------------------------- bad files


def test_missing_file(tmp_path):
    refused(tmp_path / "no.png", "no.png", "no such file")
    refused(str(tmp_path / "no.png"), "no such file")


def test_folder(tmp_path):
    refused(tmp_path, str(tmp_path), "folder")


def test_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    refused(tmp_path / "a.png", "a.png", "empty")


def test_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "not a regular file")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_file(tmp_path, form, share):
    path = tmp_path / "cut.img"
    Image.fromarray(noise(64, 64)).save(path, form)
    assert read_image(path).size == (64, 64)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, "cut.img")


def test_changed_byte_in_png(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise()).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    refused(path, "a.png", "damaged")


def test_not_an_image(tmp_path):
    (tmp_path / "a.png").write_text("This is a letter, not a picture.\n" * 9)
    refused(tmp_path / "a.png", "a.png", "not a picture", "PNG")


@pytest.mark.parametrize("form", ["EPS", "PDF", "PPM", "ICO"])
def test_other_formats_are_refused(tmp_path, form):
    path = tmp_path / "a.png"
    Image.fromarray(noise(64, 64)).save(path, form)
    refused(path, "not a picture in a known format")


def test_unreadable_name_stays_one_line(tmp_path):
    refused(tmp_path / "two\nlines.png", "no such file")


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "a.png", "1x1", "8")
    refused(np.zeros((1, 1, 3), np.uint8), "1x1")


@pytest.mark.parametrize("side", [9_000, 20_000])  # below and above the size at which Pillow itself refuses
def test_too_many_pixels_are_not_decoded(tmp_path, side):
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png(side))
    code = (
        "import resource, sys\n"
        "from sis_rearrange.images import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_image(sys.argv[1])\n"
        "except ValueError as error: print(error)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8_000, 'it was decoded'\n"
    )
    run = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert "huge.png" in run.stdout and "too many" in run.stdout and run.stdout.count("\n") == 1


# ---------------------------------------------------------------- odd but good files


def test_16_bit_grey_is_scaled(tmp_path):
    values = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        image = read_image(tmp_path / name)
        assert image.mode == "L"
        assert np.abs(np.asarray(image) - values / 257).max() <= 0.5
    assert np.array_equal(np.asarray(read_image(values)), np.asarray(image))


def test_16_bit_label_mask_keeps_its_labels(tmp_path):
    labels = np.arange(256, dtype=np.uint16).reshape(16, 16) % 10
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), labels)


def test_float_tiff(tmp_path):
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.tiff")).ravel(), np.arange(256))


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert image.mode == "RGB"
    red, green, blue = np.asarray(image).reshape(-1, 3).mean(0)
    assert red > 220 and green < 40 and blue < 60


def test_alpha_is_kept_and_flattened(tmp_path):
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.mode == "RGBA"
    assert flatten(image).getpixel((3, 3)) == (255, 255, 255)
    assert flatten(image, (1, 2, 3)).getpixel((3, 3)) == (1, 2, 3)
    Image.new("LA", (16, 16), (0, 0)).save(tmp_path / "la.png")
    assert flatten(read_image(tmp_path / "la.png")).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_transparent_colour_without_alpha_channel(tmp_path, mode):
    key = (0, 0, 0) if mode == "RGB" else 0
    image = Image.new(mode, (16, 16), key)
    image.paste((9, 9, 9) if mode == "RGB" else 9, (8, 0, 16, 16))
    image.save(tmp_path / "a.png", transparency=key)
    back = read_image(tmp_path / "a.png")
    assert back.mode == ("P" if mode == "P" else "RGBA")
    assert flatten(back).getpixel((0, 0)) == (255, 255, 255)
    assert flatten(back).getpixel((12, 0)) != (255, 255, 255)


def test_palette_mask_keeps_its_indices(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16) % 10
    mask = Image.fromarray(labels)
    mask.putpalette([v for k in range(10) for v in (25 * k, 255 - 25 * k, 7)])
    mask.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), labels)
    assert image.convert("RGB").getpixel((3, 0)) == (75, 180, 7)


def test_one_bit_image(tmp_path):
    Image.new("1", (16, 16), 1).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.mode == "L" and image.getpixel((0, 0)) == 255


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.fromarray(noise(24, 32)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (24, 32)


def test_first_frame_of_many(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert flatten(read_image(tmp_path / "a.gif")).getpixel((0, 0)) == (255, 0, 0)


def test_messages_know_the_file_of_a_picture(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    for changed in (image, image.crop((0, 0, 9, 9)), image.resize((9, 9)), read_image(image), image.convert("L")):
        assert name_of(changed) == str(tmp_path / "a.png")
    assert name_of(Image.new("L", (9, 9))) == name_of(read_image(noise())) == "image"
    write_png(tmp_path / "b.png", image)
    assert b"a.png" not in (tmp_path / "b.png").read_bytes()


def test_pil_images_are_copied():
    image = Image.new("RGB", (16, 16))
    read_image(image).paste((255, 0, 0), (0, 0, 16, 16))
    assert image.getpixel((0, 0)) == (0, 0, 0)


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (noise(), "RGB"),
        (noise(channels=4), "RGBA"),
        (noise(channels=1), "L"),
        (noise()[..., 0], "L"),
        (noise()[::-1, ::2], "RGB"),
    ],
)
def test_uint8_arrays(array, mode):
    image = read_image(array)
    assert image.mode == mode
    assert np.array_equal(np.asarray(image), array.squeeze())


def test_arrays_of_other_types():
    labels = noise()[..., 0] % 10
    assert np.array_equal(np.asarray(read_image(labels.astype(np.int64))), labels)
    assert np.array_equal(np.asarray(read_image(labels > 4)), (labels > 4) * 255)
    assert np.array_equal(np.asarray(read_image(noise() / 255.0)), noise())


@pytest.mark.parametrize("shape", [(32,), (3, 32, 32), (1, 32, 32, 3), (32, 32, 2), (0, 32, 3)])
def test_arrays_of_wrong_shape(shape):
    refused(np.zeros(shape, np.uint8), "array")


@pytest.mark.parametrize(
    "array",
    [
        np.full((16, 16), -1),
        np.full((16, 16, 3), -1.0),
        np.full((16, 16), np.nan),
        np.full((16, 16), np.inf),
        np.full((16, 16), 70_000),
        np.full((16, 16), 1j),
        np.full((16, 16), "a"),
    ],
)
def test_arrays_of_wrong_values(array):
    refused(array, "array", "use uint8")


def test_other_objects_are_refused():
    refused(7, "expected a path", "int")


# ---------------------------------------------------------------- fits


@pytest.mark.parametrize("size", [(101, 50), (50, 101), (33, 32), (64, 64), (8, 4000)])
@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("side", [64, 63])
def test_fit_and_undo_have_the_right_sizes(size, mode, side):
    height, width = size
    square, fit = fit_image(Image.new("RGB", (width, height), (10, 20, 30)), side, mode)
    assert square.size == (side, side) and fit == Fit(mode, size)
    back = fit.undo(square)
    if mode == "crop":
        assert back is square
    else:
        assert max(back.size) == side
        assert abs(back.width - max(1, side * width / max(size))) <= 0.5
        assert abs(back.height - max(1, side * height / max(size))) <= 0.5
    assert (np.asarray(back) == (10, 20, 30)).all()  # no bar is left


def test_pad_bars_are_centred_and_take_the_fill():
    image = Image.new("RGB", (16, 32), (10, 20, 30))
    square = np.asarray(fit_image(image, 32, "pad")[0])
    assert (square[:, 8:24] == (10, 20, 30)).all()
    assert (square[:, :8] == 255).all() and (square[:, 24:] == 255).all()
    assert (np.asarray(fit_image(image, 32, "pad", fill=(0, 0, 0))[0])[:, :8] == 0).all()


def test_undo_works_at_another_resolution():
    image = Image.fromarray(noise(20, 40))
    _, fit = fit_image(image, 128)
    assert fit.undo(Image.new("RGB", (64, 64))).size == (64, 32)


def test_stretch_round_trip_keeps_the_picture():
    ramp = np.broadcast_to(np.linspace(0, 255, 60)[None, :, None], (30, 60, 3)).astype(np.uint8)
    square, fit = fit_image(Image.fromarray(ramp), 60, "stretch")
    assert np.abs(np.asarray(fit.undo(square)).astype(int) - ramp).max() <= 3


def test_crop_takes_the_middle():
    columns = np.broadcast_to(np.arange(48, dtype=np.uint8)[None], (16, 48))
    square, _ = fit_image(Image.fromarray(columns), 16, "crop")
    assert np.array_equal(np.asarray(square)[0], np.arange(16, 32))


def test_fit_of_index_masks_makes_no_new_labels():
    labels = (np.add.outer(np.arange(31), np.arange(57)) // 7 % 2 * 9).astype(np.uint8)
    mask = Image.fromarray(labels)
    mask.putpalette(list(range(30)))
    for mode in ("crop", "pad", "stretch"):
        square, fit = fit_image(mask, 20, mode)
        assert square.mode == "P" and square.getpalette("RGB")[:30] == list(range(30))
        assert set(np.unique(np.asarray(square))) == {0, 9}
        assert set(np.unique(np.asarray(fit.undo(square)))) == {0, 9}


def test_unknown_fit_suggests_the_nearest():
    with pytest.raises(InputError, match="unknown fit 'padd'; did you mean 'pad'"):
        fit_image(Image.new("RGB", (16, 16)), 8, "padd")


@pytest.mark.parametrize(
    "text, line", [("a\nb", "a"), ("\n a", "a"), ("", "OSError"), ("\n", "OSError"), ("abcdef", "abc")]
)
def test_an_error_in_one_line(text, line):
    assert one_line(OSError(text), limit=3 if text == "abcdef" else 120) == line


def test_nearest_name():
    assert nearest("Sketsh", ["sketch", "scribble"]) == "; did you mean 'sketch'?"
    assert nearest("zzz", ["sketch", "scribble"]) == ""


# ---------------------------------------------------------------- writing


def test_png_round_trip_with_metadata(tmp_path):
    path = tmp_path / "new" / "folder" / "a.png"
    write_png(path, noise(), {"seed": "7", "note": "Grüße, 绘"})
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), noise())
        assert image.text == {"seed": "7", "note": "Grüße, 绘"}
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    first = path.read_bytes()
    write_png(path, noise(), {"seed": "7", "note": "Grüße, 绘"})
    assert path.read_bytes() == first


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_text(tmp_path / "a.txt", "ä")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "a.txt").read_bytes() == "ä".encode()


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    """A limit on the size of files stands in for the full disk: the write fails half-way, as it would there."""
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    code = (
        "import resource, sys, numpy as np\n"
        "from sis_rearrange.images import write_png\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)\n"
        "try: write_png(sys.argv[1], noise)\n"
        "except ValueError as error: sys.exit(f'{type(error).__name__}: {error}')\n"
    )
    run = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("InputError: ") and "a.png: cannot be written (File too large)" in run.stderr
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_targets_that_cannot_be_files(tmp_path):
    with pytest.raises(InputError, match="folder"):
        write_bytes(tmp_path, b"x")
    with pytest.raises(InputError, match="device"):
        write_bytes("/dev/null", b"x")
    assert not Path("/dev/null").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "a.bin", b"x")
    with pytest.raises(InputError, match=r"let the name end in \.png"):
        write_png(tmp_path / "a.jpg", noise())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("array", [noise() / 255.0, noise()[..., :2], noise()[None]])
def test_only_uint8_pictures_are_written(tmp_path, array):
    with pytest.raises(TypeError, match="expected uint8"):
        write_png(tmp_path / "a.png", array)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- sheets


def test_contact_sheet_shows_every_picture():
    red, blue = np.full((10, 10, 3), (250, 0, 0), np.uint8), Image.new("RGB", (300, 150), (0, 0, 250))
    sheet = contact_sheet([[red, blue], [blue]], ["one", "two"], ["left", "right"], cell=64, title="A title")
    pixels = np.asarray(sheet).reshape(-1, 3)
    assert sheet.mode == "RGB"
    assert (pixels == (250, 0, 0)).all(1).sum() == 64 * 64
    assert (pixels == (0, 0, 250)).all(1).sum() == 2 * 64 * 32
    assert tuple(pixels[0]) > (240, 240, 240)


def test_contact_sheet_keeps_label_edges_hard():
    labels = np.indices((5, 5)).sum(0).astype(np.uint8) % 2 * 200
    checker = np.repeat(labels[..., None], 3, axis=2)
    values = {}
    for hard in (True, False):
        sheet = contact_sheet([[checker]], cell=64, label_columns=[0] if hard else [])
        values[hard] = len(np.unique(np.asarray(sheet)[12:76, 12:76]))
    assert values[True] == 2 < 20 < values[False]


def test_contact_sheet_titles_change_the_sheet_and_nothing_is_refused():
    cells = [[np.zeros((8, 8), np.uint8)] * 2]
    bare = contact_sheet(cells)
    long = contact_sheet(cells, ["a rather long title of a row"], ["column", "another rather long column title"])
    assert long.width > bare.width and long.height > bare.height
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])


def test_label_strip_shows_every_colour():
    colours = [(200, 10 * k, 30) for k in range(10)]
    strip = label_strip([f"class {k}" for k in range(10)], colours, width=300)
    assert strip.width == 300
    shown = {tuple(c) for c in np.asarray(strip).reshape(-1, 3).tolist()}
    assert shown >= set(colours)


def test_png_bytes_hold_no_temporary_state():
    buffers = [io.BytesIO(), io.BytesIO()]
    for buffer in buffers:
        contact_sheet([[noise()]], ["row"], ["column"]).save(buffer, "PNG")
    assert buffers[0].getvalue() == buffers[1].getvalue()
