#!/usr/bin/env python
"""Train the encoder that gives the inversion of real pictures a start; see --help."""

from __future__ import annotations

from pathlib import Path

import click

from sis_rearrange.cli.training import SETTINGS, TrainingCommand, show_dry_run, show_scores, training_options
from sis_rearrange.training.encoder import EncoderConfig

DEFAULTS = EncoderConfig()


def _widths(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 32,64,96") from None


@click.command(
    cls=TrainingCommand,
    context_settings=SETTINGS,
    epilog="""\b
Examples:
  python train_encoder.py my-pack --run runs/encoder
  # interrupted? the same command goes on where the last state was saved
  python train_encoder.py my-pack --run runs/quick --kimg 8 --pixels 0
  tensorboard --logdir runs""",
)
@click.argument("pack")
@training_options(lambda preset: {})
@click.option("--kimg", default=DEFAULTS.kimg, help="Length of the training in thousands of samples.")
@click.option("--batch", default=DEFAULTS.batch, help="Samples per step.")
@click.option("--lr", default=DEFAULTS.lr, help="Peak learning rate of AdamW.")
@click.option("--weight-decay", default=DEFAULTS.weight_decay, help="Weight decay of AdamW.")
@click.option("--pixels", default=DEFAULTS.pixels, help="Weight: the pictures of the encoded w; 0 for none.")
@click.option(
    "--widths",
    default=",".join(map(str, DEFAULTS.widths)),
    callback=_widths,
    help="Channels after each halving of the picture.",
)
@click.option("--hidden", default=DEFAULTS.hidden, help="Channels of the layer before the answer.")
@click.option("--seed", default=DEFAULTS.seed, help="Which samples are seen, and the initial weights.")
@click.option("--ema", default=DEFAULTS.ema, help="Decay per step of the averaged weights.")
@click.option("--save-every", default=DEFAULTS.save_every, help="Steps between states, scores and image grids.")
def main(pack: str, run: Path, tick: float, dry_run: bool, device: str, **options):
    """Train the encoder of PACK (a folder, or a name in pretrained/) on its generator's own samples.

    Writes encoder.safetensors into the pack when done; 'sis invert' then starts from its guess beside the nearest
    samples. Train again after the generator has changed.
    """
    from sis_rearrange.pack import load_pack
    from sis_rearrange.sampling import pick_device
    from sis_rearrange.training.encoder import encoder_training, write_encoder
    from sis_rearrange.training.run import run_training

    opened = load_pack(pack)
    training = encoder_training(opened, EncoderConfig(**options), pick_device(device))
    if dry_run:
        show_dry_run(training, run)
    else:
        scores = run_training(training, run, tick)
        write_encoder(opened, training, scores)
        show_scores(scores)


if __name__ == "__main__":
    main()
