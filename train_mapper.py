#!/usr/bin/env python
"""Train the mapper of one condition for a domain pack; see --help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from sis_rearrange.cli.options import own_conditions
from sis_rearrange.cli.training import SETTINGS, TrainingCommand, show_dry_run, show_scores, training_options
from sis_rearrange.conditions import CONDITIONS, EXTRACTED
from sis_rearrange.training.mapper import MapperConfig
from sis_rearrange.training.presets import mapper_options

DEFAULTS = MapperConfig(CONDITIONS[0])


def _widths(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(width) for width in value.split(","))
    except ValueError:
        widths = ()
    if not widths or min(widths) < 1:
        raise click.BadParameter(f"{value!r} is not a list of positive whole numbers such as 16,32,64")
    return widths


@click.command(
    cls=TrainingCommand,
    context_settings=SETTINGS,
    epilog="""\b
Examples:
  # the shipped sketch mapper of the embedded domain, under 10 minutes on two cores
  python train_mapper.py pretrained/toonhead --condition sketch --run runs/mapper-sketch --precision bfloat16
  # interrupted? the same command goes on where the last state was saved
  # soft edges, and an extractor of your own
  python train_mapper.py pretrained/toonhead --condition hed --run runs/mapper-hed --kimg 12 --precision bfloat16
  python train_mapper.py my-pack --plugin edges.py --condition edges --run runs/mapper-edges
  # from the one picture that was painted after `sis label export`, under 5 minutes on two cores
  python train_mapper.py my-pack --condition segmentation --shots out/label --run runs/mapper-one-shot
  # from that of a pack of half the size, whose widths come last
  python train_mapper.py my-pack --condition sketch --run runs/larger --resume-from toonhead \\
      --widths 16,24,48,96,128,128
  # a quick, smaller one for coloured strokes
  python train_mapper.py my-pack --condition scribble --run runs/quick --kimg 8 --widths 16,32,64
  tensorboard --logdir runs""",
)
@click.argument("pack")
@own_conditions
@click.option(
    "--condition", required=True, metavar=f"[{'|'.join((*CONDITIONS, *EXTRACTED))}]", help="What people will draw."
)
@training_options(mapper_options)
@click.option(
    "--shots",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Learn from these annotated pictures: docs/few-shot.md.",
)
@click.option("--kimg", default=DEFAULTS.kimg, help="Length of the training in thousands of samples.")
@click.option("--batch", default=DEFAULTS.batch, help="Samples per step.")
@click.option("--lr", default=DEFAULTS.lr, help="Peak learning rate of AdamW.")
@click.option("--weight-decay", default=DEFAULTS.weight_decay, help="Weight decay of AdamW.")
@click.option("--psi", default=DEFAULTS.psi, help="Truncation of the samples.")
@click.option(
    "--widths",
    default=",".join(map(str, DEFAULTS.widths)),
    callback=_widths,
    help="Channels of the U-Net's levels, full resolution first.",
)
@click.option(
    "--label-smoothing", default=DEFAULTS.label_smoothing, help="Share of the target spread over all clusters."
)
@click.option("--cycle", default=DEFAULTS.cycle, help="Weight: parts seen in the rearranged picture; 0 for none.")
@click.option("--natural", default=DEFAULTS.natural, help="Weight: that picture looks real; 0 for none.")
@click.option("--cycle-batch", default=DEFAULTS.cycle_batch, help="Samples of each step followed to the picture.")
@click.option("--cycle-after", default=DEFAULTS.cycle_after, help="Share of the run before that starts.")
@click.option("--unpainted", default=DEFAULTS.unpainted, help="Share of samples with a part left out of the drawing.")
@click.option("--seed", default=DEFAULTS.seed, help="Which samples are seen, and the initial weights.")
@click.option("--ema", default=DEFAULTS.ema, help="Decay per step of the averaged weights.")
@click.option("--save-every", default=DEFAULTS.save_every, help="Steps between states, scores and image grids.")
@click.option("--resume-from", default="", help="Pack whose mapper of that condition to start from.")
@click.pass_context
def main(
    ctx: click.Context,
    pack: str,
    run: Path,
    tick: float,
    dry_run: bool,
    device: str,
    shots: Path | None,
    resume_from: str,
    **options,
):
    """Train the mapper from one kind of drawing to proxy masks for PACK (a folder, or a name in pretrained/).

    Pairs come from the pack's own generator: it is sampled, and each sample is drawn by the condition's extractor.
    Writes mappers/CONDITION.safetensors into the pack when done. Train again after the proxy clusters have changed.
    """
    from sis_rearrange.errors import InputError
    from sis_rearrange.pack import load_pack
    from sis_rearrange.sampling import pick_device
    from sis_rearrange.training.origins import origin_of
    from sis_rearrange.training.pack_training import mapper_training, train_pack_mapper

    if shots is not None:
        if resume_from:
            raise InputError("--shots and --resume-from: give one of them")
        asked = {
            name: value for name, value in options.items() if ctx.get_parameter_source(name) != ParameterSource.DEFAULT
        }
        _from_shots(pack, shots, run, asked, tick, dry_run, device)
        return
    config = MapperConfig(**options)
    if dry_run:
        start = origin_of(resume_from, run)
        show_dry_run(mapper_training(load_pack(pack), config, pick_device(device), start=start), run)
    else:
        show_scores(train_pack_mapper(pack, run, config, device, tick, resume_from))


def _from_shots(
    pack_name: str, folder: Path, run: Path, asked: dict[str, Any], tick: float, dry_run: bool, device: str
) -> None:
    """Few-shot training; a dry run labels with a network that has learnt nothing yet."""
    from sis_rearrange.pack import load_pack
    from sis_rearrange.training.few_shot import few_shot_config, first_training, train_mapper_from_shots
    from sis_rearrange.training.own_classes import pack_with_classes
    from sis_rearrange.training.shot_files import folder_palette, shots_from_folder

    pack = load_pack(pack_name)
    palette = folder_palette(folder, pack)
    shots, config = shots_from_folder(folder, pack, palette), few_shot_config(pack, **asked)
    if dry_run:
        show_dry_run(first_training(pack, len(palette), config, device), run)
        return
    path = pack_with_classes(pack, palette, None).path
    show_scores(train_mapper_from_shots(path, shots, run, config, device=device, tick=tick).scores)


if __name__ == "__main__":
    main()
