#!/usr/bin/env python
"""Train the mapper of one condition for a domain pack; see --help."""

from __future__ import annotations

from pathlib import Path

import click

from sis_rearrange.cli.training import SETTINGS, TrainingCommand, show_dry_run, show_scores, training_options
from sis_rearrange.conditions import CONDITIONS
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
  python train_mapper.py pretrained/toonhead --condition sketch --run runs/mapper-sketch --bfloat16
  # interrupted? the same command goes on where the last state was saved
  # a quick, smaller one for coloured strokes
  python train_mapper.py my-pack --condition scribble --run runs/quick --kimg 8 --widths 16,32,64
  tensorboard --logdir runs""",
)
@click.argument("pack")
@click.option("--condition", required=True, metavar=f"[{'|'.join(CONDITIONS)}]", help="What people will draw.")
@training_options(mapper_options)
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
@click.option("--seed", default=DEFAULTS.seed, help="Which samples are seen, and the initial weights.")
@click.option(
    "--bfloat16/--float32", default=DEFAULTS.bfloat16, help="Precision of convolutions; see docs/training.md."
)
@click.option("--ema", default=DEFAULTS.ema, help="Decay per step of the averaged weights.")
@click.option("--save-every", default=DEFAULTS.save_every, help="Steps between states, scores and image grids.")
def main(pack: str, run: Path, tick: float, dry_run: bool, device: str, **options):
    """Train the mapper from one kind of drawing to proxy masks for PACK (a folder, or a name in pretrained/).

    Pairs come from the pack's own generator: it is sampled, and each sample is drawn by the condition's extractor.
    Writes mappers/CONDITION.safetensors into the pack when done. Train again after the proxy clusters have changed.
    """
    from sis_rearrange.pack import load_pack
    from sis_rearrange.sampling import pick_device
    from sis_rearrange.training.pack_training import mapper_training, train_pack_mapper

    config = MapperConfig(**options)
    if dry_run:
        show_dry_run(mapper_training(load_pack(pack), config, pick_device(device)), run)
    else:
        show_scores(train_pack_mapper(pack, run, config, device, tick))


if __name__ == "__main__":
    main()
