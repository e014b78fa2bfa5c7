#!/usr/bin/env python
"""The sheet of docs/editing.md: held-out renders inverted and edited by their part masks, and one that does not belong.

python benchmarks/editing_sheet.py toonhead --out docs/images/editing.png
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image, ImageDraw

from sis_rearrange.cli.options import OneLine, open_pack
from sis_rearrange.domains import get_domain, render_many, split_indices
from sis_rearrange.editing import Editor, Look, edit, own_masks, read_change
from sis_rearrange.images import contact_sheet, write_png
from sis_rearrange.inversion import Crop, Inversion, error_picture, invert
from sis_rearrange.inversion.crops import square_tensor
from sis_rearrange.tensors import to_uint8

SIDE = 256  # pixels of the pictures
OUTSIDE = "critters"  # the domain of the picture that does not belong
COLUMNS = ["picture", "W+", "tuned", "long hair", "eyes lower", "bigger ears", "a bow"]

Masks = np.ndarray  # labels [h, w] of part classes
Canvas = ImageDraw.ImageDraw


def _box(inside: Masks) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the true pixels."""
    ys, xs = np.nonzero(inside)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def _painted(
    labels: Masks, label: int, draw: Callable[[ImageDraw.ImageDraw], None], over: Masks | None = None
) -> Masks:
    """Labels with a shape painted on; ``over``: only where this is true."""
    canvas = Image.new("L", (labels.shape[1], labels.shape[0]))
    draw(ImageDraw.Draw(canvas))
    where = np.asarray(canvas) > 0
    return np.where(where if over is None else where & over, label, labels).astype(np.uint8)


def long_hair(labels: Masks, number: dict[str, int]) -> Masks:
    """Locks of hair down both sides."""
    left, top, right, bottom = _box(np.isin(labels, [number["hair"], number["skin"]]))
    wide, middle, low = labels.shape[0] // 11, (top + bottom) // 2, labels.shape[0] * 4 // 5
    free = np.isin(labels, [number["background"], number["rear_hair"], number["clothes"]])

    def locks(draw: Canvas) -> None:
        for x in (left, right):
            draw.rounded_rectangle((x - wide, middle - 2 * wide, x + wide, low), wide, fill=255)

    return _painted(labels, number["hair"], locks, free)


def eyes_lower(labels: Masks, number: dict[str, int]) -> Masks:
    """Eyes and brows moved down by a fifteenth of the picture; skin where they were."""
    moved, by = labels.copy(), labels.shape[0] // 15
    eyes = np.isin(labels, [number["eyes"], number["eyebrows"]])
    moved[eyes] = number["skin"]
    there = np.roll(eyes, by, axis=0)
    moved[there] = np.roll(labels, by, axis=0)[there]
    return moved


def bigger_ears(labels: Masks, number: dict[str, int]) -> Masks:
    """Round ears as no sample has them, beside the eyes."""
    left, _, right, _ = _box(labels == number["skin"])
    eyes = labels == number["eyes"]
    y = int(np.nonzero(eyes)[0].mean()) if eyes.any() else labels.shape[0] // 2
    r = labels.shape[0] // 11
    free = ~np.isin(labels, [number["hair"], number["clothes"]])

    def ears(draw: Canvas) -> None:
        for x in (left - r // 3, right + r // 3):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)

    return _painted(labels, number["skin"], ears, free)


def bow(labels: Masks, number: dict[str, int]) -> Masks:
    """A bow of the clothes' stuff in the hair: a part in a place where no sample has it."""
    left, top, right, _ = _box(np.isin(labels, [number["hair"], number["skin"]]))
    x, y, r = left + (right - left) // 4, top + labels.shape[0] // 20, labels.shape[0] // 9

    def wings(draw: Canvas) -> None:
        for side in (-r, r):
            draw.polygon([(x, y), (x + side, y - r * 2 // 3), (x + side, y + r * 2 // 3)], fill=255)

    return _painted(labels, number["clothes"], wings)


EDITS = (long_hair, eyes_lower, bigger_ears, bow)


def _shown(look: Look) -> Image.Image:
    return Image.fromarray(to_uint8(look.picture())[0])


def two_rows(editor: Editor, picture: Image.Image, found: Inversion) -> list[list[Image.Image | None]]:
    """A picture, its inversions and edits; below them the error map and the part masks asked for."""
    untuned = Inversion(**{**vars(found), "delta": {}})
    look, crop = editor.look(found), Crop.middle(picture)
    target = square_tensor(picture, editor.pack.resolution)
    own = own_masks(editor, look, target)["parts"]
    upper: list[Image.Image | None] = [picture, _shown(editor.look(untuned)), _shown(look)]
    lower: list[Image.Image | None] = [own, own_masks(editor, look, target)["proxy"], error_picture(found, picture)]
    palette = editor.pack.palette()
    assert palette is not None
    number = {name: label for label, name in enumerate(editor.pack.classes)}
    for change_mask in EDITS:
        mask = palette.to_image(change_mask(np.asarray(own), number))
        change = read_change(editor, look, target, mask, "parts")
        upper.append(edit(editor, look, picture, crop, change).image)
        lower.append(mask)
    return [upper, lower]


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("pack_name", metavar="PACK")
@click.option("--pictures", default=2, help="Renders of the test split.")
@click.option("--first", default=4, help="Of the test split, to leave out.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="PNG file to write.")
def main(pack_name: str, pictures: int, first: int, out: Path) -> None:
    """Write the sheet; the pictures are the first ones of the split, whatever becomes of them."""
    pack = open_pack(pack_name)
    editor = Editor(pack, "cpu")
    renders, _ = render_many(get_domain(pack.info["domain"]), split_indices("test", pictures, first), SIDE, workers=1)
    rows: list[list[Image.Image | None]] = []
    titles: list[str] = []
    for render in renders:
        picture = Image.fromarray(render)
        found = invert(pack, picture)
        rows += two_rows(editor, picture, found)
        titles += [f"{found.scores['psnr_latent']:.1f} dB, tuned {found.psnr:.1f} dB", "masks; error map"]
        click.echo(found.describe())
    stranger = Image.fromarray(render_many(get_domain(OUTSIDE), split_indices("test", 1), SIDE, workers=1)[0][0])
    found = invert(pack, stranger)
    click.echo(f"{OUTSIDE}: {found.describe()}, outside: {found.outside}")
    with torch.inference_mode():
        untuned = _shown(editor.look(Inversion(**{**vars(found), "delta": {}})))
    rows.append([stranger, untuned, _shown(editor.look(found)), error_picture(found, stranger)])
    titles.append("outside the domain: a warning, and this error map")
    title = f"{pack.name}: held-out renders inverted, and edited by their part masks"
    write_png(out, contact_sheet(rows, titles, COLUMNS, label_columns=(), title=title))
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
