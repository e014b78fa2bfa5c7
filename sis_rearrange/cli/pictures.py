"""Commands that make pictures: demo, generate, synthesize."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sis_rearrange.cli.options import (
    backend_option,
    device_option,
    open_pack,
    out_folder,
    pack_argument,
    parse_seeds,
    psi_option,
    seeds_option,
)
from sis_rearrange.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from sis_rearrange.synthesis import Source, Synthesizer

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SHEET = "contact_sheet.png"
SHEET_ROWS, SHEET_LOOKS, SHEET_SAMPLES = 24, 12, 64  # shown on the contact sheet; the pictures are all written


@click.command(epilog="\b\nExample:\n  sis demo --out out/demo.png")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("out/demo.png"), show_default=True, help="PNG file to write."
)
@click.option("--pack", "pack_name", default="toonhead", show_default=True, help="Name or path of the pack to show.")
@device_option
@backend_option
def demo(out: Path, pack_name: str, device: str, backend: str) -> None:
    """Turn the drawings that a pack ships into pictures, on one sheet."""
    from sis_rearrange.demo import write_demo

    write_demo(open_pack(pack_name), out, device, backend)
    click.echo(f"wrote {out}")


@click.command(epilog="\b\nExample:\n  sis generate toonhead --seeds 0-15 --out out/samples")
@pack_argument
@seeds_option("0-15")
@out_folder
@psi_option
@device_option
@backend_option
def generate(pack_name: str, seeds: list[int], out: Path, psi: float, device: str, backend: str) -> None:
    """Write plain samples of a pack's generator, one PNG per seed, and a contact sheet."""
    from tqdm import tqdm

    from sis_rearrange.images import write_png
    from sis_rearrange.sampling import metadata, sample_images
    from sis_rearrange.sheets import sample_sheet
    from sis_rearrange.whole_graph import for_run

    pack = open_pack(pack_name)
    shown: list[Image.Image] = []
    pictures = sample_images(pack, seeds, psi, device, for_run(backend, len(seeds)))
    for seed, picture in zip(seeds, tqdm(pictures, total=len(seeds), unit="picture", disable=None), strict=True):
        write_png(out / f"seed{seed}.png", picture, metadata(pack, seed, psi))
        if len(shown) < SHEET_SAMPLES:
            shown.append(picture)
    write_png(out / SHEET, sample_sheet(shown, f"{pack.name}: samples, psi {psi:g}"), metadata(pack, psi=psi))
    click.echo(f"wrote {len(seeds)} pictures and {SHEET} to {out}")


@click.command(
    epilog="\b\nExamples:\n"
    "  sis synthesize toonhead --condition sketch drawing.png --seeds 0-3 --out out/sketches\n"
    "  sis synthesize toonhead --condition segmentation masks/ --seeds 7 --fit crop --out out/masks\n"
    "  sis synthesize toonhead --condition exemplar 12 13 --seeds 0-3 --out out/exemplars"
)
@pack_argument
@click.option("--condition", required=True, help="segmentation, sketch, scribble, exemplar (IN: seeds) or proxy.")
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@seeds_option("0-3")
@out_folder
@click.option("--fit", default="pad", show_default=True, help="Drawings that are not square: crop, pad or stretch.")
@click.option(
    "--proxy-masks", is_flag=True, help="Also write each picture's proxy mask, to edit and hand in again as 'proxy'."
)
@psi_option
@device_option
@backend_option
def synthesize(
    pack_name: str,
    condition: str,
    inputs: tuple[str, ...],
    seeds: list[int],
    out: Path,
    fit: str,
    proxy_masks: bool,
    psi: float,
    device: str,
    backend: str,
) -> None:
    """Turn drawings (files, or all images in a folder) into pictures, one PNG per drawing and seed.

    Each seed gives a look. A drawing that cannot be used is reported and the others go on; the exit code is 2 then.
    """
    from sis_rearrange.synthesis import Synthesizer
    from sis_rearrange.whole_graph import for_run

    pack = open_pack(pack_name)
    drawings = _exemplars(inputs) if condition == "exemplar" else _files(inputs, out)
    synth = Synthesizer(pack, device, for_run(backend, len(drawings) * len(seeds)))
    synth.check_request(condition, fit)
    sources = [synth.set_source(seed=seed, psi=psi) for seed in seeds]
    failed = _paint_all(synth, sources, drawings, condition, fit, out, proxy_masks)
    done = len(drawings) - failed
    click.echo(f"wrote {done * len(sources)} pictures of {done} of {len(drawings)} drawings to {out}")
    if failed:
        raise click.exceptions.Exit(2)


def _paint_all(
    synth: Synthesizer,
    sources: list[Source],
    drawings: dict[str, Path | int],
    condition: str,
    fit: str,
    out: Path,
    proxy_masks: bool,
) -> int:
    """Every drawing in every look, and the contact sheet; returns how many drawings could not be used."""
    from tqdm import tqdm

    from sis_rearrange.images import write_png
    from sis_rearrange.sampling import metadata
    from sis_rearrange.sheets import synthesis_sheet

    rows: list[tuple[str, list[Image.Image]]] = []
    failed = 0
    bar = tqdm(drawings.items(), unit="drawing", disable=None)
    for name, drawing in bar:
        try:
            target = synth.read(drawing, condition, fit)
        except InputError as error:
            if len(drawings) == 1:
                raise
            failed += 1
            bar.write(f"Error: {error}", file=sys.stderr)
            continue
        mask = synth.proxy_image(target.labels[0])
        shown: list[Image.Image] = []
        for source in sources:
            result = synth.paint(target, source)
            result.save(out / f"{name}_seed{source.seed}.png")
            if proxy_masks:
                write_png(
                    out / f"{name}_seed{source.seed}_proxy.png", synth.proxy_image(result.proxy_mask), result.metadata
                )
            if len(shown) < SHEET_LOOKS:
                shown.append(result.image)
        if len(rows) < SHEET_ROWS:
            rows.append((name, [target.drawing, mask, *shown]))
    if rows:
        looks = [(f"seed {source.seed}", synth.source_image(source)) for source in sources[:SHEET_LOOKS]]
        sheet = synthesis_sheet(looks, rows, f"{synth.pack.name}: {condition}")
        write_png(out / SHEET, sheet, metadata(synth.pack, psi=sources[0].psi, condition=condition))
    return failed


def _exemplars(inputs: tuple[str, ...]) -> dict[str, Path | int]:
    """Output name -> seed."""
    return {f"exemplar{seed}": seed for text in inputs for seed in parse_seeds(text, "exemplar")}


def _files(inputs: tuple[str, ...], out: Path) -> dict[str, Path | int]:
    """Output name -> path, for files as they are and for the images in folders; names are made unique.

    Raises InputError for a folder without images, and where the pictures would land among the drawings.
    """
    paths: dict[Path, None] = {}
    for path in map(Path, inputs):
        if not path.is_dir():
            paths[path] = None
            continue
        if path.resolve() == out.resolve():
            raise InputError(f"{out}: is a folder of drawings too; choose another one for --out")
        found = [p for p in sorted(path.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
        if not found:
            raise InputError(f"{path}: has no images ({', '.join(IMAGE_SUFFIXES)})")
        paths |= dict.fromkeys(found)
    named: dict[str, Path | int] = {}
    for path in paths:
        name, number = path.stem, 2
        while name in named:
            name, number = f"{path.stem}-{number}", number + 1
        named[name] = path
    return named
