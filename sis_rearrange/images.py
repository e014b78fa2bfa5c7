"""Pictures at the file edge: careful reading, square fits that can be undone, writing whole or not at all, sheets.

Everything here is PIL images and uint8 arrays ``[H, W]`` or ``[H, W, 3]``; the tensor side lives in `tensors`.
"""

from __future__ import annotations

import io
import os
import secrets
import stat
import struct
import warnings
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from sis_rearrange.errors import InputError, nearest

MAX_PIXELS = 64_000_000
MIN_SIDE = 8
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # rasters only: no format that runs a program or a language
FITS = ("crop", "pad", "stretch")

# What Pillow's decoders raise on damaged files, found by feeding them damaged files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)

Source = str | os.PathLike[str] | Image.Image | np.ndarray
Picture = Image.Image | np.ndarray


# ---------------------------------------------------------------- reading


def read_image(src: Source) -> Image.Image:
    """Read a path, PIL image or array into mode "RGB", "RGBA", "L" or "P" (kept, so that index masks stay indices).

    Files: PNG, JPEG, WebP, BMP, GIF or TIFF; the first frame, upright by its EXIF orientation. 16-bit values are scaled
    to 8 bits, unless none is over 255: then they are 8-bit values stored wide, as label masks often are. CMYK becomes
    RGB; any transparency ends up in "RGBA" (or in the info of a "P"). Arrays: ``[H, W]``, ``[H, W, 1|3|4]``; bool,
    integers as above, or floats in [0, 1] or [0, 255].

    Raises InputError, naming the file: missing, folder, empty, damaged, no image, sides under `MIN_SIDE`, or more than
    `MAX_PIXELS` pixels (seen in the header, before anything is decoded).
    """
    if isinstance(src, np.ndarray):
        return _from_array(src)
    if isinstance(src, Image.Image):
        _check_size("image", src.size)
        return _normalise(src, "image")
    if isinstance(src, str | os.PathLike):
        return _read_file(Path(src))
    raise InputError(f"expected a path, a PIL image or a numpy array, got {type(src).__name__}")


def flatten(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Mode "RGB" with whatever is transparent laid over ``background``."""
    if image.mode == "RGBA" or image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (*background, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def _show(path: Path) -> str:
    """The path as one printable line."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: {width}x{height} pixels are too many (limit {MAX_PIXELS:,} in all); scale it down")
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{name}: {width}x{height} pixels are too few; both sides need at least {MIN_SIDE}")


