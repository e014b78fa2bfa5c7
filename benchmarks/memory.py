#!/usr/bin/env python
"""Peak memory of synthesis in a process of its own: megabytes beyond the weights as JSON.

python benchmarks/memory.py --resolution 1024 --way official
"""

from __future__ import annotations

import json

import click
import torch
from machine import peak_memory, resident_memory
from official import OfficialSynthesis
from works import random_generator

from sis_rearrange.cli.options import OneLine
from sis_rearrange.errors import InputError
from sis_rearrange.inference import accelerate


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--resolution", default=1024, help="Side of the picture in pixels.")
@click.option("--way", default="official", help="official, or a backend: torch, openvino, auto.")
def main(resolution: int, way: str) -> None:
    """Measure the first synthesis, with all that is built and compiled for it, and a later one."""
    generator = random_generator(resolution)
    ws = torch.randn(1, generator.num_ws, generator.w_dim)
    before = resident_memory()
    network: list[torch.nn.Module] = []

    def first() -> None:
        network.append(OfficialSynthesis(generator) if way == "official" else accelerate(generator, way).synthesis)
        network[0](ws)

    with torch.inference_mode():
        peaks = {"first": peak_memory(first), "later": peak_memory(lambda: network[0](ws))}
    beyond = {name: peak - before for name, peak in peaks.items() if peak is not None and before is not None}
    if len(beyond) < len(peaks):
        raise InputError("peak memory is only known where Linux says it in /proc")
    click.echo(json.dumps(beyond))


if __name__ == "__main__":
    main()
