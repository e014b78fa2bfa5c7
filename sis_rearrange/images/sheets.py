"""Contact sheets: pictures in a grid with small titles, and the legend of a palette."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from PIL import Image, ImageDraw, ImageFont

from sis_rearrange.images.reading import flatten
from sis_rearrange.images.writing import Picture, as_pil

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
    image = as_pil(picture)
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