def _read_file(path: Path) -> Image.Image:
    name = _show(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name}: is a folder; name an image file")
    if not stat.S_ISREG(status.st_mode):  # a pipe or device could block or never end
        raise InputError(f"{name}: is not a regular file")
    if status.st_size == 0:
        raise InputError(f"{name}: the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; whatever matters is raised below
        try:
            return _decode(path, name)
        except Image.UnidentifiedImageError:
            raise InputError(f"{name}: not an image in a known format ({', '.join(FORMATS)})") from None
        except Image.DecompressionBombError:
            raise InputError(f"{name}: too many pixels (limit {MAX_PIXELS:,} in all); scale it down") from None
        except InputError:
            raise
        except PermissionError:
            raise InputError(f"{name}: cannot be read (permission denied)") from None
        except MemoryError:
            raise InputError(f"{name}: not enough memory to decode it") from None
        except _DAMAGE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{name}: the image is damaged or truncated ({reason})") from None


def _decode(path: Path, name: str) -> Image.Image:
    with path.open("rb") as stream, Image.open(stream, formats=FORMATS) as image:
        _check_size(name, image.size)
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except _DAMAGE:  # EXIF is a remark beside the picture: a broken one does not spoil it
            upright = image.copy()
        return _normalise(upright, name)


def _normalise(image: Image.Image, name: str) -> Image.Image:
    """Bring a decoded image to one of the four modes; a new image, never the caller's."""
    mode = image.mode
    if mode == "P" or (mode in ("RGBA", "RGB", "L") and "transparency" not in image.info):
        return image.copy()
    if mode in ("RGB", "L", "LA", "PA", "La", "RGBa"):
        return image.convert("LA").convert("RGBA") if mode == "La" else image.convert("RGBA")
    if mode == "1":
        return image.convert("L")
    if mode.startswith(("I", "F")):
        return Image.fromarray(_to_8bit(np.asarray(image), name))
    try:
        return image.convert("RGB")  # CMYK, YCbCr, HSV
    except ValueError:
        raise InputError(f"{name}: colour mode {mode} is not supported; save it as RGB") from None


def _to_8bit(values: np.ndarray, name: str) -> np.ndarray:
    """Numbers of any type as uint8: see `read_image` for the ranges."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise InputError(f"{name}: values of type {values.dtype} are no pixels; use uint8")
    low, high = values.min(), values.max()
    if not (low >= 0 and np.isfinite(high)):  # also catches NaN
        raise InputError(f"{name}: pixel values from {low} to {high}; use uint8")
    if values.dtype.kind == "f" and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    if high <= 255:
        return np.rint(values).astype(np.uint8)
    if high <= 65535 and values.dtype.kind != "f":
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise InputError(f"{name}: pixel values up to {high}; use uint8")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"array of shape {list(array.shape)}: expected [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]")
    _check_size("array", (array.shape[1], array.shape[0]))
    values = _to_8bit(array, "array")
    return Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2:] == (1,) else values))


# ---------------------------------------------------------------- square fits


@dataclass(frozen=True)
class Fit:
    """How an image of ``size`` (height, width) was made square; `undo` gives a square result its aspect ratio back."""

    mode: str
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.mode not in FITS:
            raise InputError(f"unknown fit '{self.mode}'{nearest(self.mode, FITS)} (one of {', '.join(FITS)})")

    def inner(self, side: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the drawing inside a padded square of ``side`` pixels."""
        height, width = (max(1, round(side * length / max(self.size))) for length in self.size)
        left, top = (side - width) // 2, (side - height) // 2
        return left, top, left + width, top + height

    def undo(self, result: Image.Image, resample: Image.Resampling | None = None) -> Image.Image:
        """A square result of any size -> the drawing's aspect ratio, the longer side as long as the result's.

        "pad": the bars are cut off; "stretch": un-stretched; "crop": the result as it is, since what was cut is gone.
        """
        if self.mode == "crop":
            return result
        left, top, right, bottom = self.inner(result.width)
        if self.mode == "pad":
            return result.crop((left, top, right, bottom))
        return result.resize((right - left, bottom - top), _resampling(result, resample))


def fit_image(
    image: Image.Image,
    size: int,  # side of the square to make, in pixels
    mode: str = "pad",  # "crop" the middle, "pad" with bars, or "stretch"
    fill: int | tuple[int, ...] | None = None,  # pixel value of the bars; None: white (index 0 in mode "P")
    resample: Image.Resampling | None = None,  # None: nearest in mode "P", otherwise Lanczos
) -> tuple[Image.Image, Fit]:
    """Make an image ``size`` x ``size``, same mode, and say how. Scales before it pads: long strips cost no memory."""
    fit = Fit(mode, (image.height, image.width))
    resample = _resampling(image, resample)
    if mode == "stretch":
        return image.resize((size, size), resample), fit
    if mode == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.resize((size, size), resample, box=(left, top, left + side, top + side)), fit
    left, top, right, bottom = fit.inner(size)
    inner = image.resize((right - left, bottom - top), resample)
    if fill is None:
        bands = len(image.getbands())
        fill = 0 if image.mode == "P" else 255 if bands == 1 else (255,) * bands
    square = Image.new(image.mode, (size, size), fill)
    if image.mode == "P":
        square.putpalette(image.getpalette("RGB") or [], "RGB")
    square.info.update(image.info)
    square.paste(inner, (left, top))
    return square, fit


def _resampling(image: Image.Image, wanted: Image.Resampling | None) -> Image.Resampling:
    if wanted is not None:
        return wanted
    return Image.Resampling.NEAREST if image.mode == "P" else Image.Resampling.LANCZOS


# ---------------------------------------------------------------- writing


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all, making its folder; InputError (full disk, no permission) leaves nothing."""
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # same folder, so that os.replace is atomic
    try:
        if path.exists() and not path.is_file():  # as root, os.replace would put a file over a device
            raise InputError(f"{_show(path)}: is a folder or device; name a file to write")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{_show(path)}: cannot be written ({error.strerror or error})") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_png(path: str | os.PathLike[str], image: Picture, metadata: Mapping[str, str] | None = None) -> None:
    """Write a PIL image or a uint8 array as PNG, whole or not at all, with ``metadata`` as its text entries.

    Same picture and metadata, same bytes. InputError for a name that does not end in .png, and as `write_bytes`.
    """
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"{_show(Path(path))}: pictures are written as PNG; let the name end in .png")
    texts = PngInfo()
    for key, value in (metadata or {}).items():
        texts.add_text(key, value)
    buffer = io.BytesIO()
    _as_pil(image).save(buffer, format="PNG", pnginfo=texts)
    write_bytes(path, buffer.getvalue())


def _as_pil(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))):
        raise TypeError(f"expected uint8 [H, W], [H, W, 3] or [H, W, 4], got {picture.dtype} {list(picture.shape)}")
    return Image.fromarray(np.ascontiguousarray(picture))


# ---------------------------------------------------------------- sheets

_PAPER, _INK, _LINE, _EMPTY = (252, 252, 250), (55, 60, 68), (214, 217, 222), (242, 242, 239)
_GAP = 6


def contact_sheet(
    rows: Sequence[Sequence[Picture | None]],  # pictures; None leaves a cell empty; rows may be of unequal length
    row_titles: Sequence[str] | None = None,  # at the left, one per row
    column_titles: Sequence[str] | None = None,  # on top, one per column
    cell: int = 128,  # side of a cell in pixels; pictures are scaled to it, their aspect ratio kept
    label_columns: Collection[int] = (),  # columns of label pictures: hard edges stay hard, as in mode "P" everywhere
    title: str | None = None,  # one line above everything
) -> Image.Image:
    """Pictures in a grid with small titles, on light paper, mode "RGB"."""
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise ValueError("a contact sheet needs at least one picture")
    font, bold = ImageFont.load_default(size=12), ImageFont.load_default(size=14)
    sides = [_wrap(text, font, 110) for text in row_titles or ()]
    tops = [_wrap(text, font, cell) for text in column_titles or ()]
    x0 = 2 * _GAP + (max((_text_size(text, font)[0] for text in sides), default=-_GAP) + _GAP)
    y_tops = 2 * _GAP + (_text_size(title, bold)[1] + 2 * _GAP if title else 0)
    y0 = y_tops + max((_text_size(text, font)[1] + _GAP for text in tops), default=0)
    pitch = cell + _GAP
    width = max(x0 + columns * pitch + _GAP, _text_size(title, bold)[0] + 4 * _GAP if title else 0)
    sheet = Image.new("RGB", (width, y0 + len(rows) * pitch + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((2 * _GAP, 2 * _GAP), title, _INK, bold)
    for c, text in enumerate(tops[:columns]):
        draw.multiline_text((x0 + c * pitch + cell // 2, y0 - _GAP), text, _INK, font, anchor="md", align="center")
    for r, text in enumerate(sides[: len(rows)]):
        draw.multiline_text((2 * _GAP, y0 + r * pitch + cell // 2), text, _INK, font, anchor="lm")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            _paste_cell(sheet, draw, (x0 + c * pitch, y0 + r * pitch), cell, picture, c in label_columns)
    return sheet


def label_strip(names: Sequence[str], colours: Sequence[Sequence[int]], width: int = 800) -> Image.Image:
    """Legend of a palette: a swatch and a name per class, wrapped to ``width`` pixels, mode "RGB"."""
    font, swatch = ImageFont.load_default(size=12), 14
    places, x, y = [], 2 * _GAP, _GAP
    for name in names:
        step = swatch + _GAP + _text_size(name, font)[0] + 3 * _GAP
        if x > 2 * _GAP and x + step > width:
            x, y = 2 * _GAP, y + swatch + _GAP
        places.append((x, y))
        x += step
    strip = Image.new("RGB", (width, y + swatch + _GAP), _PAPER)
    draw = ImageDraw.Draw(strip)
    for name, colour, (x, y) in zip(names, colours, places, strict=True):
        red, green, blue = (int(v) for v in colour)
        draw.rectangle((x, y, x + swatch - 1, y + swatch - 1), (red, green, blue), _LINE)
        draw.text((x + swatch + _GAP, y + swatch // 2), name, _INK, font, anchor="lm")
    return strip


def _paste_cell(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, at: tuple[int, int], cell: int, picture: Picture | None, labels: bool
) -> None:
    x, y = at
    draw.rectangle((x - 1, y - 1, x + cell, y + cell), _EMPTY, _LINE)
    if picture is None:
        return
    image = _as_pil(picture)
    hard = Image.Resampling.NEAREST if labels or image.mode == "P" else Image.Resampling.LANCZOS
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    sheet.paste(flatten(image).resize(size, hard), (x + (cell - size[0]) // 2, y + (cell - size[1]) // 2))


def _text_size(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Width and height in pixels of a text that may have several lines."""
    left, _, right, _ = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font)
    return round(right - left), 16 * (text.count("\n") + 1)


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """Break a title between words so that no line is wider than ``width`` pixels, where words allow it."""
    lines: list[str] = []
    for word in text.split():
        if lines and _text_size(f"{lines[-1]} {word}", font)[0] <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)
