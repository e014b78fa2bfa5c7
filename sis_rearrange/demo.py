"""The demo sheet: what one pack does, at a glance. Layouts go down, looks go across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sis_rearrange.errors import InputError
from sis_rearrange.images import flatten, read_image, write_png
from sis_rearrange.pack import Pack
from sis_rearrange.sampling import metadata
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.whole_graph import for_run

LOOKS = (33, 61, 54, 4)  # seeds of the four looks
EXEMPLAR = 24  # seed of the sample whose layout the last row takes
NAMES = {"segmentation": "segmentation mask", "sketch": "sketch", "scribble": "scribble", "exemplar": "another sample"}

_PAPER, _INK, _FAINT, _LINE = (252, 252, 250), (40, 44, 52), (110, 116, 126), (206, 210, 216)
_GAP, _MARGIN, _SIDE = 8, 24, 128  # pixels; _SIDE is the width of the row titles


@dataclass(frozen=True)
class Row:
    """One layout in all looks."""

    title: str
    drawing: Image.Image
    proxy_mask: Image.Image
    results: Sequence[Image.Image]


def write_demo(pack: Pack, out: Path, device: str = "auto", backend: str = "auto") -> None:
    """Paint the drawings that the pack ships and a sample's layout in four looks, and write the sheet as PNG.

    "auto" is torch here: sixteen pictures are painted before an engine has started. Raises InputError for a pack
    without drawings, and where the file cannot be written.
    """
    chosen = _choose_drawings(pack)
    synth = Synthesizer(pack, device, for_run(backend, (len(chosen) + 1) * len(LOOKS)))
    sources = [synth.set_source(seed=seed) for seed in LOOKS]
    looks = [synth.source_image(source) for source in sources]
    layouts: list[tuple[str, Path | int]] = [*chosen.items(), ("exemplar", EXEMPLAR)]
    rows = []
    for condition, drawing in layouts:
        target = synth.read(drawing, condition)
        results = [synth.paint(target, source).image for source in sources]
        shown = target.drawing if isinstance(drawing, int) else flatten(read_image(drawing))
        rows.append(Row(NAMES.get(condition, condition), shown, synth.proxy_image(target.labels[0]), results))
    notes = {"looks": ", ".join(map(str, LOOKS)), "exemplar": str(EXEMPLAR)}
    notes["drawings"] = ", ".join(path.name for path in chosen.values())
    write_png(out, demo_sheet(pack, looks, rows), {**metadata(pack, psi=sources[0].psi), **notes})


def _choose_drawings(pack: Pack) -> dict[str, Path]:
    """One shipped drawing for each condition that has any; different people as far as there are."""
    chosen: dict[str, Path] = {}
    for condition in ("segmentation", "sketch", "scribble"):
        shipped = [name for name in pack.drawings() if Path(name).name.startswith(f"{condition}-")]
        if shipped and condition in pack.conditions():
            chosen[condition] = pack.file(shipped[len(chosen) % len(shipped)])
    if not chosen:
        raise InputError(f"pack {pack.name!r} ships no drawings to show; add some with `sis pack add-drawings`")
    return chosen


def demo_sheet(pack: Pack, looks: Sequence[Image.Image], rows: Sequence[Row]) -> Image.Image:
    """Lay the demo out: the looks on top of their columns, below them one row for each layout. Mode "RGB"."""
    cell = max(160, min(192, 3 * pack.resolution))
    pitch = cell + _GAP
    left = _MARGIN + _SIDE  # of the drawings
    right = left + 2 * pitch + 3 * _GAP  # of the results
    top = _MARGIN + 62  # of the looks
    first = top + pitch + 62  # of the rows
    width = right + len(looks) * pitch - _GAP + _MARGIN
    sheet = Image.new("RGB", (width, first + len(rows) * pitch - _GAP + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    big, font, small = (ImageFont.load_default(size=size) for size in (24, 15, 12))

    # Words
    draw.text((_MARGIN, _MARGIN), "Draw a layout, keep the look", _INK, big)
    explanation = (
        f"Domain pack {pack.name}, {pack.resolution} x {pack.resolution} pixels.\n"
        "Each drawing on the left is read as a proxy mask.\n"
        "The features of a look are rearranged after it:\n"
        "parts stand where the drawing has them,\n"
        "colours and style are the look's."
    )
    draw.multiline_text((_MARGIN, top + 8), explanation, _FAINT, font, spacing=8)
    draw.text((right, top - 26), "Looks: four samples of the generator", _INK, font)
    for title, x in (("drawing", left), ("proxy mask", left + pitch)):
        draw.text((x, first - 26), title, _INK, font)
    draw.text((right, first - 26), "Results: each layout in each look", _INK, font)

    # Pictures
    for column, look in enumerate(looks):
        _paste(sheet, draw, (right + column * pitch, top), cell, look, _INK)
        draw.text(
            (right + column * pitch + cell // 2, top + cell + 5), f"seed {LOOKS[column]}", _FAINT, small, anchor="ma"
        )
    for number, row in enumerate(rows):
        y = first + number * pitch
        draw.multiline_text((_MARGIN, y + cell // 2), row.title.replace(" ", "\n"), _INK, font, anchor="lm")
        _paste(sheet, draw, (left, y), cell, row.drawing)
        _paste(sheet, draw, (left + pitch, y), cell, row.proxy_mask)
        for column, result in enumerate(row.results):
            _paste(sheet, draw, (right + column * pitch, y), cell, result)
    return sheet


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    cell: int,
    picture: Image.Image,
    frame: tuple[int, int, int] = _LINE,
) -> None:
    hard = picture.mode == "P"
    resample = Image.Resampling.NEAREST if hard else Image.Resampling.BICUBIC
    draw.rectangle((at[0] - 1, at[1] - 1, at[0] + cell, at[1] + cell), outline=frame)
    sheet.paste(flatten(picture).resize((cell, cell), resample), at)
