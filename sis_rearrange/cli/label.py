"""Commands that turn one painted picture into a mapper: write it out to paint on, read it back and train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sis_rearrange.cli.options import Commands, SeedList, open_pack, pack_argument, psi_option

if TYPE_CHECKING:
    from sis_rearrange.pack import Pack
    from sis_rearrange.unet import UNet

SHOWN = 12  # samples on the sheet of what was learnt
SHEET = "learnt.png"
TICK = 15.0  # seconds between console lines, which say how long it will take yet


@click.group(cls=Commands)
def label() -> None:
    """Paint the parts of one picture, and draw with them."""


@label.command(
    epilog="\b\nExamples:\n"
    "  sis label export toonhead --seed 7 --out out/label\n"
    "  sis label export my-pack --seed 3,12 --classes background,hull,sail --out out/boats"
)
@pack_argument
@click.option("--seed", "seeds", type=SeedList(), required=True, help="The sample to paint on; several, such as 3,12.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to.")
@psi_option
@click.option("--scale", type=click.IntRange(1), help="Pixels to paint on per pixel; about 512 in all if left out.")
@click.option("--classes", help="Parts of your own: a,b,c or a JSON file of names, or of names and colours.")
def export(pack_name: str, seeds: list[int], out: Path, psi: float, scale: int | None, classes: str | None) -> None:
    """Write samples of PACK, an empty mask for each to paint in any editor, and the legend of colours."""
    from sis_rearrange.training.shot_files import export_shots, import_command, named_palette

    opened, palette = open_pack(pack_name), named_palette(classes) if classes is not None else None
    masks = export_shots(opened, seeds, out, psi, scale, palette)
    click.echo(f"paint {', '.join(str(mask) for mask in masks)} in the colours of {out / 'legend.png'}")
    click.echo(f"then: {import_command(opened, pack_name, out, palette)}")


@label.command(
    "import",
    epilog="\b\nExamples:\n"
    "  sis label import my-pack out/label\n"
    "  sis label import toonhead out/label --out packs/mine --condition scribble",
)
@pack_argument
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Leave PACK as it is: write a copy.")
@click.option("--condition", default="segmentation", show_default=True, help="What the mapper is to read.")
@click.option("--kimg", type=float, help="Length of the mapper's training in thousands of samples.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the training.")
@click.option("--run", type=click.Path(file_okay=False, path_type=Path), help="Folder for states; in DIR if left out.")
@click.option("--precision", default="float32", show_default=True, help="Of convolutions: float32 or bfloat16.")
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, or a name that torch knows.")
def import_(
    pack_name: str,
    folder: Path,
    out: Path | None,
    condition: str,
    kimg: float | None,
    seed: int,
    run: Path | None,
    precision: str,
    device: str,
) -> None:
    """Train a mapper for PACK from the painted pictures in DIR: minutes on two cores, and nothing but these is needed.

    Interrupted, the same command goes on. Parts that PACK does not know need --out, a pack of their own.
    """
    from sis_rearrange.training.few_shot import check_ready, few_shot_config, shots_hash, train_mapper_from_shots
    from sis_rearrange.training.own_classes import pack_with_classes
    from sis_rearrange.training.shot_files import folder_palette, shots_from_folder
    from sis_rearrange.training.stopping import Stopped

    opened = open_pack(pack_name)
    length = {} if kimg is None else {"kimg": kimg}
    config = few_shot_config(opened, condition, seed=seed, precision=precision, **length)
    palette = folder_palette(folder, opened)
    shots = shots_from_folder(folder, opened, palette)
    target = pack_with_classes(opened, palette, out)
    check_ready(target, config)
    run = run or folder / "runs" / f"{condition}-{shots_hash(shots)[:8]}"
    try:
        learnt = train_mapper_from_shots(target.path, shots, run, config, device=device, tick=TICK)
    except Stopped as stopped:
        click.echo(str(stopped), err=True)
        raise click.exceptions.Exit(stopped.exit_code) from None
    _write_sheet(target, learnt.segmenter, folder / SHEET)
    click.echo(f"wrote mappers/{condition}.safetensors of {target.path} after {learnt.scores['minutes']:.1f} minutes")
    click.echo(f"how other samples are labelled now: {folder / SHEET}")
    click.echo(f"next: sis synthesize {target.path} --condition {condition} drawing.png --out out")


def _write_sheet(pack: Pack, segmenter: UNet, path: Path) -> None:
    """Fresh samples beside the parts that are seen in them."""
    import torch
    from PIL import Image

    from sis_rearrange.features import sample_ws
    from sis_rearrange.images import contact_sheet, write_png
    from sis_rearrange.tensors import to_uint8

    generator, palette = pack.generator(), pack.palette()
    assert palette is not None  # the pack names parts: a mapper was just trained for them
    with torch.no_grad():
        images = generator.synthesis(sample_ws(generator, range(SHOWN))).clamp(-1, 1)
        masks = segmenter.cpu()(images).argmax(1).numpy()
    pairs = [(Image.fromarray(x), palette.to_image(mask)) for x, mask in zip(to_uint8(images), masks, strict=True)]
    half = SHOWN // 2
    rows = [[pair[kind] for pair in pairs[at : at + half]] for at in (0, half) for kind in (0, 1)]
    write_png(path, contact_sheet(rows, ["sample", "parts"] * 2, title="what was learnt from the painted pictures"))
