#!/usr/bin/env python
"""Where the milliseconds go between a drawing's file and its picture, on torch and on OpenVINO in turns.

python benchmarks/latency.py toonhead
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn as nn
from pairs import number, quartiles, text_table, time_rounds
from PIL import Image

from sis_rearrange import engine
from sis_rearrange.cli.options import OneLine, open_pack
from sis_rearrange.images import read_image
from sis_rearrange.inference import SynthesisGraph
from sis_rearrange.pack import Pack
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.tensors import one_hot, to_uint8

BACKENDS = ("torch", "openvino")
SEED = 7
PARTS = ("read the file", "condition reader", "networks, one call", "tensor to picture")  # of the whole, in order
TITLES = ("step", "torch ms", "openvino ms", "ratio", "spread")

Call = Callable[[], Any]


class Rearranging(nn.Module):
    """The rearranger by itself, for a graph of its own."""

    def __init__(self, rearranger: Rearranger) -> None:
        super().__init__()
        self.rearranger = rearranger

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Mask and look without ws, as `MaskToPicture` takes them, to feature map and skip image."""
        mask, feature_map, skip, source_mask, source_code = inputs
        return tuple(self.rearranger(feature_map, skip, source_mask, mask, source_code=source_code)[:2])


def steps(synth: Synthesizer, path: Path, condition: str) -> dict[str, Call]:
    """Every step by itself, and the whole."""
    source = synth.source
    assert source is not None
    reader, mapper = synth.readers.halves(condition)
    drawing = read_image(path)
    x, fit = reader.read(drawing, mapper.image_resolution)
    labels = synth.labels_for(synth.read(path, condition))
    mask = one_hot(labels, synth.proxy.K)
    ws, look = source.ws, (source.feature_map, source.skip, source.mask, source.code)
    rearrange, g2 = _pieces(synth, mask, ws, *look)
    moved = rearrange()
    image = synth.rearrange(labels).images
    return {
        "read the file": lambda: read_image(path),
        "condition reader": lambda: (reader.read(drawing, mapper.image_resolution), reader.show(x[0])),
        "networks, one call": lambda: synth.paths.draw(mapper, x, source),
        "  mapper alone": lambda: synth.readers.map(x, condition),
        "  rearranger alone": rearrange,
        "  G2 alone": lambda: g2(*moved, ws),
        "tensor to picture": lambda: fit.undo(Image.fromarray(to_uint8(image)[0])),
        "synthesize, in all": lambda: synth.synthesize(path, condition),
    }


def _pieces(synth: Synthesizer, mask: torch.Tensor, ws: torch.Tensor, *look: torch.Tensor) -> tuple[Call, Callable]:
    """Rearranger and G2 of a backend, each by itself."""
    alone = Rearranging(synth.sources.rearranger)

    def rearranged() -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            return alone(mask, *look)

    def painted(*inputs: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return synth.split.g2(*inputs)

    if synth.backend == "torch":
        return rearranged, painted
    key = f"benchmark-{synth.pack.hash}"
    first = engine.compile_graph(alone, (mask, *look), key, "rearranger")
    g2 = SynthesisGraph(synth.split.generator, 2 * synth.split.tap.resolution)
    second = engine.compile_graph(g2, (*rearranged(), ws), key, "g2")
    return lambda: first(mask, *look), second


def measure(pack: Pack, condition: str, rounds: int) -> list[list[str]]:
    """One row per step: medians of both backends, and how many times faster the second is."""
    path = next(pack.file(name) for name in pack.drawings() if Path(name).name.startswith(f"{condition}-"))
    found = {}
    for backend in BACKENDS:
        synth = Synthesizer(pack, "cpu", backend)
        synth.set_source(seed=SEED)
        found[backend] = steps(synth, path, condition)
    rows, medians = [], {}
    for step in found["torch"]:
        seconds = time_rounds({backend: found[backend][step] for backend in BACKENDS}, rounds, warm_up=5)
        medians[step] = [1000 * statistics.median(seconds[backend]) for backend in BACKENDS]
        ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
        low, middle, high = quartiles(ratios)
        rows.append([step, *map(number, medians[step]), f"{middle:.2f}", f"{low:.2f}-{high:.2f}"])
    rest = [whole - sum(medians[part][i] for part in PARTS) for i, whole in enumerate(medians["synthesize, in all"])]
    rows.insert(-1, ["rest", *(f"{value:.2g}" for value in rest), "", ""])
    return rows


@click.command(cls=OneLine)
@click.argument("pack_name", metavar="PACK", default="toonhead")
@click.option("--rounds", type=click.IntRange(min=3), default=60, show_default=True, help="Runs of every step.")
def main(pack_name: str, rounds: int) -> None:
    """Print the breakdown for every condition of a pack that ships drawings."""
    pack = open_pack(pack_name)
    click.echo(f"{pack.name}, {torch.get_num_threads()} threads, medians of {rounds} runs")
    for condition in pack.conditions():
        if any(Path(name).name.startswith(f"{condition}-") for name in pack.drawings()):
            click.echo(f"\n{condition}\n{text_table(TITLES, measure(pack, condition, rounds))}")


if __name__ == "__main__":
    main()
