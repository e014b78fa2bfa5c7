#!/usr/bin/env python
"""What trainings at full size would take, counted and not measured; writes the tables of docs/scale.md.

python benchmarks/scale_estimates.py --out docs/scale.md

Networks are made of torch's fake tensors, which have shapes and no numbers. The arithmetic of a step, with its backward
passes, is counted by torch's formulas, the activations it keeps by the storages that autograd saves. Time follows from
an assumed speed, memory from the sums; nothing of this has run at these sizes here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn as nn
from pairs import markdown_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sis_rearrange import losses
from sis_rearrange.cli.options import OneLine
from sis_rearrange.features import SplitGenerator
from sis_rearrange.images import write_text
from sis_rearrange.mapper import SemanticMapper
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.stylegan2 import Discriminator, Generator, set_impl
from sis_rearrange.training.mapper import MapperConfig
from sis_rearrange.training.rearranger import RearrangerConfig
from sis_rearrange.unet import UNet

CLUSTERS, PARTS = 24, 19
TAPS = {256: 32, 512: 32, 1024: 64}  # cells per side
CHANNEL_BASE = {256: 16384, 512: 32768, 1024: 32768}
BATCH = {"generator": 4, "rearranger": 4, "mapper": 8}  # samples counted on; per-sample figures hardly depend on it
KIMG = {"generator": 25_000, "rearranger": 200, "mapper": 200}
GPUS = (1, 8, 64)
ACHIEVED = 60e12  # operations per second that a GPU gets done, in bfloat16
LINK = 20e9  # bytes per second that every process adds gradients up at, between machines
SPREAD = {1: 1.0, 8: 0.95, 64: 0.85}  # share of the speed left when processes wait for each other
GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """Of one sample in a step, and of the networks."""

    flops: float
    kept: float  # bytes of float32 activations that autograd saves
    fixed: float  # bytes of weights, gradients, averages and optimisers
    gradients: float  # bytes added up over processes in a step


class Operations(TorchDispatchMode):
    """Adds up what `flop_registry` says of every call. (torch's own counter follows modules, and trips over R1.)"""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the call and count it."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def counted(work: Callable[[], torch.Tensor]) -> tuple[float, float]:
    """Operations (a multiplication and an addition are two) of work and its backward pass, and bytes kept for it."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with Operations() as flops, torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        result = work()
        if result.requires_grad:
            result.backward()
    return flops.total, sum(kept.values())


def size(*networks: nn.Module) -> float:
    """Bytes of the parameters in float32."""
    return 4.0 * sum(p.numel() for network in networks for p in network.parameters())


@cache
def networks(resolution: int) -> tuple[Generator, Discriminator]:
    """StyleGAN2 configuration f, without numbers."""
    base = CHANNEL_BASE[resolution]
    pair = Generator(512, 0, 512, resolution, channel_base=base), Discriminator(0, resolution, channel_base=base)
    for network in pair:
        set_impl(network, "ref")
    return pair


def shaped(*shape: int) -> torch.Tensor:
    """A tensor without numbers."""
    return torch.empty(*shape)


def generator_cost(resolution: int) -> Cost:
    """A step of GAN training: discriminator, generator, R1 in every 16th step, path length in every 8th."""
    n, (g, d) = BATCH["generator"], networks(resolution)
    g.requires_grad_(True)

    def fakes(count: int = n) -> tuple[torch.Tensor, torch.Tensor]:
        ws = g.mapping(shaped(count, 512))
        return ws, g.synthesis(ws, "none")

    def judge() -> torch.Tensor:
        return losses.discriminator(d(shaped(n, 3, resolution, resolution)), d(fake.detach()))

    def r1() -> torch.Tensor:
        real = shaped(n, 3, resolution, resolution).requires_grad_(True)
        return losses.r1_penalty(d(real), real, 1.0)

    def path() -> torch.Tensor:
        ws, images = fakes(n // 2)
        (gradient,) = torch.autograd.grad(images.sum(), ws, create_graph=True)
        return gradient.square().sum()

    d.requires_grad_(True)
    _, fake = fakes()
    parts = [counted(judge), counted(r1)]
    d.requires_grad_(False)
    parts += [counted(lambda: losses.adversarial(d(fakes()[1]))), counted(path)]
    flops = parts[0][0] + parts[1][0] / 16 + parts[2][0] + parts[3][0] / 8
    made = counted(lambda: fakes()[1].sum())[1]  # kept while the discriminator learns
    kept = max(made + parts[0][1], made + parts[1][1], parts[2][1] + parts[3][1])
    return Cost(flops / n, kept / n, 5 * size(g) + 4 * size(d), size(g, d))


def rearranger_cost(resolution: int) -> Cost:
    """A step of the rearranger's training: sampling, both ways, every second time the discriminator."""
    n, (g, d) = BATCH["rearranger"], networks(resolution)
    config, tap = RearrangerConfig(), TAPS[resolution]
    own = max(1, n * config.own // config.batch)
    split = SplitGenerator(g.requires_grad_(False), tap)
    net = Rearranger(split.tap.channels, CLUSTERS, tap, config.width, config.refine_width)
    ws, mask = shaped(n, g.num_ws, 512), shaped(n, CLUSTERS, tap, tap)
    features, skip = shaped(n, split.tap.channels, tap, tap), shaped(n, 3, tap, tap)

    def twice(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:own], x])

    def moved() -> torch.Tensor:
        arranged = net(*(twice(x) for x in (features, skip, mask, mask)))
        images = split.g2(arranged.feature_map, arranged.skip, twice(ws))
        return losses.adversarial(d(images[own:])) + images.mean()  # reading the mask costs next to nothing

    def judge() -> torch.Tensor:
        return losses.discriminator(*(d(shaped(n, 3, resolution, resolution)) for _ in range(3)))

    def sample() -> torch.Tensor:
        with torch.no_grad():
            return split.g2(*split.g1(g.mapping(shaped(n, 512))), ws)

    d.requires_grad_(False)
    sampled, step = counted(sample), counted(moved)
    d.requires_grad_(True)
    judged = counted(judge)
    flops = sampled[0] + step[0] + judged[0] / 2
    fixed = size(g) + 5 * size(net) + 4 * size(d)
    return Cost(flops / n, max(step[1], judged[1]) / n, fixed, size(net, d))


