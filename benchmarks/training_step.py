"""How long a StyleGAN2 training step takes on the native ops and on plain torch, side by side in one process.

    python benchmarks/training_step.py --threads 2 --pairs 15

The networks are the shipped toonhead generator and discriminator (64 pixels) or random ones of another size. A step is
what `losses` defines: the generator's step (forward, backward, Adam), the discriminator's (fakes without gradients,
reals and fakes forward and backward, Adam) and, lazily, the R1 penalty with its second backward pass. Both paths do the
same work on the same tensors in turn; the ratio is taken pair by pair, so that a busy machine slows both.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
import torch.nn as nn
from official import OfficialSynthesis

from sis_rearrange import losses
from sis_rearrange.ops import backend
from sis_rearrange.pack import load_pack
from sis_rearrange.stylegan2 import Discriminator, Generator, set_impl

R1_GAMMA = 0.1


class Step:
    """The parts of a training step on one path: "native" ops where they pay, "ref" (plain torch in the same order), or
    "official" (plain torch with the official arithmetic of synthesis: grouped convolutions of modulated weights)."""

    def __init__(self, generator: Generator, discriminator: Discriminator, impl: str, batch: int) -> None:
        self.generator = copy.deepcopy(generator).train().requires_grad_(True)
        self.discriminator = copy.deepcopy(discriminator).train().requires_grad_(True)
        for network in (self.generator, self.discriminator):
            set_impl(network, "auto" if impl == "native" else "ref")
        self.synthesis: nn.Module = self.generator.synthesis
        if impl == "official":
            self.synthesis = OfficialSynthesis(self.generator)
        draw = torch.Generator().manual_seed(1)
        side = discriminator.img_resolution
        self.z = torch.randn(batch, generator.z_dim, generator=draw)
        self.real = torch.randn(batch, 3, side, side, generator=draw)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), lr=1e-4, betas=(0.0, 0.99))
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=1e-4, betas=(0.0, 0.99))

    def fakes(self) -> torch.Tensor:
        """Pictures of the generator, with gradients where those are on."""
        return self.synthesis(self.generator.mapping(self.z))

    def g_step(self) -> None:
        """One update of the generator."""
        self.discriminator.requires_grad_(False)
        self.g_optimizer.zero_grad()
        losses.adversarial(self.discriminator(self.fakes())).backward()
        self.g_optimizer.step()
        self.discriminator.requires_grad_(True)

    def d_step(self) -> None:
        """One update of the discriminator, without R1."""
        with torch.no_grad():
            fake = self.fakes()
        self.d_optimizer.zero_grad()
        losses.discriminator(self.discriminator(self.real), self.discriminator(fake)).backward()
        self.d_optimizer.step()

    def r1_step(self) -> None:
        """The R1 penalty by itself: forward, backward, backward through that, Adam."""
        self.d_optimizer.zero_grad()
        real = self.real.clone().requires_grad_(True)
        losses.r1_penalty(self.discriminator(real), real, R1_GAMMA).backward()
        self.d_optimizer.step()


def seconds(work: Callable[[], None]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def measure(steps: dict[str, Step], pairs: int, interval: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every part on every path, taken in turn; the sums count R1 once in ``interval`` steps, or always."""
    parts = ("g_step", "d_step", "r1_step")
    for step in steps.values():  # the first calls allocate, choose kernels, build
        for part in parts * 2:
            getattr(step, part)()
    times: dict[str, dict[str, list[float]]] = {part: {name: [] for name in steps} for part in parts}
    for number in range(pairs):
        order = list(steps) if number % 2 == 0 else list(steps)[::-1]
        for part in parts:
            for name in order:
                times[part][name].append(seconds(getattr(steps[name], part)))
    for label, share in ((f"step, R1 every {interval}", 1 / interval), ("step, R1 every time", 1.0)):
        times[label] = {
            name: [g + d + share * r for g, d, r in zip(*(times[part][name] for part in parts), strict=True)]
            for name in steps
        }
    return times


def table(times: dict[str, dict[str, list[float]]]) -> list[dict[str, object]]:
    """One row per part and baseline: medians in milliseconds, the median ratio of the pairs and its quartiles."""
    rows: list[dict[str, object]] = []
    for part, by_path in times.items():
        for baseline in (name for name in by_path if name != "native"):
            pairs = zip(by_path[baseline], by_path["native"], strict=True)
            low, middle, high = quartiles([slow / fast for slow, fast in pairs])
            medians = [statistics.median(by_path[name]) * 1e3 for name in (baseline, "native")]
            row = {"part": part, "baseline": baseline, "baseline_ms": medians[0], "native_ms": medians[1]}
            rows.append({**row, "ratio": round(middle, 3), "spread": [round(low, 3), round(high, 3)]})
    return rows


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--threads", default=2, type=click.IntRange(1), help="threads of torch")
@click.option("--pairs", default=15, type=click.IntRange(2), help="how often each path is timed")
@click.option("--batch", default=8, type=click.IntRange(1), help="samples per step")
@click.option("--interval", default=16, type=click.IntRange(1), help="discriminator steps between R1 penalties")
@click.option("--resolution", default=0, type=int, help="random networks of this size instead of the shipped ones")
@click.option("--out", type=click.Path(path_type=Path), help="also write the table as JSON")
def main(threads: int, pairs: int, batch: int, interval: int, resolution: int, out: Path | None) -> None:
    """Time a training step on the native ops against plain torch."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    name, why = backend()
    click.echo(f"ops: {name} ({why})")
    if name != "native":
        raise click.ClickException("there is nothing to compare without the native ops")
    if resolution:
        generator: Generator = Generator(128, 0, 128, resolution, channel_base=2048, channel_max=128, num_layers=4)
        discriminator: Discriminator = Discriminator(0, resolution, channel_base=2048, channel_max=128)
    else:
        pack = load_pack("toonhead")
        generator, discriminator = pack.generator(), pack.discriminator()
    steps = {impl: Step(generator, discriminator, impl, batch) for impl in ("official", "ref", "native")}
    rows = table(measure(steps, pairs, interval))
    click.echo(f"{'part':22}{'baseline':>10}{'time':>12}{'native':>12}{'ratio':>8}   quartiles")
    for row in rows:
        numbers = f"{row['baseline_ms']:>9.1f} ms{row['native_ms']:>9.1f} ms{row['ratio']:>8}"
        click.echo(f"{row['part']:22}{row['baseline']:>10}{numbers}   {row['spread']}")
    if out:
        settings = {"threads": threads, "pairs": pairs, "batch": batch, "torch": torch.__version__}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
