#!/usr/bin/env python
"""Ablate the rearranger's loss terms: short trainings that differ in one thing, scored alike; prints a table.

python benchmarks/ablation.py toonhead --out docs/ablation-table.md
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import torch

from sis_rearrange.cli.options import OneLine
from sis_rearrange.evaluation.networks import Networks, batches
from sis_rearrange.evaluation.rearrangement import score_colours, score_rearrangement
from sis_rearrange.images import write_text
from sis_rearrange.metrics import frechet_distance
from sis_rearrange.pack import Pack, load_pack
from sis_rearrange.training.rearranger import LossWeights, RearrangerConfig, train_rearranger

BASE = RearrangerConfig(adversarial_after=0.2, precision="bfloat16", save_every=10_000)
VARIANTS = {
    "all terms": BASE,
    **{
        f"without `{term}`": replace(BASE, weights=replace(BASE.weights, **{term: 0.0}))
        for term, weight in vars(LossWeights()).items()
        if weight > 0
    },
    "with `parts`": replace(BASE, weights=replace(BASE.weights, parts=1.0)),
    "with `parts` and `part_colour`": replace(BASE, weights=replace(BASE.weights, parts=1.0, part_colour=4.0)),
    "without refinement": replace(BASE, refine_width=0),
    "relaxed by one cell": replace(BASE, relax=1),
    "soft agreement (sharpness 1)": replace(BASE, sharpness=1.0),
}
COLUMNS = {
    "proxy_agreement_other_reachable": "agreement, other mask",
    "proxy_agreement_own": "agreement, own mask",
    "psnr_self_db": "own mask, PSNR (dB)",
    "colour_to_source_all": "colour distance to source",
    "judge_frechet_samples": "judge-feature distance to samples",
}
SEEDS = range(620_000, 620_128)


@torch.inference_mode()
def distance_to_samples(networks: Networks, pack: Pack) -> float:
    """Frechet distance of judge features between pictures with another sample's layout and plain samples."""
    judge = pack.judge()
    found: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for at in batches(len(SEEDS), "distance", progress=None):
        source = networks.sources(SEEDS[at])
        found[0].append(judge.features(networks.picture(source)))
        found[1].append(judge.features(networks.rearrange(source, source.labels.roll(1, 0))[1]))
    plain, moved = (torch.cat(features).numpy() for features in found)
    return frechet_distance(moved, plain)


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("pack_name", metavar="PACK")
@click.option("--kimg", default=1.2, help="Length of each training in thousands of samples.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/ablation"), help="Folder to resume from.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the table, in Markdown.")
def main(pack_name: str, kimg: float, runs: Path, out: Path | None) -> None:
    """Train PACK's rearranger once for each variant, with one thing changed, and compare."""
    pack = load_pack(pack_name)
    plain = Networks.of(pack, BASE.psi, rearranger=False)
    lines = ["| variant | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for title, config in VARIANTS.items():
        run = runs / title.replace(" ", "-").replace("`", "")
        net, _ = train_rearranger(
            plain.split, plain.proxy, pack.discriminator(), pack.segmenter(), replace(config, kimg=kimg), run
        )
        moved = replace(plain, rearranger=net)
        scores = score_rearrangement(moved, SEEDS)
        scores |= score_colours(moved, pack.judge(), pack.classes, SEEDS)[0]
        scores["judge_frechet_samples"] = distance_to_samples(moved, pack)
        lines.append(f"| {title} | " + " | ".join(f"{scores[name]:.4g}" for name in COLUMNS) + " |")
        click.echo(lines[-1])
        if out is not None:
            write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
