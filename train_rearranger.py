#!/usr/bin/env python
"""Train the rearranger of a domain pack; see --help."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click

from sis_rearrange.cli.training import SETTINGS, TrainingCommand, show_dry_run, show_scores, training_options
from sis_rearrange.pack import REARRANGER, UNLABELLED
from sis_rearrange.training.presets import rearranger_options
from sis_rearrange.training.rearranger import LossWeights, RearrangerConfig

DEFAULTS, TERMS = RearrangerConfig(), LossWeights()


@click.command(
    cls=TrainingCommand,
    context_settings=SETTINGS,
    epilog="""\b
Examples:
  # from the generator's samples alone
  python train_rearranger.py pretrained/toonhead --run runs/plain
  # the shipped one: the pack's segmenter helps; half an hour on two cores that have bfloat16
  python train_rearranger.py pretrained/toonhead --run runs/rearranger --precision bfloat16 --parts 1 --part-colour 4
  # interrupted? the same command goes on where the last state was saved
  # on 8 GPUs; see docs/scale.md
  accelerate launch --multi_gpu --num_processes 8 train_rearranger.py my-pack --run runs/gpus --batch 64 \\
      --device auto --precision bfloat16
  # from the rearranger and clusters of a pack with a related generator
  python train_rearranger.py my-pack --run runs/related --resume-from toonhead --refit-proxy --kimg 6
  # other clusters, and one loss term switched off
  python train_rearranger.py my-pack --run runs/k24 --clusters 24 --style 0
  tensorboard --logdir runs""",
)
@click.argument("pack")
@training_options(rearranger_options)
@click.option("--kimg", default=DEFAULTS.kimg, help="Length of the training in thousands of samples.")
@click.option("--batch", default=DEFAULTS.batch, help="Samples per step.")
@click.option("--own", default=DEFAULTS.own, help="How many of them are rearranged after their own mask too.")
@click.option("--lr", default=DEFAULTS.lr, help="Peak learning rate of Adam.")
@click.option("--psi", default=DEFAULTS.psi, help="Truncation of the samples.")
@click.option("--seed", default=DEFAULTS.seed, help="Which samples are seen, and the initial weights.")
@click.option("--relax", default=DEFAULTS.relax, help="Cells forgiven at region borders.")
@click.option("--guide-classes", default=DEFAULTS.guide_classes, help="Finer classes for the losses; 0: none.")
@click.option("--guide-samples", default=DEFAULTS.guide_samples, help="Samples to fit those classes on.")
@click.option("--adversarial-after", default=DEFAULTS.adversarial_after, help="Kimg before the discriminator joins in.")
@click.option("--accumulate", default=DEFAULTS.accumulate, help="Pieces of a batch, one after the other: less memory.")
@click.option("--save-every", default=DEFAULTS.save_every, help="Steps between states, scores and image grids.")
@click.option("--tap", default=32, help="Resolution of the feature map to rearrange (new clusters only).")
@click.option("--clusters", default=24, help="Number of proxy clusters (new clusters only).")
@click.option("--proxy-samples", default=1000, help="Samples to fit the clusters on (new clusters only).")
@click.option(
    "--refit-proxy", is_flag=True, help="Fit new clusters though the pack has some. Retrain all mappers then."
)
@click.option("--resume-from", default="", help="Pack whose rearranger to start from, and clusters, if any are fitted.")
@click.option("--unlabelled", is_flag=True, help="Write it beside the pack's own, as the few-shot protocol's.")
@click.option("--self-feature", default=TERMS.self_feature, help="Weight: own mask, L1 of features.")
@click.option("--self-image", default=TERMS.self_image, help="Weight: own mask, L1 of images.")
@click.option("--agreement", default=TERMS.agreement, help="Weight: cross-entropy with the target mask.")
@click.option("--attention", default=TERMS.attention, help="Weight: attention mass on the asked class.")
@click.option("--guide", default=TERMS.guide, help="Weight: attention mass on the guide class.")
@click.option("--style", default=TERMS.style, help="Weight: per-class statistics.")
@click.option("--colour", default=TERMS.colour, help="Weight: per-class mean colour of images.")
@click.option("--parts", default=TERMS.parts, help="Weight: the pack's segmenter finds the donor's parts.")
@click.option("--part-colour", default=TERMS.part_colour, help="Weight: mean colour of each of these parts.")
@click.option("--adversarial", default=TERMS.adversarial, help="Weight: the generator's discriminator.")
def main(
    pack: str,
    run: Path,
    tick: float,
    dry_run: bool,
    tap: int,
    clusters: int,
    proxy_samples: int,
    refit_proxy: bool,
    unlabelled: bool,
    resume_from: str,
    device: str,
    **options,
):
    """Train the rearranger of PACK (a folder, or a name in pretrained/) from its generator's own samples.

    Fits proxy clusters first where the pack has none. Writes into the pack when done. A weight of 0 switches a loss
    term off.
    """
    from sis_rearrange.training.origins import origin_of
    from sis_rearrange.training.pack_training import rearranger_dry_run, train_pack_rearranger

    weights = LossWeights(**{f.name: options.pop(f.name) for f in fields(LossWeights)})
    config = RearrangerConfig(weights=weights, **options)
    where = UNLABELLED if unlabelled else REARRANGER
    if dry_run:
        start = origin_of(resume_from, run)
        show_dry_run(rearranger_dry_run(pack, config, tap, clusters, refit_proxy, device, where, start), run)
    else:
        fitting = (tap, clusters, proxy_samples, refit_proxy)
        show_scores(train_pack_rearranger(pack, run, config, *fitting, device, tick, where, resume_from))


if __name__ == "__main__":
    main()
