#!/usr/bin/env python
"""Invert held-out renders of a pack's domain: fidelity, time, and how well the results can still be edited.

python benchmarks/inversion.py toonhead --first 4 --pictures 16 --sheet inversion.png
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import click
import torch
from PIL import Image
from tqdm import tqdm

from sis_rearrange.cli.options import OneLine, open_pack
from sis_rearrange.domains import get_domain, render_many, split_indices
from sis_rearrange.editing import Editor, Look
from sis_rearrange.images import contact_sheet, write_png, write_text
from sis_rearrange.inversion import InversionConfig, error_picture, invert
from sis_rearrange.tensors import to_uint8

SIDE = 256  # pixels of the renders: people's pictures are larger than the generator's
LAYOUT_SEEDS, SOURCE_SEEDS = 630_000, 640_000  # the first of the layouts asked for, and of the generated sources


@torch.inference_mode()
def editability(editor: Editor, look: Look, layouts: Sequence[Look]) -> tuple[float, float, Image.Image]:
    """What is left of layouts in a look: shares of proxy cells and of the judge's part pixels that are as asked for."""
    judge, cells, pixels, picture = editor.pack.judge(), [], [], None
    for layout in layouts:
        moved = editor.move(look, layout.labels)
        image = look.decode(moved.feature_map, moved.skip)
        picture = picture or Image.fromarray(to_uint8(image)[0])
        cells.append((editor.proxy.labels(moved.feature_map) == layout.labels).float().mean().item())
        seen, asked = (judge(x).argmax(dim=1) for x in (image, layout.picture()))
        pixels.append((seen == asked).float().mean().item())
    assert picture is not None
    return mean(cells), mean(pixels), picture


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("pack_name", metavar="PACK")
@click.option("--pictures", default=8, help="Renders of the test split.")
@click.option("--first", default=0, help="Of the test split, to leave out.")
@click.option("--layouts", default=8, help="Layouts of samples that each picture is rearranged after.")
@click.option("--steps", default=InversionConfig.steps, help="Steps in W+.")
@click.option("--features", default=InversionConfig.features, help="Of the perceptual loss.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the figures.")
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG file for the pictures.")
def main(
    pack_name: str,
    pictures: int,
    first: int,
    layouts: int,
    steps: int,
    features: str,
    out: Path | None,
    sheet: Path | None,
) -> None:
    """Print one line per picture and the means; seconds are the process's own, on as many threads as torch has."""
    pack = open_pack(pack_name)
    editor = Editor(pack, "cpu")
    indices = split_indices("test", pictures, first)
    renders, _ = render_many(get_domain(pack.info["domain"]), indices, SIDE, workers=1)
    asked = [editor.look(LAYOUT_SEEDS + n) for n in range(layouts)]
    rows: list[dict[str, Any]] = []
    shown: list[list[Image.Image]] = []
    for number, render in enumerate(tqdm(renders, unit="picture", disable=None)):
        began, processor = time.monotonic(), time.process_time()
        found = invert(pack, render, config=InversionConfig(steps=steps, features=features))
        spent = time.monotonic() - began, time.process_time() - processor
        untuned = editor.look(replace(found, delta={}))
        look, own = editor.look(found), editor.look(SOURCE_SEEDS + number)
        cells, pixels, moved = editability(editor, look, asked)
        _, untuned_pixels, _ = editability(editor, untuned, asked)
        own_cells, own_pixels, own_moved = editability(editor, own, asked)
        rows.append(
            {
                "psnr_latent": found.scores["psnr_latent"],
                "psnr": found.psnr,
                "outside": float(found.outside),
                "proxy_agreement": cells,
                "proxy_agreement_generated": own_cells,
                "points_below_generated": 100 * (own_cells - cells),
                "judge_accuracy": pixels,
                "judge_accuracy_untuned": untuned_pixels,
                "judge_accuracy_generated": own_pixels,
                "seconds": spent[0],
                "cpu_seconds": spent[1],
            }
        )
        click.echo(f"test {indices[number]}: " + ", ".join(f"{k} {v:.3f}" for k, v in rows[-1].items()))
        picture = Image.fromarray(render)
        shown.append(
            [picture, Image.fromarray(to_uint8(look.picture())[0]), error_picture(found, picture), moved, own_moved]
        )
    means = {f"{name}_{pictures}": mean(row[name] for row in rows) for name in rows[0]}
    for name, value in means.items():
        click.echo(f"{name} {value:.3f}")
    click.echo(f"threads {torch.get_num_threads()}, load average at the end {os.getloadavg()[0]:.1f}")
    if out is not None:
        report = {
            "pack": pack.name,
            "hash": pack.hash,
            "threads": torch.get_num_threads(),
            "means": means,
            "rows": rows,
        }
        write_text(out, json.dumps(report, indent=2) + "\n")
    if sheet is not None:
        titles = ["picture", "inverted", "error", "in another layout", "a sample in that layout"]
        write_png(sheet, contact_sheet(shown, column_titles=titles, title=f"{pack.name}: inversion of test renders"))


if __name__ == "__main__":
    main()
