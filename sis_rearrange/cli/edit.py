"""Commands that change pictures: edit, mix, morph, transfer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sis_rearrange.cli.invert import (
    crop_option,
    parse_look,
    run_inversion,
    seed_option,
    square_of,
    to_picture,
    warn_outside,
)
from sis_rearrange.cli.options import device_option, open_pack, pack_argument, psi_option
from sis_rearrange.errors import InputError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from sis_rearrange.editing import Edited, Editor, Look
    from sis_rearrange.inversion import Inversion
    from sis_rearrange.pack import Pack

SHOWS = 0.5  # share of a change that has to show; people are told where less does

png_option = click.option("--out", type=click.Path(path_type=Path), required=True, help="PNG file to write.")


@click.command(
    epilog="\b\nExample:\n"
    "  sis invert toonhead photo.png --out out/photo.safetensors --show-masks out/photo\n"
    "  # paint in out/photo/parts.png or out/photo/proxy.png, save it as edited.png, then\n"
    "  sis edit toonhead photo.png --mask edited.png --source out/photo.safetensors --out out/edited.png"
)
@pack_argument
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--mask", type=click.Path(path_type=Path), required=True, help="One of its masks, edited.")
@png_option
@click.option("--source", type=click.Path(path_type=Path), help="What 'sis invert' wrote for PICTURE; saves its time.")
@click.option("--kind", default="auto", show_default=True, help="Of the mask: proxy, parts, or auto: by its colours.")
@click.option("--feather", default=1.5, show_default=True, help="Border of the change, in cells of the proxy mask.")
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG file for picture, masks and result side by side.")
@crop_option
@seed_option
@device_option
def edit(
    pack_name: str,
    picture: Path,
    mask: Path,
    out: Path,
    source: Path | None,
    kind: str,
    feather: float,
    sheet: Path | None,
    crop: str | None,
    seed: int,
    device: str,
) -> None:
    """Change PICTURE where its proxy or part mask was edited, and nowhere else.

    Beyond a feathered border around the change the pixels stay the picture's own. Without --source the picture is
    inverted first, as 'sis invert' does it: masks of that command fit where pack, crop and seed are the same.
    Transparency and colour profile of the picture stay; new pixels are opaque.
    """
    from sis_rearrange.editing import Editor, read_change
    from sis_rearrange.editing import edit as change_picture
    from sis_rearrange.images import check_writable, flatten, read_image, write_png
    from sis_rearrange.sampling import metadata

    for path, option in ((out, "--out"), (sheet, "--sheet")):
        if path is not None:
            _check_png(path, option)
            check_writable(path, picture, mask)
    pack = open_pack(pack_name)
    original, edited_mask = read_image(picture), read_image(mask)
    upright = flatten(original)  # what networks see of it
    inversion = _inversion_for(pack, picture, upright, source, crop, seed, device, out)
    editor = Editor(pack, device)
    look = editor.look(inversion)
    square = inversion.crop.cut(upright)
    change = read_change(editor, look, square_of(square, pack, editor), edited_mask, kind, str(mask))
    result = change_picture(editor, look, original, inversion.crop, change, feather)
    write_png(out, result.image, {**metadata(pack), "edited": picture.name, "mask": change.kind})
    click.echo(
        f"wrote {out}: {int(result.cells.sum())} of {result.cells.size} cells changed, "
        f"the change shows in {100 * result.shows:.0f} % of what was painted; "
        f"{100 * result.agreement:.0f} % of it is read as what was asked for"
    )
    if result.shows < SHOWS:
        click.echo(
            "Warning: most of this change does not show. The picture may have too little of what was painted: paint it "
            "larger, or with a part or cluster that the picture has more of",
            err=True,
        )
    if sheet is not None:
        write_png(sheet, _sheet(editor, look, square, edited_mask, result, inversion))
        click.echo(f"wrote {sheet}")


@click.command(
    epilog="\b\nExamples:\n"
    "  # the layout of seed 3 in the look of an inverted picture\n"
    "  sis mix toonhead 3 out/photo.safetensors --out out/mixed.png\n"
    "  # style mixing: the first six layers of one, the others of the other\n"
    "  sis mix toonhead 3 8 --layer 6 --out out/layers.png"
)
@pack_argument
@click.argument("structure")
@click.argument("look")
@png_option
@click.option("--layer", type=int, help="Style mixing: ws of LOOK from this layer on, instead of rearranging.")
@psi_option
@device_option
def mix(pack_name: str, structure: str, look: str, out: Path, layer: int | None, psi: float, device: str) -> None:
    """The STRUCTURE of one picture with the LOOK of another; each is a seed, or a file that 'sis invert' wrote."""
    from sis_rearrange.editing import exemplar, mix_layers

    editor, (first, second) = _open(pack_name, device, out, psi, structure, look)
    image = exemplar(editor, first, second) if layer is None else mix_layers(first, second, layer)
    _write(editor, out, image, structure=first.name, look=second.name)


@click.command(
    epilog="\b\nExamples:\n"
    "  # seed 3's hair in the look of seed 8's\n"
    "  sis transfer toonhead 3 8 --part hair --out out/hair.png\n"
    "  sis transfer toonhead out/photo.safetensors 8 --part hair --part rear_hair --out out/dyed.png"
)
@pack_argument
@click.argument("base")
@click.argument("donor")
@click.option("--part", "parts", multiple=True, required=True, help="A part class of the pack; may be given again.")
@png_option
@psi_option
@device_option
def transfer(pack_name: str, base: str, donor: str, parts: tuple[str, ...], out: Path, psi: float, device: str) -> None:
    """Parts of BASE in the look of DONOR's, all else as it is; each is a seed, or a file that 'sis invert' wrote."""
    from sis_rearrange.editing import transfer as move_look

    editor, (first, second) = _open(pack_name, device, out, psi, base, donor)
    _write(
        editor, out, move_look(editor, first, second, parts), base=first.name, donor=second.name, parts=",".join(parts)
    )


