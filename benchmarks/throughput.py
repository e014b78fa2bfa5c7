"""How many images a training takes in per second, as users run it, and how much of that time it waits for pictures.

Whole steps of the three trainings on the shipped pack, all but scores and saves. The baseline is float32;
for the generator also a run without worker processes, which renders its pictures within the step.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from pairs import Row, fewer, quartiles

from sis_rearrange.domains import get_domain
from sis_rearrange.pack import load_pack
from sis_rearrange.training.generator import GeneratorConfig, GeneratorTraining
from sis_rearrange.training.mapper import MapperConfig
from sis_rearrange.training.pack_training import mapper_training, rearranger_training
from sis_rearrange.training.rearranger import RearrangerConfig
from sis_rearrange.training.run import Training
from sis_rearrange.training.sources import Renders

PACK = "toonhead"
CPU = torch.device("cpu")
STEPS, WARM_UP = 12, 2
WORKERS = min(2, os.cpu_count() or 1)


def steps_taken(trainings: Mapping[str, Training], steps: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each step and the share of them waited for pictures; the trainings take turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in trainings}
    for number in range(-WARM_UP, steps):
        for name in list(trainings) if number % 2 == 0 else list(trainings)[::-1]:
            started = time.perf_counter()
            stats = trainings[name].train_step()
            if number >= 0:
                taken[name].append((time.perf_counter() - started, stats.get("waiting", 0.0)))
    for training in trainings.values():
        training.close()
    return taken


def speed_row(work: str, trainings: Mapping[str, Training], steps: int) -> Row:
    """Images per second of two trainings, the baseline first."""
    taken = steps_taken(trainings, steps)
    baseline, ours = trainings
    ratios = [slow / fast for (slow, _), (fast, _) in zip(taken[baseline], taken[ours], strict=True)]
    low, middle, high = quartiles(ratios)
    before, after = (
        training.batch / statistics.median(seconds for seconds, _ in taken[name])
        for name, training in trainings.items()
    )
    return Row(work, baseline, ours, before, after, middle, low, high, len(ratios), "images/s")


def rearranger_rows(quick: bool) -> list[Row]:
    """Steps of the rearranger's training, the discriminator's part included."""
    config = RearrangerConfig(adversarial_after=0.0, guide_samples=100)
    pack, work = load_pack(PACK), f"training a rearranger, 64 px, batch {config.batch}"

    def training(precision: str) -> Training:
        return rearranger_training(pack, replace(config, precision=precision), CPU)

    return [_by_precision(work, training, quick)]


def mapper_rows(quick: bool) -> list[Row]:
    """Steps of a mapper's training, the way to the picture included."""
    config = MapperConfig("sketch", cycle_after=0.0)
    pack, work = load_pack(PACK), f"training a mapper, 64 px, batch {config.batch}"

    def training(precision: str) -> Training:
        return mapper_training(pack, replace(config, precision=precision), CPU)

    return [_by_precision(work, training, quick)]


def _by_precision(work: str, training: Callable[[str], Training], quick: bool) -> Row:
    trainings = {precision: training(precision) for precision in ("float32", "bfloat16")}
    return speed_row(work, trainings, fewer(STEPS, quick))


def generator_rows(quick: bool) -> list[Row]:
    """Steps of the generator's training on fresh renders, and the share of the time it waits for them."""
    config, pictures = GeneratorConfig(resolution=64), Renders(get_domain(PACK), 64)
    work, steps = f"training a generator, 64 px, batch {config.batch}", fewer(4 * STEPS, quick)  # R1 in every 16th

    def training(workers: int, precision: str = "float32") -> Training:
        return GeneratorTraining(replace(config, precision=precision), pictures, workers)

    rows = [speed_row(work, {p: training(WORKERS, p) for p in ("float32", "bfloat16")}, steps)]
    # Each by itself: workers that render for one training take its processor from the other
    taken = [steps_taken({"": training(workers)}, steps)[""] for workers in (0, WORKERS)]
    alone, ahead = (100 * sum(s * share for s, share in each) / sum(s for s, _ in each) for each in taken)
    ratio, what = alone / max(ahead, 0.01), f"{work}, waiting for pictures"
    unit = "% of the time"
    rows.append(Row(what, "rendered in the step", f"{WORKERS} workers", alone, ahead, ratio, ratio, ratio, 1, unit))
    return rows
