#!/usr/bin/env python
"""How well extractors read parts off feature maps after 1, 4, 8 and 16 annotated samples; prints a table.

python benchmarks/extractors.py toonhead --out docs/extractors-table.md
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import torch
from tqdm import tqdm

from sis_rearrange.cli.options import OneLine, parse_seeds
from sis_rearrange.evaluation.few_shot import FULL
from sis_rearrange.evaluation.networks import parts
from sis_rearrange.extractor import KINDS, SemanticExtractor
from sis_rearrange.features import all_features, sample_ws
from sis_rearrange.images import write_text
from sis_rearrange.metrics import confusion, miou
from sis_rearrange.pack import Pack, load_pack
from sis_rearrange.sample_parts import sample_parts
from sis_rearrange.stylegan2 import Generator
from sis_rearrange.training.distil import DistilConfig
from sis_rearrange.training.few_shot import Shot, distil_training, train_extractor
from sis_rearrange.training.run import run_training

HELD_OUT = range(660_000, 661_000)  # no training, no annotated sample and no other evaluation draws from them
COLOURS = "nonlinear, with each sample's colours"
UNET = "U-Net on pictures, taught by that"
AT_ONCE = 8

Labeller = Callable[[torch.Tensor], torch.Tensor]  # ws -> labels [N, R, R]


def annotated(pack: Pack, count: int, repeat: int) -> list[Shot]:
    """The samples of the few-shot protocol, their parts as the pack's segmenter sees them."""
    generator = pack.generator()
    with torch.no_grad():
        ws = sample_ws(generator, FULL.annotated(count, repeat), FULL.psi)
        labels = parts(pack.segmenter(), generator.synthesis(ws).clamp(-1, 1))
    return [Shot(w, mask) for w, mask in zip(ws, labels, strict=True)]


def _labels(generator: Generator, extractor: SemanticExtractor, ws: torch.Tensor) -> torch.Tensor:
    return extractor(all_features(generator, ws)[0]).argmax(1)


def labellers(pack: Pack, shots: list[Shot], seed: int, unet: bool) -> dict[str, Labeller]:
    """Title -> what it has learnt from the shots."""
    generator, P = pack.generator(), len(pack.classes)
    found: dict[str, Labeller] = {}
    extractors = {kind: train_extractor(generator, shots, P, kind, seed=seed) for kind in KINDS}
    for kind, extractor in extractors.items():
        found[kind] = partial(_labels, generator, extractor)
    found[COLOURS] = lambda ws: sample_parts(generator, extractors["nonlinear"], ws)[1]
    if unet:
        training = distil_training(copy.deepcopy(generator), shots, P, DistilConfig(seed=seed))
        with tempfile.TemporaryDirectory() as folder:
            run_training(training, Path(folder))
        network = training.segmenter.eval()
        found[UNET] = lambda ws: parts(network, generator.synthesis(ws).clamp(-1, 1))
    return found


@torch.no_grad()
def score(pack: Pack, labeller: Labeller, count: int) -> tuple[float, float]:
    """mIoU on held-out samples, in points, against the judge and against the segmenter that annotated the shots."""
    generator, P = pack.generator(), len(pack.classes)
    matrices = torch.zeros(2, P, P, dtype=torch.int64)
    for start in range(0, count, AT_ONCE):
        ws = sample_ws(generator, HELD_OUT[start : min(start + AT_ONCE, count)], FULL.psi)
        seen, images = labeller(ws), generator.synthesis(ws).clamp(-1, 1)
        for matrix, network in zip(matrices, (pack.judge(), pack.segmenter()), strict=True):
            matrix += confusion(seen, parts(network, images), P)
    return 100 * miou(matrices[0]), 100 * miou(matrices[1])


def cell(values: list[float]) -> str:
    """Mean, and the spread over repeats where there are several."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("pack_name", metavar="PACK")
@click.option("--shots", "counts", default="1,4,8,16", help="Numbers of annotated samples.")
@click.option("--repeats", default=3, help="With other annotated samples each.")
@click.option("--held-out", type=click.IntRange(8, len(HELD_OUT)), default=64, help="Samples that are scored.")
@click.option("--unet/--no-unet", default=True, help="Also the U-Net that mappers are trained with.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the table, in Markdown.")
def main(pack_name: str, counts: str, repeats: int, held_out: int, unet: bool, out: Path | None) -> None:
    """Train PACK's extractors on samples that its segmenter annotates, and hold them against its judge."""
    pack, numbers = load_pack(pack_name), parse_seeds(counts, "shots")
    results: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for repeat in tqdm(range(repeats), desc="repeats", disable=None):
        for count in numbers:
            for title, labeller in labellers(pack, annotated(pack, count, repeat), repeat, unet).items():
                results.setdefault((title, count), []).append(score(pack, labeller, held_out))
    titles = list(dict.fromkeys(title for title, _ in results))
    lines = [f"mIoU of {held_out} held-out samples, mean of {repeats} repeats; in brackets: as the annotator sees them"]
    lines += ["", f"| | {' | '.join(f'N = {n}' for n in numbers)} |", "|---" * (len(numbers) + 1) + "|"]
    for title in titles:
        found = [zip(*results[title, n], strict=True) for n in numbers]
        cells = [f"{cell(list(judge))} ({cell(list(own))})" for judge, own in found]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    segmenter = pack.segmenter()
    ceiling = score(pack, lambda ws: parts(segmenter, pack.generator().synthesis(ws).clamp(-1, 1)), held_out)[0]
    lines += ["", f"The annotator itself, the ceiling: {ceiling:.1f}."]
    click.echo("\n".join(lines))
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
