"""Commands about domain packs: look at one, verify it, put one together."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sis_rearrange.cli.options import (
    Commands,
    device_option,
    open_pack,
    own_conditions,
    pack_argument,
    parse_seeds,
    psi_option,
)
from sis_rearrange.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from sis_rearrange.pack import Pack

PALETTE_HELP = (
    'Part names and colours, for a domain of your own: a file [{"name": "sky", "colour": [90, 160, 230]}, ...], or a '
    "name such as celebamask-hq."
)
DRAWING_SIDE = 256  # pixels of the drawings that a pack ships


@click.group(cls=Commands)
def pack() -> None:
    """Look at a domain pack, verify it, or put one together."""


@pack.command(epilog="\b\nExample:\n  sis pack info toonhead")
@pack_argument
def info(pack_name: str) -> None:
    """Show what a pack holds: part labels and colours, files, where they are from, scores, licences."""
    opened = open_pack(pack_name)
    click.echo(f"{opened.name}  {opened.path}\nhash        {opened.hash}")
    click.echo(f"domain      {opened.info['domain']}, {opened.resolution} x {opened.resolution} pixels")
    colours = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in opened.info["palette"])
    parts = zip(opened.classes, colours, strict=True)
    click.echo(f"classes     {', '.join(f'{number} {part} {colour}' for number, (part, colour) in enumerate(parts))}")
    click.echo(f"conditions  {', '.join(opened.conditions()) or 'none'}")
    click.echo(f"files       {len(opened.info['files'])}, {opened.size / 1e6:.1f} MB")
    for relpath, entry in sorted(opened.info["files"].items()):
        command = opened.info["provenance"].get(relpath, {}).get("command", "")
        click.echo(f"  {relpath:32} {entry['bytes']:>10,} bytes  {command}".rstrip())
    for protocol, scores in sorted(opened.info["scores"].items()):
        for name, value in sorted(scores.get("metrics", {}).items()):
            click.echo(f"score       {protocol}: {name} = {value}")
    for licence in opened.info["licences"]:
        click.echo(f"licence     {licence.get('what')}: {licence.get('licence')}; {licence.get('credit')}")


@pack.command(epilog="\b\nExample:\n  sis pack verify toonhead")
@pack_argument
def verify(pack_name: str) -> None:
    """Check every file of a pack: hash, format, manifest entry. Exit code 2 where something is wrong."""
    from sis_rearrange.pack import verify_pack

    problems = verify_pack(pack_name)
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    if problems:
        raise click.exceptions.Exit(2)
    click.echo(f"{pack_name}: sound, {open_pack(pack_name).short_hash}")


@pack.command(epilog="\b\nExample:\n  sis pack manifest pretrained")
@click.argument("root", type=click.Path(path_type=Path))
def manifest(root: Path) -> None:
    """Index the packs in the folder ROOT as manifest.json, which `sis pack verify` holds them against."""
    from sis_rearrange.pack import write_manifest

    if not root.is_dir():
        raise InputError(f"{root}: is not a folder")
    for name, entry in write_manifest(root).items():
        click.echo(f"{name}  {entry['hash'][:12]}  {entry['bytes']:,} bytes")


@pack.command(
    epilog="\b\nExamples:\n"
    "  sis pack new packs/church --generator stylegan2-church.pkl --tap 64 --clusters 25\n"
    "  sis pack new packs/mine --generator mine.pt --palette parts.json --licence 'CC BY 4.0'"
)
@click.argument("path", metavar="NAME", type=click.Path(path_type=Path))
@click.option("--generator", "generator_file", required=True, help="StyleGAN2 weights: .pkl, .pt or .safetensors.")
@click.option("--network", help="Which network of that file, such as G_ema; the averaged one where left out.")
@click.option("--discriminator", "discriminator_file", help="Another file for the discriminator, if it has one.")
@click.option("--discriminator-network", help="Which network of that file, such as D.")
@click.option("--class", "label", type=int, help="Class of a conditional generator that the pack is to be of.")
@click.option("--tap", default=32, show_default=True, help="Resolution of the feature map to rearrange.")
@click.option("--clusters", default=24, show_default=True, help="Number of proxy clusters.")
@click.option("--proxy-samples", default=1000, show_default=True, help="Samples to fit the clusters on.")
@psi_option
@click.option("--domain", help="Kind of pictures; the pack's name where left out.")
@click.option("--palette", "palette_file", type=click.Path(path_type=Path), help=PALETTE_HELP)
@click.option("--licence", default="", help="Of pictures and weights; where left out the file's, if it names one.")
@click.option("--credit", default="", help="Attribution that pictures made with the pack carry; likewise.")
@click.option("--source", default="", help="Where the weights are from, for the provenance.")
@device_option
def new(
    path: Path,
    generator_file: str,
    network: str | None,
    discriminator_file: str | None,
    discriminator_network: str | None,
    label: int | None,
    tap: int,
    clusters: int,
    proxy_samples: int,
    psi: float,
    domain: str | None,
    palette_file: Path | None,
    licence: str,
    credit: str,
    source: str,
    device: str,
) -> None:
    """Start a pack in the folder NAME from any StyleGAN2: generator, its discriminator, proxy clusters.

    Part names and colours are what segmentation masks and scribbles speak in: give them with --palette, or name an
    embedded domain with --domain. Sketches and exemplars need none. train_rearranger.py and train_mapper.py go on.
    """
    from sis_rearrange.conditions.palette_files import load_palette
    from sis_rearrange.domains import domain_names, get_domain
    from sis_rearrange.sampling import check_psi
    from sis_rearrange.training.new_pack import Domain, new_pack

    name = path.resolve().name
    about = Domain(domain or name, licence=licence, credit=credit)
    if palette_file is not None:
        palette = load_palette(palette_file)
        about = replace(about, classes=palette.names, palette=palette.colours)
    elif domain in domain_names():
        known = get_domain(domain)
        about = Domain(domain, known.classes, known.palette, licence or known.licence, credit or known.credit)
    made = new_pack(
        path,
        name,
        about,
        generator_file,
        network,
        discriminator_file,
        discriminator_network,
        tap,
        clusters,
        proxy_samples,
        check_psi(psi),
        label,
        source,
        device,
        say=click.echo,
    )
    click.echo(f"wrote {path}: {made.short_hash}, {', '.join(sorted(made.info['files']))}")
    click.echo(f"next: python train_rearranger.py {path} --run runs/{name}-rearranger")


@pack.command(epilog="\b\nExample:\n  sis pack calibrate packs/mine")
@pack_argument
@click.option("--samples", type=click.IntRange(8, 100_000), default=256, show_default=True, help="Samples to draw.")
@own_conditions
def calibrate(pack_name: str, samples: int) -> None:
    """Fit what mappers' confidence is divided by, on drawings of the generator's samples, and put it into the pack.

    Pictures and layouts stay as they are; only `confidence`, and how far --samples go, change.
    """
    from sis_rearrange.calibration import calibrate as fit
    from sis_rearrange.calibration import write_temperature

    opened = open_pack(pack_name)
    if not opened.conditions():
        raise InputError(f"{opened.path}: has no mappers; train one with train_mapper.py")
    for name in opened.conditions():
        try:
            temperature = fit(opened, name, samples)
        except InputError as error:  # a depth map needs a model that is not there, say
            click.echo(f"{name}: left as it is ({error})")
            continue
        write_temperature(opened, name, temperature)
        click.echo(f"{name}: temperature {temperature:g}")
    click.echo(f"calibrated {opened.path}: {open_pack(pack_name).short_hash}")


@pack.command(epilog="\b\nExample:\n  sis pack copy toonhead packs/mine")
@pack_argument
@click.argument("folder", type=click.Path(path_type=Path))
def copy(pack_name: str, folder: Path) -> None:
    """Copy a pack to FOLDER, whose name it gets: to train mappers of your own into, say."""
    from sis_rearrange.pack import copy_pack

    made = copy_pack(open_pack(pack_name), folder)
    click.echo(f"wrote {made.path}: {made.size / 1e6:.1f} MB, {made.short_hash}")


@pack.command(epilog="\b\nExample:\n  sis pack add packs/mine judge runs/judge/judge.safetensors --minutes 25")
@pack_argument
@click.argument("role", type=click.Choice(["judge", "segmenter"]))
@click.argument("file")
@click.option("--command", default="", help="The command that made the file, for the provenance.")
@click.option("--minutes", type=float, help="How long that took.")
def add(pack_name: str, role: str, file: str, command: str, minutes: float | None) -> None:
    """Put a trained judge or segmenter into a pack."""
    from sis_rearrange.pack import JUDGE, SEGMENTER, write_component
    from sis_rearrange.unet import UNet
    from sis_rearrange.weights import read_weights

    if minutes is not None and not (math.isfinite(minutes) and minutes >= 0):
        raise InputError(f"--minutes {minutes}: must be a number of minutes, 0 or more")
    opened = open_pack(pack_name)
    config, state = read_weights(file)
    names = ("in_channels", "out_channels", "widths", "out_stride")
    args = config.get("args", {name: config[name] for name in names if name in config})
    if config.get("kind") != "unet" or config.get("classes", list(opened.classes)) != list(opened.classes):
        raise InputError(f"{file}: is not a segmenter of the classes of pack {opened.name!r}; train one for its domain")
    try:
        UNet(**args).load_state_dict(state, strict=True)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{file}: its weights do not make a U-Net ({reason})") from None
    notes: dict[str, Any] = {key: value for key, value in config.items() if key not in (*names, "args", "kind")}
    provenance: dict[str, Any] = {"command": command, "minutes": minutes}
    provenance |= {key: notes[key] for key in ("training", "metrics") if key in notes}
    relpath = JUDGE if role == "judge" else SEGMENTER
    write_component(opened.path, relpath, state, {"kind": "unet", "args": args, **notes}, provenance)
    click.echo(f"added {relpath} to {opened.path}")


@pack.command("add-drawings", epilog="\b\nExample:\n  sis pack add-drawings packs/mine --indices 3,17,40,58")
@pack_argument
@click.option("--count", type=click.IntRange(1, 64), default=4, show_default=True, help="Drawings of each condition.")
@click.option("--indices", help="Which pictures of the test split, such as 3,17,40-42; the first --count if left out.")
def add_drawings(pack_name: str, count: int, indices: str | None) -> None:
    """Draw pictures of the test split as a person would, and put the drawings into a pack."""
    from sis_rearrange.domains import SPLITS
    from sis_rearrange.evaluation.drawings import rendered_domain
    from sis_rearrange.pack import add_file

    opened = open_pack(pack_name)
    domain, split = rendered_domain(opened), SPLITS["test"]
    chosen = parse_seeds(indices, "indices") if indices else list(range(count))
    if max(chosen) >= len(split):
        raise InputError(f"--indices {indices}: the test split has pictures 0 to {len(split) - 1}")
    command = f"sis pack add-drawings {opened.name} --indices {','.join(map(str, chosen))}"
    for number, index in enumerate(chosen, start=1):
        picture, labels = domain.render(split[index], DRAWING_SIDE)
        for condition, png in _draw(opened, picture, labels, split[index]).items():
            provenance = {"command": command, "domain": domain.name, "index": split[index]}
            add_file(opened.path, f"drawings/{condition}-{number}.png", png, provenance)
    click.echo(f"added {len(chosen)} drawings of each condition to {opened.path}")


def _draw(opened: Pack, picture: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, bytes]:
    """Condition -> the drawing of a picture as PNG bytes."""
    from sis_rearrange.conditions import CONDITIONS, condition_names, get_condition

    drawings = {}
    known = [name for name in opened.conditions() if name in condition_names() and name != "depth"]  # needs a model
    for condition in dict.fromkeys((*CONDITIONS, *known)):
        stream = io.BytesIO()
        drawing = get_condition(condition, opened.palette()).draw(picture, labels, seed)
        drawing.save(stream, format="PNG", optimize=True)
        drawings[condition] = stream.getvalue()
    return drawings
