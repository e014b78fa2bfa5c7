#!/usr/bin/env python
"""Train the generator and discriminator of a domain pack; see --help."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click

from sis_rearrange.cli.training import SETTINGS, TrainingCommand, show_dry_run, show_scores, training_options
from sis_rearrange.training.generator import GeneratorConfig
from sis_rearrange.training.pack_generator import Material, generator_training, train_pack_generator
from sis_rearrange.training.presets import generator_options

DEFAULTS, MATERIAL = GeneratorConfig(), Material("")


@click.command(
    cls=TrainingCommand,
    context_settings=SETTINGS,
    epilog="""\b
Examples:
  # the embedded domain at 64 pixels, rendered as it goes: no picture is seen twice
  python train_generator.py packs/mine --data toonhead --run runs/generator --kimg 100
  # twice the resolution, from the networks of a pack, scored by that pack's judge
  python train_generator.py packs/mine128 --data toonhead --run runs/grow --preset toonhead128 \\
      --grow-from pretrained/toonhead --judge pretrained/toonhead --lr 1e-3 --d-lr 1e-3
  # photos that `sis data prepare` made ready, with adaptive augmentation
  python train_generator.py packs/cats --data cats512.zip --run runs/cats --preset afhqcat512 \\
      --ada-target 0.6 --licence 'CC BY 4.0' --device auto
  # interrupted? the same command goes on where the last state was saved
  tensorboard --logdir runs""",
)
@click.argument("pack")
@click.option("--data", required=True, help="Embedded domain, or folder or zip of images.")
@training_options(generator_options)
@click.option("--resolution", default=DEFAULTS.resolution, help="Pixels per side.")
@click.option("--kimg", default=DEFAULTS.kimg, help="Length of the training in thousands of pictures; may be raised.")
@click.option("--batch", default=DEFAULTS.batch, help="Pictures per step.")
@click.option("--lr", default=DEFAULTS.lr, help="Learning rate of the generator.")
@click.option("--d-lr", default=DEFAULTS.d_lr, help="Learning rate of the discriminator.")
@click.option("--gamma", default=DEFAULTS.gamma, help="Weight of R1.")
@click.option("--r1-interval", default=DEFAULTS.r1_interval, help="Steps between R1 penalties.")
@click.option("--patch-weight", default=DEFAULTS.patch_weight, help="Weight of a critic of fine detail; 0: none.")
@click.option("--patch-gamma", default=DEFAULTS.patch_gamma, help="Weight of its R1, in the steps of the other.")
@click.option("--path-weight", default=DEFAULTS.path_weight, help="Weight of the path length penalty; 0: none.")
@click.option("--path-interval", default=DEFAULTS.path_interval, help="Steps between path length penalties.")
@click.option("--mixing", default=DEFAULTS.mixing, help="Share of samples with two styles.")
@click.option("--noise/--no-noise", default=DEFAULTS.noise, help="Noise inputs: texture for photos.")
@click.option("--ema-kimg", default=DEFAULTS.ema_kimg, help="Half-life of the averaged weights.")
@click.option("--ema-rampup", default=DEFAULTS.ema_rampup, help="That as a share of what the run has seen; 0: no ramp.")
@click.option("--ada-target", default=DEFAULTS.ada_target, help="Adaptive augmentation: sign to aim at; 0: none.")
@click.option("--ada-kimg", default=DEFAULTS.ada_kimg, help="Kimg in which augmentation can go from 0 to 1.")
@click.option("--z-dim", default=DEFAULTS.z_dim, help="Size of z (fresh networks only, as the next four).")
@click.option("--w-dim", default=DEFAULTS.w_dim, help="Size of w.")
@click.option("--num-layers", default=DEFAULTS.num_layers, help="Layers of the mapping network.")
@click.option("--channel-base", default=DEFAULTS.channel_base, help="Channels times resolution, at most.")
@click.option("--channel-max", default=DEFAULTS.channel_max, help="Channels, at most.")
@click.option("--mbstd-group", default=DEFAULTS.mbstd_group, help="Pictures that the discriminator compares.")
@click.option("--accumulate", default=DEFAULTS.accumulate, help="Pieces of a batch, one after the other: less memory.")
@click.option("--seed", default=DEFAULTS.seed, help="Latents, order of images, initial weights.")
@click.option("--save-every", default=DEFAULTS.save_every, help="Steps between states, scores and sample sheets.")
@click.option("--fit", help="How images become square: crop, pad or stretch; none: they must be square.")
@click.option("--mirror/--no-mirror", default=MATERIAL.mirror, help="Show images mirrored in every second pass.")
@click.option("--resume-from", default="", help="Networks to start from: weights of any layout, a state, a pack.")
@click.option("--grow-from", default="", help="The same of a lower resolution; new blocks start without a jump.")
@click.option("--judge", default="", help="Pack whose judge scores the samples; none: the trained pack.")
@click.option("--score-samples", default=MATERIAL.score_samples, help="Samples per score; 0: no scores.")
@click.option("--workers", type=click.IntRange(0, 64), default=MATERIAL.workers, help="Processes that read pictures.")
@click.option("--licence", default=MATERIAL.licence, help="Of the images; a new pack says it.")
@click.option("--credit", default=MATERIAL.credit, help="Attribution for the images; a new pack says it.")
@click.option("--replace", is_flag=True, help="Replace a generator that other parts of the pack belong to.")
def main(pack: str, run: Path, tick: float, dry_run: bool, device: str, replace: bool, **options):
    """Train StyleGAN2 on pictures and write generator and discriminator into PACK (a folder).

    The pack is made where there is none: one for an embedded domain with its part names, one for images without any.
    """
    material = Material(**{f.name: options.pop(f.name) for f in fields(Material)})
    config = GeneratorConfig(**options)
    if dry_run:
        show_dry_run(generator_training(Path(pack), run, config, material, device), run)
    else:
        show_scores(train_pack_generator(pack, run, config, material, replace, device, tick))


if __name__ == "__main__":
    main()
