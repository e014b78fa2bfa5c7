"""Commands that make pictures: demo, generate, synthesize."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sis_rearrange.cli.invert import read_sources, source_option, unless_sources
from sis_rearrange.cli.options import (
    backend_option,
    device_option,
    open_pack,
    out_folder,
    own_conditions,
    pack_argument,
    parse_seeds,
    psi_option,
    seeds_option,
)
from sis_rearrange.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from sis_rearrange.inversion import Inversion
    from sis_rearrange.pack import Pack
    from sis_rearrange.synthesis import Synthesizer
    from sis_rearrange.targets import Layouts, Target
    from sis_rearrange.whole_graph import Source

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SEEDS = re.compile(r"[0-9,\s-]+")  # what looks like seeds rather than a file
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


@click.command(
    epilog="\b\nExamples:\n"
    "  sis generate toonhead --seeds 0-15 --out out/samples\n"
    "  sis generate toonhead --source out/photo.safetensors --out out/photo"
)
@pack_argument
@seeds_option("0-15")
@out_folder
@source_option
@psi_option
@device_option
@backend_option
def generate(
    pack_name: str, seeds: list[int], out: Path, files: tuple[Path, ...], psi: float, device: str, backend: str
) -> None:
    """Write plain samples of a pack's generator, one PNG per seed, and a contact sheet.

    A --source is shown as the generator, tuned if the inversion tuned it, has the picture.
    """
    from tqdm import tqdm

    from sis_rearrange.images import write_png
    from sis_rearrange.sampling import metadata, sample_images
    from sis_rearrange.sheets import sample_sheet
    from sis_rearrange.whole_graph import for_run

    pack = open_pack(pack_name)
    inversions, seeds = read_sources(files, pack), unless_sources(seeds, files)
    shown: list[Image.Image] = []
    for name, picture in _inverted(pack, inversions, device):
        write_png(out / f"{name}.png", picture, metadata(pack))
        shown.append(picture)
    pictures = sample_images(pack, seeds, psi, device, for_run(backend, len(seeds)))
    for seed, picture in zip(seeds, tqdm(pictures, total=len(seeds), unit="picture", disable=None), strict=True):
        write_png(out / f"seed{seed}.png", picture, metadata(pack, seed, psi))
        if len(shown) < SHEET_SAMPLES:
            shown.append(picture)
    title = f"{pack.name}: samples, psi {psi:g}" if seeds else f"{pack.name}: inverted pictures"
    write_png(out / SHEET, sample_sheet(shown, title), metadata(pack, psi=psi if seeds else None))
    click.echo(f"wrote {len(inversions) + len(seeds)} pictures and {SHEET} to {out}")


def _inverted(pack: Pack, inversions: list[Inversion], device: str) -> Iterator[tuple[str, Image.Image]]:
    """(name for a file, picture) of each inversion, by its own generator."""
    import torch
    from PIL import Image

    from sis_rearrange.sampling import on_device, pick_device
    from sis_rearrange.tensors import to_uint8

    chosen = pick_device(device)
    for inversion in inversions:
        generator = on_device(inversion.generator(pack.generator()), chosen)
        with torch.inference_mode():
            image = generator.synthesis(inversion.ws[None].to(chosen))
        name = Path(str(inversion.picture.get("name") or "picture")).stem
        yield f"{name}_inverted", Image.fromarray(to_uint8(image)[0])


@click.command(
    epilog="\b\nExamples:\n"
    "  sis synthesize toonhead --condition sketch drawing.png --seeds 0-3 --out out/sketches\n"
    "  sis synthesize toonhead --condition segmentation masks/ --seeds 7 --fit crop --refine 6 --out out/masks\n"
    "  sis synthesize toonhead --condition exemplar 12 13 --seeds 0-3 --out out/exemplars\n"
    "  sis synthesize toonhead --condition scribble vague.png --samples 4 --out out/ideas\n"
    "  sis synthesize toonhead --condition segmentation mask.png --palette parts.json --out out/foreign"
)
@pack_argument
@click.option(
    "--condition", required=True, help="segmentation, sketch, scribble, ..., exemplar (IN: seeds or pictures) or proxy."
)
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@seeds_option("0-3")
@out_folder
@own_conditions
@source_option
@click.option("--fit", default="pad", show_default=True, help="Drawings that are not square: crop, pad or stretch.")
@click.option("--samples", default=1, show_default=True, help="Layouts of each drawing: the likeliest, then others.")
@click.option("--temperature", default=1.0, show_default=True, help="How far the other layouts go: 0 not at all.")
@click.option("--sample-seed", default=0, show_default=True, help="Seed of the other layouts.")
@click.option("--refine", default=0, show_default=True, help="Steps that fit the picture to masks, scribbles; try 6.")
@click.option(
    "--palette", help="What masks and scribbles are painted in: a JSON file, or a name such as celebamask-hq."
)
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
    files: tuple[Path, ...],
    fit: str,
    samples: int,
    temperature: float,
    sample_seed: int,
    refine: int,
    palette: str | None,
    proxy_masks: bool,
    psi: float,
    device: str,
    backend: str,
) -> None:
    """Turn drawings (files, or all images in a folder) into pictures, one PNG per drawing, seed and layout.

    Each seed gives a look, and so does each --source. A vague drawing leaves much open: --samples draws several layouts
    that it allows. A drawing that cannot be used is reported and the others go on; the exit code is 2 then.
    """
    from sis_rearrange.conditions import OF_PARTS, load_palette
    from sis_rearrange.synthesis import Synthesizer
    from sis_rearrange.targets import Layouts, check_refine
    from sis_rearrange.whole_graph import for_run

    pack = open_pack(pack_name)
    drawings = _exemplars(inputs, out) if condition == "exemplar" else _files(inputs, out)
    layouts = Layouts(samples, temperature, sample_seed)
    if samples == 1 and (temperature, sample_seed) != (1.0, 0):
        raise InputError("--temperature and --sample-seed are for the layouts of --samples 2 or more")
    if palette is not None and condition not in OF_PARTS:
        raise InputError(f"--palette: is for {' and '.join(OF_PARTS)}, not {condition}; leave it out")
    painted = None if palette is None else load_palette(palette)
    synth = Synthesizer(pack, device, for_run(backend, len(drawings) * len(seeds) * samples), painted)
    synth.readers.check(condition, fit)
    check_refine(refine, condition)
    inverted = [synth.set_source(inversion=inversion) for inversion in read_sources(files, pack)]
    sources = [*inverted, *(synth.set_source(seed=seed, psi=psi) for seed in unless_sources(seeds, files))]
    failed = _paint_all(synth, sources, drawings, condition, fit, layouts, refine, out, proxy_masks)
    done = len(drawings) - failed
    click.echo(f"wrote {done * len(sources) * samples} pictures of {done} of {len(drawings)} drawings to {out}")
    if failed:
        raise click.exceptions.Exit(2)


def _paint_all(
    synth: Synthesizer,
    sources: list[Source],
    drawings: dict[str, Path | int],
    condition: str,
    fit: str,
    layouts: Layouts,
    refine: int,
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
            for number, target in enumerate(synth.vary(synth.read(drawing, condition, fit), layouts), start=1):
                title = name if layouts.samples == 1 else f"{name}_sample{number}"
                shown = _paint_looks(synth, sources, target, refine, title, out, proxy_masks)
                if len(rows) < SHEET_ROWS:
                    rows.append((title, [target.drawing, synth.proxy_image(target.labels[0]), *shown]))
        except InputError as error:
            if len(drawings) == 1:
                raise
            failed += 1
            bar.write(f"Error: {error}", file=sys.stderr)
    if rows:
        looks = [(source.title, synth.source_image(source)) for source in sources[:SHEET_LOOKS]]
        sheet = synthesis_sheet(looks, rows, f"{synth.pack.name}: {condition}")
        write_png(out / SHEET, sheet, metadata(synth.pack, psi=sources[0].psi, condition=condition))
    return failed


def _paint_looks(
    synth: Synthesizer, sources: list[Source], target: Target, refine: int, title: str, out: Path, proxy_masks: bool
) -> list[Image.Image]:
    """One layout in every look, refined to each, written to files; returns what the contact sheet shows of it."""
    from sis_rearrange.images import write_png

    shown: list[Image.Image] = []
    for source in sources:
        result, name = (
            synth.paint(synth.refine(target, refine, source), source),
            f"{title}_{source.title.replace(' ', '')}",
        )
        result.save(out / f"{name}.png")
        if proxy_masks:
            write_png(out / f"{name}_proxy.png", synth.proxy_image(result.proxy_mask), result.metadata)
        if len(shown) < SHEET_LOOKS:
            shown.append(result.image)
    return shown


def _exemplars(inputs: tuple[str, ...], out: Path) -> dict[str, Path | int]:
    """Output name -> seed of a sample, or picture."""
    numbers = [text for text in inputs if SEEDS.fullmatch(text) and not Path(text).exists()]
    named: dict[str, Path | int] = {
        f"exemplar{seed}": seed for text in numbers for seed in parse_seeds(text, "exemplar")
    }
    return _files(tuple(text for text in inputs if text not in numbers), out, named)


def _files(inputs: tuple[str, ...], out: Path, others: Mapping[str, Path | int] | None = None) -> dict[str, Path | int]:
    """``others``, then output name -> path of files as they are and of the images in folders; names are made unique.

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
    named = dict(others or {})
    for path in paths:
        name, number = path.stem, 2
        while name in named:
            name, number = f"{path.stem}-{number}", number + 1
        named[name] = path
    return named
