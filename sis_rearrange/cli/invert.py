"""The command `invert`, and what other commands need to take its files as looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sis_rearrange.cli.options import device_option, open_pack, pack_argument
from sis_rearrange.errors import InputError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from sis_rearrange.editing import Editor
    from sis_rearrange.inversion import Crop, Inversion, InversionConfig
    from sis_rearrange.pack import Pack

UNTOUCHED = "pixels"  # text entry of masks: hash of what was written, so that nobody's painting is overwritten

crop_option = click.option(
    "--crop",
    metavar="X,Y,SIZE",
    help="The square to look at, in pixels of the picture: left, top, side; otherwise the largest in the middle.",
)
seed_option = click.option("--seed", default=0, show_default=True, help="Which samples starts are looked for among.")


@click.command(
    epilog="\b\nExamples:\n"
    "  sis invert toonhead photo.png --out out/photo.safetensors --show-masks out/photo\n"
    "  sis invert toonhead wide.jpg --crop 310,40,512 --out out/face.safetensors\n"
    "  sis synthesize toonhead --condition sketch drawing.png --source out/photo.safetensors --out out/drawn"
)
@pack_argument
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Result file to write (.safetensors).")
@click.option(
    "--show-masks",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the inverted picture, its masks to edit (proxy.png, parts.png), and the error map.",
)
@crop_option
@click.option("--space", default="w+", show_default=True, help="w+, or w: less like the picture, more like samples.")
@click.option("--steps", default=300, show_default=True, help="Steps in W+; other phases follow it.")
@click.option("--starts", default=4, show_default=True, help="Of the nearest samples, followed through W.")
@click.option("--tune/--no-tune", default=True, show_default=True, help="Tune the generator to the picture.")
@click.option("--features", default="auto", show_default=True, help="Of the perceptual loss: hed, discriminator, auto.")
@seed_option
@device_option
def invert(
    pack_name: str,
    picture: Path,
    out: Path,
    show_masks: Path | None,
    crop: str | None,
    space: str,
    steps: int,
    starts: int,
    tune: bool,
    features: str,
    seed: int,
    device: str,
) -> None:
    """Find a real PICTURE in a pack's generator, to edit it or to take its look.

    The result file is taken by every command that takes seeds, as --source. A picture that is not in the middle of its
    file needs a --crop that holds what the domain shows, as its training pictures do.
    """
    from sis_rearrange.images import check_writable
    from sis_rearrange.inversion import InversionConfig

    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: an inversion is a safetensors file; let the name end in .safetensors")
    check_writable(out, picture)
    if show_masks is not None:
        _check_masks(show_masks, picture)
    pack = open_pack(pack_name)
    config = InversionConfig(steps=steps, starts=starts, space=space, tune=tune, features=features, seed=seed)
    upright = read_picture(picture)
    inversion = run_inversion(pack, picture, upright, crop, config, device)
    inversion.save(out)
    click.echo(f"wrote {out}: {inversion.describe()}")
    warn_outside(inversion, upright, out.with_name(f"{out.stem}_error.png"))
    if show_masks is not None:
        names = write_masks(pack, inversion, upright, show_masks, device)
        click.echo(f"wrote {', '.join(names)} to {show_masks}")


def read_picture(path: Path) -> Image.Image:
    """A file as an upright RGB picture; InputError as `read_image`."""
    from sis_rearrange.images import flatten, read_image

    return flatten(read_image(path))


def chosen_crop(text: str | None, upright: Image.Image) -> Crop:
    """The crop that --crop asks for. Without it the middle is taken, and said where that leaves something out."""
    from sis_rearrange.inversion import Crop

    if text is not None:
        return Crop.parse(text).check(upright)
    crop = Crop.middle(upright)
    if upright.width != upright.height:
        where = f"{crop.x},{crop.y},{crop.size}"
        click.echo(
            f"{upright.width}x{upright.height} is not square: looking at --crop {where}; move it as needed", err=True
        )
    return crop


def run_inversion(
    pack: Pack, path: Path, upright: Image.Image, crop: str | None, config: InversionConfig, device: str
) -> Inversion:
    """Invert under one progress bar."""
    from dataclasses import replace

    from tqdm import tqdm

    from sis_rearrange.inversion import invert as find
    from sis_rearrange.inversion import work
    from sis_rearrange.sampling import pick_device

    square = chosen_crop(crop, upright)
    with tqdm(total=work(config, pack.resolution), desc="inverting", unit="step", disable=None) as bar:
        found = find(pack, upright, progress=bar.update, crop=square, device=pick_device(device), config=config)
    return replace(found, picture={**found.picture, "name": path.name})


def warn_outside(inversion: Inversion, upright: Image.Image, path: Path) -> None:
    """Where the picture is outside the generator's domain: say so, and write the error map."""
    from sis_rearrange.images import write_png
    from sis_rearrange.inversion import error_picture

    if not inversion.outside:
        return
    write_png(path, error_picture(inversion, inversion.crop.cut(upright)))
    far = inversion.scores["nearest"] / inversion.scores["limit"]
    click.echo(
        f"Warning: this picture is outside the generator's domain ({far:.1f} times as far from its samples as they "
        f"may be from each other): expect poor edits. {path} shows what it could not make; try another --crop",
        err=True,
    )


