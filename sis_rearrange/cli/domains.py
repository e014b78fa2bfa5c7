"""Commands about the embedded domains: list, render, train a segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sis_rearrange.cli.options import Commands, out_folder

CHUNK_BYTES = 256 * 2**20  # of pictures held at a time
SHEET_PICTURES = 24


@click.group(cls=Commands)
def domains() -> None:
    """Render the embedded domains, and train segmenters on them."""


@domains.command("list", epilog="\b\nExample:\n  sis domains list")
def list_domains() -> None:
    """List the embedded domains with their classes and licences."""
    from sis_rearrange.domains import domain_names, get_domain

    for name in domain_names():
        domain = get_domain(name)
        click.echo(f"{name}: {', '.join(domain.classes)}\n  {domain.credit} ({domain.licence})")


@domains.command(epilog="\b\nExample:\n  sis domains render toonhead --split test --count 64 --size 256 --out out/test")
@click.argument("domain")
@click.option("--split", default="test", show_default=True, help="train, val or test.")
@click.option("--count", type=click.IntRange(1), default=64, show_default=True, help="How many pictures.")
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="How many to skip first.")
@click.option("--size", type=int, default=256, show_default=True, help="Pixels per side.")
@click.option("--workers", type=click.IntRange(0, 64), default=2, show_default=True, help="Processes.")
@out_folder
def render(domain: str, split: str, count: int, start: int, size: int, workers: int, out: Path) -> None:
    """Write pictures, their true part masks as index PNGs, the palette, and a contact sheet."""
    from tqdm import tqdm

    from sis_rearrange.conditions import as_palette
    from sis_rearrange.domains import get_domain, render_many, split_indices
    from sis_rearrange.domains.base import check_request
    from sis_rearrange.images import contact_sheet, write_png, write_text

    chosen = get_domain(domain)
    indices = split_indices(split, count, start)
    check_request(indices[0], size)
    palette = as_palette(chosen.classes, chosen.palette)
    notes = {"domain": chosen.name, "Credit": chosen.credit, "Licence": chosen.licence}
    shown: list[Any] = []  # pictures and masks in turn
    chunk = max(1, CHUNK_BYTES // (4 * size * size))
    bar = tqdm(total=len(indices), unit="picture", disable=None)
    for at in range(0, len(indices), chunk):
        part = indices[at : at + chunk]
        for index, picture, mask in zip(part, *render_many(chosen, part, size, workers), strict=True):
            write_png(out / "images" / f"{index:07d}.png", picture, {**notes, "index": str(index)})
            write_png(out / "masks" / f"{index:07d}.png", palette.to_image(mask), {**notes, "index": str(index)})
            if len(shown) < 2 * SHEET_PICTURES:
                shown += [picture, palette.to_image(mask)]
            bar.update()
    bar.close()
    write_text(out / "palette.json", palette.to_json() + "\n")
    rows = [shown[at : at + 8] for at in range(0, len(shown), 8)]
    write_png(out / "contact_sheet.png", contact_sheet(rows, title=f"{chosen.name}, {split} split"), notes)
    click.echo(f"wrote {len(indices)} pictures with masks to {out}; {chosen.credit}")


@domains.command(
    epilog="\b\nExamples:\n  sis domains palettes\n  sis domains palettes celebamask-hq --out out/palettes"
)
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for NAME.json, to edit, and its legend NAME.png.")
def palettes(name: str | None, out: Path | None) -> None:
    """List the palettes that come with the package, show one (a name or a JSON file), or copy it to a folder."""
    from sis_rearrange.conditions.palette_files import load_palette, palette_names
    from sis_rearrange.images import label_strip, write_png, write_text

    if name is None:
        for known in palette_names():
            click.echo(f"{known}: {len(load_palette(known))} classes")
        return
    palette = load_palette(name)
    if out is None:
        click.echo(palette.to_json())
        return
    stem = Path(name).name.removesuffix(".json")
    write_text(out / f"{stem}.json", palette.to_json() + "\n")
    write_png(out / f"{stem}.png", label_strip(palette.names, palette.colours))
    click.echo(f"wrote {stem}.json and {stem}.png to {out}")


@domains.command(
    "train-segmenter",
    epilog="""\b
Examples:
  sis domains train-segmenter toonhead --role judge --out runs/judge
  # at another size, from the one that ships
  sis domains train-segmenter toonhead --role judge --resolution 128 --resume-from pretrained/toonhead \\
      --images 4000 --steps 400 --out runs/judge128""",
)
@click.argument("domain")
@click.option("--role", type=click.Choice(["judge", "segmenter"]), required=True, help="Disjoint pictures and seeds.")
@click.option("--resolution", type=int, default=64, show_default=True, help="Pixels per side.")
@click.option("--images", type=int, default=16_000, show_default=True, help="Rendered training pictures.")
@click.option("--steps", type=int, default=3_000, show_default=True, help="Optimiser steps.")
@click.option("--batch", type=int, default=32, show_default=True, help="Pictures per step.")
@click.option("--validation", type=int, default=1_000, show_default=True, help="Pictures of the val split to score.")
@click.option("--workers", type=click.IntRange(0, 64), default=2, show_default=True, help="Processes that render.")
@click.option("--resume-from", default="", help="Pack whose network of that role to start from.")
@out_folder
def train_segmenter(
    domain: str,
    role: str,
    resolution: int,
    images: int,
    steps: int,
    batch: int,
    validation: int,
    workers: int,
    resume_from: str,
    out: Path,
) -> None:
    """Train a U-Net on true masks; the same command again resumes. `sis pack add` puts it into a pack."""
    from sis_rearrange.training import segmenter

    config = segmenter.SegmenterConfig(
        resolution=resolution, images=images, steps=steps, batch=batch, validation=validation
    )
    click.echo(f"wrote {segmenter.train_segmenter(domain, out, role, config, workers, resume_from)}")