@click.command(
    epilog="\b\nExamples:\n"
    "  sis morph toonhead 3 8 --out out/morph.gif\n"
    "  sis morph toonhead 3 8 --look out/photo.safetensors --frames 48 --out out/frames\n"
    "  sis morph toonhead one.png two.png --condition segmentation --look 5 --out out/drawn.gif"
)
@pack_argument
@click.argument("first")
@click.argument("second")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A .gif, an .mp4, or a folder for frames.")
@click.option("--look", help="A seed, or a file that 'sis invert' wrote; otherwise FIRST.")
@click.option("--condition", help="FIRST and SECOND are drawings of this kind; needs --look.")
@click.option(
    "--through", default="masks", show_default=True, help="masks: outlines move; latents: by way of other samples."
)
@click.option("--frames", default=24, show_default=True, help="Pictures from the first to the second layout.")
@click.option("--rate", default=12.0, show_default=True, help="Frames per second of a film.")
@psi_option
@device_option
def morph(
    pack_name: str,
    first: str,
    second: str,
    out: Path,
    look: str | None,
    condition: str | None,
    through: str,
    frames: int,
    rate: float,
    psi: float,
    device: str,
) -> None:
    """Go from one layout to another in one look; layouts are seeds, files that 'sis invert' wrote, or drawings."""
    from tqdm import tqdm

    from sis_rearrange.editing import Editor, check_film, write_film
    from sis_rearrange.editing.morphing import FILM_SIDE, THROUGH, check_frames

    check_film(out)
    check_frames(frames)
    if through not in THROUGH:
        raise InputError(f"--through {through}: must be {' or '.join(THROUGH)}")
    if condition is not None and (look is None or through != "masks"):
        raise InputError("--condition: drawings have no look of their own; give --look, and --through masks")
    if not 1 <= rate <= 60:
        raise InputError(f"--rate {rate:g}: give 1 to 60 frames per second")
    pack = open_pack(pack_name)
    editor = Editor(pack, device)
    steps = _steps(editor, first, second, look, condition, through, frames, psi)
    factor = max(1, -(-FILM_SIDE // pack.resolution))
    pictures = []
    for image in tqdm(steps, total=frames, unit="frame", disable=None):
        frame = to_picture(image)
        pictures.append(frame.resize((frame.width * factor, frame.height * factor)))
    write_film(out, pictures, rate)
    click.echo(f"wrote {out}: {len(pictures)} frames")


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _check_png(out: Path, option: str = "--out") -> None:
    if out.suffix.lower() != ".png":
        raise InputError(f"{option} {out}: pictures are written as PNG; let the name end in .png")


def _inversion_for(
    pack: Pack,
    picture: Path,
    upright: Image.Image,
    source: Path | None,
    crop: str | None,
    seed: int,
    device: str,
    out: Path,
) -> Inversion:
    """Of the result file, or made now. InputError for the file of another picture, and for --crop beside one."""
    import hashlib

    from sis_rearrange.inversion import Inversion, InversionConfig

    if source is None:
        inversion = run_inversion(pack, picture, upright, crop, InversionConfig(seed=seed), device)
        warn_outside(inversion, upright, out.with_name(f"{out.stem}_error.png"))
        return inversion
    inversion = Inversion.load(source, pack)
    if crop is not None:
        raise InputError(f"--crop: {source} was made from a crop already; leave one of the two away")
    if inversion.picture.get("sha256") != hashlib.sha256(upright.tobytes()).hexdigest():
        raise InputError(f"{source}: was made from another picture than {picture}; run 'sis invert' on this one")
    return inversion


def _open(pack_name: str, device: str, out: Path, psi: float, *looks: str) -> tuple[Editor, list[Look]]:
    from sis_rearrange.editing import Editor

    _check_png(out)
    pack = open_pack(pack_name)
    editor = Editor(pack, device)
    return editor, [editor.look(parse_look(text, pack), psi) for text in looks]


def _write(editor: Editor, out: Path, image: torch.Tensor, **notes: str) -> None:
    from sis_rearrange.images import write_png
    from sis_rearrange.sampling import metadata

    write_png(out, to_picture(image), {**metadata(editor.pack), **notes})
    click.echo(f"wrote {out}")


def _steps(
    editor: Editor,
    first: str,
    second: str,
    look: str | None,
    condition: str | None,
    through: str,
    frames: int,
    psi: float,
) -> Any:
    """The frames of a morph, as they are made."""
    from sis_rearrange.editing import morph, morph_latents

    pack = editor.pack
    if condition is not None:
        painted = editor.look(parse_look(look or "", pack, "--look"), psi)
        start, end = (_drawn_layout(editor, painted, Path(text), condition) for text in (first, second))
        return morph(editor, painted, start, end, frames)
    one, other = (editor.look(parse_look(text, pack), psi) for text in (first, second))
    painted = one if look is None else editor.look(parse_look(look, pack, "--look"), psi)
    if through == "latents":
        return morph_latents(editor, painted, one, other, frames)
    start, end = (editor.reachable(each.logits, painted) for each in (one, other))
    return morph(editor, painted, start, end, frames)


def _drawn_layout(editor: Editor, look: Look, path: Path, condition: str) -> torch.Tensor:
    """A drawing's proxy mask in clusters of a look, labels ``[1, r, r]``."""
    from sis_rearrange.synthesis import Synthesizer

    target = Synthesizer(editor.pack, editor.device, "torch").read(path, condition)
    return target.labels if target.logits is None else editor.reachable(target.logits, look)


def _sheet(
    editor: Editor, look: Look, square: Image.Image, mask: Image.Image, result: Edited, inversion: Inversion
) -> Image.Image:
    from sis_rearrange.images import contact_sheet

    masks = [editor.proxy_palette.to_image(m) for m in (look.labels[0].cpu().numpy(), result.proxy_mask)]
    cut = inversion.crop.cut(result.image)
    rows = [[square, to_picture(look.picture()), mask, masks[0], masks[1], result.square, cut]]
    titles = ["picture", "inverted", "mask as edited", "its proxy mask", "afterwards", "generator's", "result"]
    return contact_sheet(rows, column_titles=titles, title=f"{editor.pack.name}: edit")