def write_masks(pack: Pack, inversion: Inversion, upright: Image.Image, folder: Path, device: str) -> list[str]:
    """Write the inverted picture, the masks to edit and the error map; returns the names."""
    from sis_rearrange.editing import Editor, own_masks
    from sis_rearrange.images import write_png
    from sis_rearrange.inversion import error_picture
    from sis_rearrange.sampling import metadata

    editor: Editor = Editor(pack, device)
    look = editor.look(inversion)
    square = inversion.crop.cut(upright)
    pictures = {
        "inversion": to_picture(look.picture()),
        **own_masks(editor, look, square_of(square, pack, editor)),
        "error": error_picture(inversion, square),
    }
    for name, image in pictures.items():
        write_png(folder / f"{name}.png", image, {**metadata(pack), UNTOUCHED: _pixels(image)})
    return [f"{name}.png" for name in pictures]


def _check_masks(folder: Path, picture: Path) -> None:
    """InputError where `write_masks` could not write, or would replace what somebody has painted in since."""
    from sis_rearrange.images import check_writable, read_image

    for name in ("inversion", "proxy", "parts", "error"):
        path = folder / f"{name}.png"
        check_writable(path, picture)
        if path.exists():
            image = read_image(path)
            if image.info.get(UNTOUCHED) != _pixels(image):
                raise InputError(
                    f"{path}: was changed after it was written; move it, or give --show-masks another folder"
                )


def _pixels(image: Image.Image) -> str:
    import hashlib

    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()


def square_of(square: Image.Image, pack: Pack, editor: Editor) -> torch.Tensor:
    """A square picture as the networks see it, ``[1, 3, R, R]``."""
    from sis_rearrange.inversion.crops import square_tensor

    return square_tensor(square, pack.resolution).to(editor.device)


def to_picture(image: torch.Tensor) -> Image.Image:
    """The first of ``[N, 3, H, W]`` in [-1, 1]."""
    from PIL import Image

    from sis_rearrange.tensors import to_uint8

    return Image.fromarray(to_uint8(image)[0])


def parse_look(text: str, pack: Pack, what: str = "look") -> int | Inversion:
    """ "12" -> the seed 12; the path of a result file -> the inversion, checked against the pack."""
    from sis_rearrange.inversion import Inversion
    from sis_rearrange.sampling import check_seed

    if text.strip().isascii() and text.strip().isdigit():
        return check_seed(int(text))
    path = Path(text)
    if path.suffix != ".safetensors":
        raise InputError(f"{what} {text!r}: give a seed such as 12, or a file that 'sis invert' wrote (.safetensors)")
    return Inversion.load(path, pack)


source_option = click.option(
    "--source",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="File that 'sis invert' wrote: a look beside those of --seeds, or in their place; may be given again.",
)


def read_sources(files: tuple[Path, ...], pack: Pack) -> list[Inversion]:
    """The inversions of --source, checked against the pack; InputError where two pictures share a name."""
    from sis_rearrange.inversion import Inversion

    found = [Inversion.load(path, pack) for path in files]
    names = [Path(str(inversion.picture.get("name"))).stem for inversion in found]
    for path, name in zip(files, names, strict=True):
        if names.count(name) > 1:
            raise InputError(f"--source {path}: two of the pictures are called {name!r}; take them in two runs")
    return found


def unless_sources(seeds: list[int], files: tuple[Path, ...]) -> list[int]:
    """The seeds of --seeds; none where only --source was given."""
    given = click.get_current_context().get_parameter_source("seeds") is not click.core.ParameterSource.DEFAULT
    return seeds if given or not files else []
