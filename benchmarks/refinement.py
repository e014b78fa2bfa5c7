#!/usr/bin/env python
"""What steps of refinement are worth: masks or scribbles of held-out renders, judged, after 0 steps and more.

python benchmarks/refinement.py toonhead --condition segmentation --sheet refinement.png
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from pairs import text_table
from PIL import Image
from tqdm import tqdm

from sis_rearrange.cli.options import OneLine, open_pack
from sis_rearrange.conditions import OF_PARTS, get_condition
from sis_rearrange.domains import render_many, split_indices
from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.drawings import drawn, rendered_domain
from sis_rearrange.evaluation.networks import parts
from sis_rearrange.images import contact_sheet, write_png
from sis_rearrange.metrics import confusions, frechet_distance, miou, pixel_accuracy
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.tensors import from_uint8

SIDE = 256  # pixels of the drawings: people's are larger than the generator's pictures
SOURCE_SEEDS = 685_000  # the first of the looks, one for each drawing
ON_SHEET = 10


def numbers(text: str) -> list[int]:
    """The numbers of a list such as 0,3,6; InputError for anything else."""
    if not all(word.isdecimal() for word in text.split(",")):
        raise InputError(f"--steps {text}: give whole numbers, as in 0,3,6")
    return [int(word) for word in text.split(",")]


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("pack_name", metavar="PACK")
@click.option("--condition", type=click.Choice(OF_PARTS), default="segmentation")
@click.option("--drawings", default=64, help="Of renders of the test split, each in a look of its own.")
@click.option("--steps", default="0,3,6,12", help="Numbers of steps to compare, 0 first.")
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG file for some pictures.")
def main(pack_name: str, condition: str, drawings: int, steps: str, sheet: Path | None) -> None:
    """Print, for each number of steps, what the judge sees, and how long a picture took (the first is left out)."""
    pack = open_pack(pack_name)
    synth, judge, classes = Synthesizer(pack, "cpu"), pack.judge(), len(pack.classes)
    indices = split_indices("test", drawings)
    domain = rendered_domain(pack)
    renders, large = render_many(domain, indices, SIDE, 1)
    small, masks = render_many(domain, indices, pack.resolution, 1)
    sources = [synth.set_source(seed=SOURCE_SEEDS + n) for n in range(drawings)]
    reader = get_condition(condition, pack.palette())
    files = [drawn(reader, *pair, seed) for pair, seed in zip(zip(renders, large, strict=True), indices, strict=True)]
    rows, shown = [], [files[:ON_SHEET]]
    with torch.inference_mode():
        real = judge.features(from_uint8(small)).numpy()
    for count in numbers(steps):
        pictures, seconds = [], []
        for file, source in tqdm(zip(files, sources, strict=True), total=drawings, desc=f"{count} steps", disable=None):
            began = time.monotonic()
            pictures.append(synth.synthesize(file, condition, source=source, refine=count).image)
            seconds.append(time.monotonic() - began)
        images = from_uint8(np.stack([np.asarray(picture.resize((pack.resolution,) * 2)) for picture in pictures]))
        with torch.inference_mode():
            found = confusions(parts(judge, images), torch.from_numpy(masks).long(), classes).sum(dim=0)
            distance = frechet_distance(judge.features(images).numpy(), real)
        measures = [f"{miou(found):.3f}", f"{pixel_accuracy(found):.3f}", f"{distance:.3f}"]
        rows.append([str(count), *measures, f"{median(seconds[1:] or seconds):.2f}"])
        shown.append([*pictures[:ON_SHEET]])
    click.echo(text_table(["steps", "mIoU", "accuracy", "judge distance", "seconds"], rows))
    click.echo(f"{drawings} drawings of {condition}, pack {pack.short_hash}, threads {torch.get_num_threads()}")
    if sheet is not None:
        cells: list[list[Image.Image]] = [list(row) for row in shown]
        titles = [condition, *(f"{count} steps" for count in numbers(steps))]
        write_png(sheet, contact_sheet(cells, titles, cell=96, label_columns=()))


if __name__ == "__main__":
    main()
