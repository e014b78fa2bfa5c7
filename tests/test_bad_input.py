"""One test for each kind of bad input, through the command line: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import resource
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import SIDE, tiny_head
from PIL import Image

from sis_rearrange.cli import main
from sis_rearrange.pack import Pack


class Desk:
    """A folder with drawings, an output folder that does not exist yet, and the command to try."""

    def __init__(self, folder: Path, pack: Pack) -> None:
        self.folder, self.pack, self.out = folder, pack, folder / "out"

    def run(self, *inputs: str | Path, condition: str = "sketch", pack: str | Path = "", fit: str = "pad") -> Result:
        args = ["synthesize", pack or self.pack.path, "--condition", condition, *inputs, "--seeds", "3", "--fit", fit]
        return CliRunner().invoke(main, [*map(str, args), "--out", str(self.out), "--device", "cpu"])

    def refuses(self, result: Result, *words: str) -> None:
        assert result.exit_code == 2, result.output
        assert isinstance(result.exception, SystemExit), result.exception
        lines = result.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
        for word in words:
            assert word in lines[0], f"{word!r} not in {lines[0]!r}"
        assert result.stdout == ""
        assert self.written() == []

    def accepts(self, result: Result) -> Image.Image:
        """The one picture that was written."""
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        pictures = [name for name in self.written() if "seed3" in name]
        assert len(pictures) == 1 and "contact_sheet.png" in self.written()
        with Image.open(self.out / pictures[0]) as image:
            image.load()
        return image

    def written(self) -> list[str]:
        return sorted(p.name for p in self.out.rglob("*")) if self.out.exists() else []

    def save(self, name: str, image: Image.Image | np.ndarray) -> Path:
        path = self.folder / name
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)
        return path


@pytest.fixture
def desk(tmp_path: Path, tiny_pack: Pack) -> Desk:
    return Desk(tmp_path, tiny_pack)


def sketch(pack: Pack, side: int = 64) -> Image.Image:
    with Image.open(pack.file("drawings/sketch-1.png")) as image:
        return image.convert("L").resize((side, side))


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly anything."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


# ---------------------------------------------------------------- files that are no drawings


def test_missing_file(desk):
    desk.refuses(desk.run(desk.folder / "nowhere.png"), "nowhere.png", "no such file")


def test_truncated_file(desk):
    whole = desk.pack.file("drawings/sketch-1.png").read_bytes()
    path = desk.folder / "half.png"
    path.write_bytes(whole[: len(whole) // 2])
    desk.refuses(desk.run(path), "half.png", "damaged or cut off")


def test_file_that_is_no_image(desk):
    path = desk.folder / "notes.png"
    path.write_text("to do: draw something")
    desk.refuses(desk.run(path), "notes.png", "not a picture", "PNG, JPEG")


def test_folder_without_images(desk):
    (desk.folder / "empty").mkdir()
    desk.refuses(desk.run(desk.folder / "empty"), "empty", "has no images")


# ---------------------------------------------------------------- masks that name no part


def test_mask_with_colours_outside_the_palette(desk):
    picture, labels = tiny_head(64)
    picture = picture.copy()
    picture[labels == desk.pack.classes.index("skin")] = (1, 255, 2)
    path = desk.save("green.png", picture)
    desk.refuses(desk.run(path, condition="segmentation"), "green.png", "#01ff02", "outside the palette", "skin #")


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_black_and_white_mask(desk, mode):
    _, labels = tiny_head(64)
    path = desk.save("mask.png", Image.fromarray((labels > 0).astype(np.uint8) * 255).convert(mode))
    desk.refuses(desk.run(path, condition="segmentation"), "mask.png", "black-and-white", "0..9")


# ---------------------------------------------------------------- unusual modes are read for what they show


def test_alpha(desk):
    ink = np.asarray(sketch(desk.pack))
    rgba = np.zeros((*ink.shape, 4), np.uint8)
    rgba[..., 3] = 255 - ink
    plain = desk.accepts(desk.run(desk.save("plain.png", ink)))
    shutil.rmtree(desk.out)
    assert np.array_equal(np.asarray(desk.accepts(desk.run(desk.save("alpha.png", rgba)))), np.asarray(plain))


def test_16_bit(desk):
    ink = np.asarray(sketch(desk.pack))
    plain = desk.accepts(desk.run(desk.save("plain.png", ink)))
    shutil.rmtree(desk.out)
    deep = desk.save("deep.png", ink.astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(desk.accepts(desk.run(deep))), np.asarray(plain))
    shutil.rmtree(desk.out)
    wide = desk.save("mask.png", tiny_head(64)[1].astype(np.uint16))  # labels as they are, stored wide
    desk.accepts(desk.run(wide, condition="segmentation"))


def test_cmyk(desk):
    ink = sketch(desk.pack)
    ink.convert("CMYK").save(desk.folder / "print.jpg", quality=95)
    desk.accepts(desk.run(desk.folder / "print.jpg"))


def test_modes_that_do_not_fit_the_condition(desk):
    scaled = (tiny_head(64)[1] > 0).astype(np.uint16) * 65535
    desk.refuses(desk.run(desk.save("deep.png", scaled), condition="segmentation"), "deep.png", "black-and-white")


# ---------------------------------------------------------------- sizes


def test_1x1(desk):
    desk.refuses(desk.run(desk.save("dot.png", np.zeros((1, 1), np.uint8))), "dot.png", "1x1", "too few")


def test_20000x20000(desk):
    path = desk.folder / "huge.png"
    path.write_bytes(png_of(20_000, 20_000))
    desk.refuses(desk.run(path), "huge.png", "20000x20000", "too many", "scale it down")


@pytest.mark.parametrize(
    ("condition", "canvas", "word"),
    [
        ("sketch", np.full((64, 64), 255, np.uint8), "empty"),
        ("scribble", np.full((64, 64, 3), 255, np.uint8), "empty"),
        ("segmentation", np.zeros((64, 64), np.uint8), "empty"),
    ],
)
def test_empty_drawing(desk, condition, canvas, word):
    desk.refuses(desk.run(desk.save("blank.png", canvas), condition=condition), "blank.png", word)


@pytest.mark.parametrize(("fit", "size"), [("pad", (16, 32)), ("stretch", (16, 32)), ("crop", (32, 32))])
def test_drawing_that_is_not_square(desk, fit, size):
    assert SIDE == 32
    tall = sketch(desk.pack, 96).crop((24, 0, 72, 96))
    assert desk.accepts(desk.run(desk.save("tall.png", tall), fit=fit)).size == size


def test_unknown_fit(desk):
    path = desk.save("a.png", sketch(desk.pack))
    desk.refuses(desk.run(path, fit="strech"), "unknown fit 'strech'", "did you mean 'stretch'?")


# ---------------------------------------------------------------- packs and names


def test_pack_with_a_changed_byte(desk):
    folder = shutil.copytree(desk.pack.path, desk.folder / "pack")
    data = bytearray((folder / "generator.safetensors").read_bytes())
    data[-100] ^= 1
    (folder / "generator.safetensors").write_bytes(data)
    path = desk.save("a.png", sketch(desk.pack))
    desk.refuses(desk.run(path, pack=folder), "generator.safetensors", "was changed", "copy the pack again")


def test_unknown_condition(desk):
    path = desk.save("a.png", sketch(desk.pack))
    desk.refuses(desk.run(path, condition="sketsh"), "unknown condition 'sketsh'", "did you mean 'sketch'?")


def test_unknown_pack(desk):
    path = desk.save("a.png", sketch(desk.pack))
    desk.refuses(desk.run(path, pack="toonhed"), "unknown pack 'toonhed'", "did you mean 'toonhead'?")


def test_unknown_option(desk):
    result = CliRunner().invoke(main, ["synthesize", "toonhead", "--sees", "3"])
    desk.refuses(result, "No such option", "sis synthesize --help")


@pytest.mark.parametrize(
    ("seeds", "words"), [("3-1", "backwards"), ("a", "0-3,7"), ("0-99999999", "10,000"), ("-1", "0-3,7"), ("", "0-3,7")]
)
def test_seeds(desk, seeds, words):
    path = desk.save("a.png", sketch(desk.pack))
    args = [
        "synthesize",
        str(desk.pack.path),
        "--condition",
        "sketch",
        str(path),
        f"--seeds={seeds}",
        "--out",
        str(desk.out),
    ]
    desk.refuses(CliRunner().invoke(main, args), f"seeds '{seeds}'", words)


# ---------------------------------------------------------------- the disk


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes beyond ``size`` bytes fail half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk(desk):
    path = desk.save("a.png", sketch(desk.pack))
    with largest_file(1000):
        result = desk.run(path)
    desk.refuses(result, "a_seed3.png", "cannot be written")


def test_output_that_cannot_be_made(desk):
    desk.out.write_text("a file where the folder should be")
    result = desk.run(desk.save("a.png", sketch(desk.pack)))
    desk.refuses(result, "is a file")
    assert desk.out.read_text() == "a file where the folder should be"


# ---------------------------------------------------------------- one among many


def test_a_bad_file_among_good_ones(desk):
    folder = desk.folder / "drawings"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        sketch(desk.pack).save(folder / name)
    (folder / "b.png").write_text("no image")
    result = desk.run(folder)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1 and "b.png: not a picture" in result.stderr
    assert desk.written() == ["a_seed3.png", "c_seed3.png", "contact_sheet.png"]
    assert "2 of 3 drawings" in result.stdout


def test_output_among_the_drawings(desk):
    desk.out.mkdir()
    sketch(desk.pack).save(desk.out / "a.png")
    result = desk.run(desk.out)
    assert result.exit_code == 2 and "choose another" in result.stderr
    assert desk.written() == ["a.png"]