def mapper_cost(resolution: int) -> Cost:
    """A step of a mapper's training: sampling, the mapper, a quarter of the samples followed to the picture."""
    n, (g, _) = BATCH["mapper"], networks(resolution)
    config, tap = MapperConfig("sketch"), TAPS[resolution]
    followed = n * config.cycle_batch // config.batch
    split = SplitGenerator(g.requires_grad_(False), tap)
    net = SemanticMapper("sketch", 2, CLUSTERS, resolution, tap, config.widths)
    rearranger = Rearranger(split.tap.channels, CLUSTERS, tap).requires_grad_(False)
    segmenter = UNet(3, PARTS, (16, 32, 64, 96, 128)).requires_grad_(False)
    ws = shaped(n, g.num_ws, 512)

    def sample() -> torch.Tensor:
        with torch.no_grad():
            return segmenter(split.g2(*split.g1(g.mapping(shaped(n, 512))), ws))

    def step() -> torch.Tensor:
        logits = net(shaped(n, 2, resolution, resolution))
        mask = logits[:followed].softmax(dim=1)
        features, skip = shaped(followed, split.tap.channels, tap, tap), shaped(followed, 3, tap, tap)
        moved = rearranger(features, skip, mask.detach(), mask)
        return segmenter(split.g2(moved.feature_map, moved.skip, ws[:followed])).mean() + logits.mean()

    sampled, trained = counted(sample), counted(step)
    fixed = size(g, rearranger, segmenter) + 5 * size(net)
    return Cost((sampled[0] + trained[0]) / n, trained[1] / n, fixed, size(net))


COSTS = {"generator": generator_cost, "rearranger": rearranger_cost, "mapper": mapper_cost}


def batch_of(training: str, resolution: int, gpus: int) -> int:
    """Samples per step: what the presets have, and a group of the discriminator for every process at least."""
    preset = {"generator": 64 if resolution == 256 else 32, "rearranger": 16, "mapper": 16}[training]
    return max(preset, 4 * gpus)


def days(training: str, cost: Cost, batch: int, gpus: int) -> float:
    """Length of a training of `KIMG` in days."""
    work = KIMG[training] * 1000 * cost.flops / (ACHIEVED * SPREAD[gpus] * gpus)
    adding = 0.0 if gpus == 1 else KIMG[training] * 1000 / batch * 2 * cost.gradients / LINK
    return (work + adding) / 86_400


def memory(cost: Cost, batch: int, gpus: int, accumulate: int) -> float:
    """GiB of a process in bfloat16: half of the activations of a piece, and all the rest."""
    return (cost.fixed + cost.kept / 2 * batch / gpus / accumulate) / GIB


def accumulation(cost: Cost, batch: int, gpus: int, limit: float = 70.0) -> int:
    """The fewest micro-batches of whole groups, a power of two, with which a process stays below ``limit`` GiB."""
    accumulate = 1
    while memory(cost, batch, gpus, accumulate) > limit and batch // gpus // accumulate >= 8:
        accumulate *= 2
    return accumulate


def tables() -> str:
    """What a sample costs, and what trainings take, as Markdown."""
    with FakeTensorMode():
        costs = {(name, r): cost(r) for name, cost in COSTS.items() for r in TAPS}
    per_sample = [
        [name, f"{r}", f"{c.flops / 1e12:.2f}", f"{c.kept / GIB:.2f}", f"{c.fixed / GIB:.2f}"]
        for (name, r), c in costs.items()
    ]
    whole = []
    for (name, r), cost in costs.items():
        for gpus in GPUS:
            batch = batch_of(name, r, gpus)
            pieces = 1 if name == "mapper" else accumulation(cost, batch, gpus)
            length = days(name, cost, batch, gpus)
            shown = f"{length:.1f} days" if length >= 1.5 else f"{24 * length:.1f} hours"
            used = f"{memory(cost, batch, gpus, pieces):.0f} GiB"
            whole.append([name, f"{r}", f"{gpus}", f"{batch}", f"{pieces}", used, f"{KIMG[name]:,}", shown])
    titles = ["training", "pixels", "TFLOP per image", "GiB kept per image, float32", "GiB of networks and optimisers"]
    heads = ["training", "pixels", "GPUs", "--batch", "--accumulate", "memory of each", "kimg", "estimated time"]
    return markdown_table(titles, per_sample) + "\n\n" + markdown_table(heads, whole)


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Page to put the tables into.")
def main(out: Path | None) -> None:
    """Count what trainings at full size would take; print the tables, or put them into a page between its marks."""
    text = tables()
    if out is None:
        click.echo(text)
        return
    marks = "<!-- estimates -->", "<!-- end of estimates -->"
    page = out.read_text(encoding="utf-8")
    new, found = re.subn(f"{marks[0]}.*{marks[1]}", f"{marks[0]}\n\n{text}\n\n{marks[1]}", page, flags=re.DOTALL)
    if not found:
        raise click.ClickException(f"{out}: has no place for the tables ({marks[0]} and {marks[1]})")
    write_text(out, new)


if __name__ == "__main__":
    main()
