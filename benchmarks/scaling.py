#!/usr/bin/env python
"""How cost grows with resolution, batch, K, channels and tap: rearranger, proxy labelling, synthesis.

python benchmarks/scaling.py --out docs
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import click
import machine
import page
import torch
from official import OfficialSynthesis
from pairs import Call, compare
from torch.nn.attention import SDPBackend, sdpa_kernel
from works import OFFICIAL, random_generator

from sis_rearrange.cli.options import OneLine
from sis_rearrange.inference import accelerate
from sis_rearrange.proxy import ProxyClusters
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.tensors import one_hot

MINUTES = 3  # a full run takes about, on two cores
POINT_SECONDS = 2.0  # of timing at one point; three rounds at least
MAX_ROUNDS = 20


@dataclass(frozen=True)
class Point:
    """Where a cost is measured."""

    tap: int = 32  # cells per side
    channels: int = 512  # of the feature map
    K: int = 20  # clusters
    batch: int = 1
    resolution: int = 256  # pixels per side


@dataclass(frozen=True)
class Subject:
    """Something whose cost grows."""

    about: str
    contenders: Callable[[Point], Mapping[str, Call]]  # the baseline first, then ours
    axes: Mapping[str, Sequence[int]]  # field of Point -> its values, the other fields staying as they are
    fixed: tuple[str, ...] = ()  # further fields that matter
    memory: bool = True  # whether a call gives back all it takes, so that one call shows what it needs


def normal(*shape: int) -> torch.Tensor:
    """Seeded standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def rearranger_calls(point: Point) -> dict[str, Call]:
    """One forward pass, the attention matrix stored whole or not at all."""
    torch.manual_seed(0)
    net = Rearranger(point.channels, point.K, point.tap).eval()
    n, cells = point.batch, (point.tap, point.tap)
    masks = [one_hot(normal(n, point.K, *cells).roll(shift, 1).argmax(dim=1), point.K) for shift in (0, 1)]
    inputs = (normal(n, point.channels, *cells), normal(n, 3, *cells), *masks)

    def with_matrix() -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return net(*inputs).feature_map

    return {"attention as a matrix": with_matrix, "ours": lambda: net(*inputs).feature_map}


def proxy_calls(point: Point) -> dict[str, Call]:
    """Labels of a feature map, by distances to all centroids or by products."""
    proxy = ProxyClusters(point.K, point.channels, point.tap)
    proxy.centroids.copy_(normal(point.K, point.channels))
    features = normal(point.batch, point.channels, point.tap, point.tap)

    def by_distances() -> torch.Tensor:
        cells = proxy.normalize(features).permute(0, 2, 3, 1).reshape(-1, point.channels)
        return torch.cdist(cells, proxy.centroids).argmin(dim=1)

    return {"all distances": by_distances, "ours": lambda: proxy.labels(features)}


generator_of = cache(random_generator)


def synthesis_calls(point: Point) -> dict[str, Call]:
    """ws to images, configuration f."""
    generator = generator_of(point.resolution)
    ws = normal(point.batch, generator.num_ws, generator.w_dim)
    theirs, ours = OfficialSynthesis(generator), accelerate(copy.deepcopy(generator)).synthesis
    return {OFFICIAL: lambda: theirs(ws), "ours": lambda: ours(ws)}


SUBJECTS = {
    "rearranger": Subject(
        "One forward pass of the rearranger, plain torch on the CPU. Baseline: attention that stores its matrix.",
        rearranger_calls,
        {"tap": (8, 16, 32, 64), "batch": (1, 2, 4, 8), "K": (8, 20, 64), "channels": (64, 128, 256, 512)},
    ),
    "proxy labelling": Subject(
        "Feature map to proxy mask. Baseline: the distance of every cell to every centroid.",
        proxy_calls,
        {"tap": (8, 16, 32, 64), "batch": (1, 4, 16), "K": (8, 20, 64)},
        fixed=("channels",),
    ),
    "synthesis": Subject(
        "ws to images, sizes of configuration f, random weights, default backend. Baseline: official arithmetic.",
        synthesis_calls,
        {"resolution": (64, 128, 256, 512, 1024), "batch": (1, 2, 4, 8)},
        memory=False,
    ),
}


@torch.inference_mode()
def measure_point(subject: Subject, point: Point, rounds: int | None = None) -> dict[str, float | int | None]:
    """Times, ratio and memory at one point; ``rounds``: as many as fit in `POINT_SECONDS` where not given."""
    contenders = subject.contenders(point)
    for call in contenders.values():  # compiles, allocates
        call()
    started = time.perf_counter()
    peaks = [memory_of(call) for call in contenders.values()]  # timed, where memory does not matter
    fitting = int(POINT_SECONDS / (time.perf_counter() - started))
    (row,) = compare("", contenders, rounds or min(MAX_ROUNDS, max(3, fitting)), warm_up=1)
    return {
        "baseline_ms": row.baseline_value,
        "ours_ms": row.ours_value,
        "ratio": row.ratio,
        "low": row.low,
        "high": row.high,
        "rounds": row.rounds,
        **({"baseline_mb": peaks[0], "ours_mb": peaks[1]} if subject.memory else {}),
    }


def memory_of(call: Call) -> float | None:
    """Megabytes that a call takes beyond what is there before it."""
    before, peak = machine.resident_memory(), machine.peak_memory(call)
    return None if before is None or peak is None else max(0.0, peak - before)


def measure(names: Sequence[str], quick: bool, base: Point | None = None) -> dict[str, Any]:
    """One table per subject and axis, named after both; a quick run takes the two smallest sizes."""
    base = base or Point()
    tables = {}
    for name in names:
        subject, seen = SUBJECTS[name], {}
        for axis, sizes in subject.axes.items():
            rows = []
            for size in sizes[: 2 if quick else None]:
                point = replace(base, **{axis: size})
                if point not in seen:
                    seen[point] = measure_point(subject, point, rounds=2 if quick else None)
                rows.append({"size": size, **page.rounded(seen[point])})
            fields = {*subject.axes, *subject.fixed} - {axis}
            fixed = {field: value for field, value in asdict(base).items() if field in fields}
            tables[f"{name}, {axis}"] = {"about": subject.about, "axis": axis, "fixed": fixed, "rows": rows}
            click.echo(f"{name}, {axis}: {len(rows)} sizes", err=True)
    generator_of.cache_clear()
    return tables


def as_text(tables: Mapping[str, Any]) -> str:
    """The tables for a terminal."""
    return "".join(f"\n{name}\n{page.scaling_table(table, markdown=False)}\n" for name, table in tables.items())


@click.command(cls=OneLine, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, type=click.Choice(list(SUBJECTS)), help="Measure this alone; may be repeated.")
@click.option("--quick", is_flag=True, help="Small sizes, two rounds: whether it works, not how fast.")
@click.option("--threads", type=click.IntRange(1), help="Threads to compute with; as torch chooses where not given.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/benchmarks"), help="Folder to write to.")
def main(only: Sequence[str], quick: bool, threads: int | None, out: Path) -> None:
    """Measure how cost grows and write tables, JSON, plot and page."""
    page.check_plotting()
    if threads is not None:
        torch.set_num_threads(threads)
    described = machine.describe()
    names = [name for name in SUBJECTS if not only or name in only]
    click.echo(f"{', '.join(names)}: about {MINUTES / (4 if quick else 1):.1f} minutes on two idle cores")
    started = time.monotonic()
    tables = measure(names, quick)
    page.update(out, "scaling", {"machine": described, "quick": quick, "tables": tables})
    click.echo(as_text(tables))
    click.echo(f"{out / page.PAGE}: written after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
