"""What `run.py` measures: each work is a function that returns rows, ours against a baseline."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from official import OfficialSynthesis
from op_works import op_rows
from pairs import NotMeasured, Row, compare, fewer, largest_difference, row_of
from PIL import Image
from throughput import generator_rows, mapper_rows, rearranger_rows
from training_step import Step
from training_step import measure as measure_steps

from sis_rearrange import engine, inference, ops
from sis_rearrange.errors import InputError
from sis_rearrange.images import read_image
from sis_rearrange.pack import load_pack
from sis_rearrange.stylegan2 import Generator
from sis_rearrange.synthesis import Synthesizer

OFFICIAL = "official arithmetic"
HERE = Path(__file__).resolve().parent
PACK = "toonhead"
DRAWINGS = {"segmentation": "drawings/segmentation-1.png", "sketch": "drawings/sketch-1.png"}
LATENCY_ROUNDS, TRAINING_ROUNDS = 40, 10
TRAINING_BATCH, R1_INTERVAL = 8, 16


@dataclass(frozen=True)
class Work:
    """A named part of the benchmark."""

    seconds: float  # it takes about, on two cores
    measure: Callable[[bool], list[Row]]  # takes whether to be quick: fewer rounds, nothing large


# ---------------------------------------------------------------- synthesis


def random_generator(resolution: int, channel_max: int = 512, w_dim: int = 512) -> Generator:
    """Configuration f of the paper at ``resolution`` px, random weights; noise and biases are not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = 16384 if resolution <= 256 else 32768
        net = Generator(w_dim, 0, w_dim, resolution, channel_base=base, channel_max=channel_max)
        for name, parameter in net.synthesis.named_parameters():
            if name.endswith("noise_strength"):
                parameter.data.fill_(0.1)
            elif name.endswith("bias") and "affine" not in name:
                parameter.data.normal_(std=0.1)
    return net.eval().requires_grad_(False)


def backends(generator: Generator) -> list[str]:
    """Our backends that can be had here, the default first."""
    default, _ = inference.resolve(generator)
    found = [default]
    for name in inference.BACKENDS:
        with suppress(InputError):
            found.append(inference.resolve(generator, name)[0])
    return list(dict.fromkeys(found))


def synthesis_rows(generator: Generator, batch: int, rounds: int, work: str) -> list[Row]:
    """ws to images of ``batch`` samples: each of our backends against the official arithmetic, all in every round."""
    ws = torch.randn(batch, generator.num_ws, generator.w_dim, generator=torch.Generator().manual_seed(1))
    networks: dict[str, torch.nn.Module] = {OFFICIAL: OfficialSynthesis(generator)}
    for place, name in enumerate(backends(generator)):
        label = f"{name} (default)" if place == 0 else name
        networks[label] = inference.accelerate(copy.deepcopy(generator), name).synthesis
    with torch.inference_mode():
        pictures = {name: network(ws) for name, network in networks.items()}  # warms up too
        differences = {name: largest_difference(picture, pictures[OFFICIAL]) for name, picture in pictures.items()}
        calls = {name: _call(network, ws) for name, network in networks.items()}
        return compare(work, calls, rounds, warm_up=0, differences=differences)


def _call(network: torch.nn.Module, *inputs: torch.Tensor) -> Callable[[], object]:
    return lambda: network(*inputs)


def synthesis(resolution: int, rounds: Mapping[int, int], quick: bool) -> list[Row]:
    """Synthesis at ``resolution`` px for each batch of ``rounds``; a quick run keeps to batch 1."""
    generator = random_generator(resolution)
    return [
        row
        for batch, count in rounds.items()
        if batch == 1 or not quick
        for row in synthesis_rows(generator, batch, fewer(count, quick), f"synthesis {resolution} px, batch {batch}")
    ]


# ---------------------------------------------------------------- memory


def memory(resolution: int) -> list[Row]:
    """Peak memory of one synthesis beyond the weights, a fresh process for each way."""
    backend = backends(random_generator(8))[0]
    with tempfile.TemporaryDirectory() as cache:  # of our own, so that the first process finds nothing compiled
        theirs = measure_memory(resolution, "official", cache)
        fresh, cached = (measure_memory(resolution, backend, cache) for _ in range(2))
    what = f"peak memory of a {resolution} px synthesis beyond the weights"
    found = [
        ("first call ever", theirs["first"], fresh["first"]),
        ("first call of a process", theirs["first"], cached["first"]),
        ("later calls", theirs["later"], cached["later"]),
    ]
    return [
        Row(f"{what}, {when}", OFFICIAL, backend, base, ours, base / ours, base / ours, base / ours, 1, "MB")
        for when, base, ours in found
    ]


def measure_memory(resolution: int, way: str, cache: str) -> dict[str, float]:
    """What ``memory.py`` says in a process of its own, compiled models in the folder ``cache``."""
    command = [sys.executable, str(HERE / "memory.py"), "--resolution", str(resolution), "--way", way]
    run = subprocess.run(command, env={**os.environ, "SIS_CACHE": cache}, capture_output=True, text=True)
    if run.returncode:
        raise NotMeasured(run.stderr.strip().splitlines()[-1] if run.stderr.strip() else "memory.py failed")
    return json.loads(run.stdout)


# ---------------------------------------------------------------- a drawing to a picture


def latency(quick: bool) -> list[Row]:
    """One drawing in memory to one picture in memory on the shipped pack, the look set before."""
    pack, rows = load_pack(PACK), []
    default = Synthesizer(pack, device="cpu")
    if default.backend == "torch":
        raise NotMeasured(f"no other backend than torch: {engine.resolve()[1]}")
    painters = {"torch": Synthesizer(pack, device="cpu", backend="torch"), f"{default.backend} (default)": default}
    for painter in painters.values():
        painter.set_source(seed=7)
    for condition, file in DRAWINGS.items():
        drawing = read_image(pack.path / file)
        calls = {name: _painting(painter, drawing, condition) for name, painter in painters.items()}
        plain, other = (torch.from_numpy(np.array(call(), np.float32)) for call in calls.values())
        differences = {list(calls)[1]: largest_difference(other, plain)}
        work = f"{PACK}, {condition} to picture"
        rows += compare(work, calls, fewer(LATENCY_ROUNDS, quick), warm_up=5, differences=differences)
    return rows


def _painting(painter: Synthesizer, drawing: Image.Image, condition: str) -> Callable[[], Image.Image]:
    return lambda: painter.synthesize(drawing, condition).image


# ---------------------------------------------------------------- a training step


def training(quick: bool) -> list[Row]:
    """A step of generator and discriminator on the shipped 64 px networks, against both forms in plain torch."""
    active, why = ops.backend()
    if active != "native":
        raise NotMeasured(f"the ops run on the {active} path here: {why}")
    pack = load_pack(PACK)
    baselines = {"official": OFFICIAL, "ref": "ref"}
    networks = pack.generator(), pack.discriminator()
    steps = {impl: Step(*networks, impl, TRAINING_BATCH) for impl in (*baselines, "native")}
    times = measure_steps(steps, fewer(TRAINING_ROUNDS, quick), R1_INTERVAL)
    work = f"training 64 px, batch {TRAINING_BATCH}, "
    whole = {part: of for part, of in times.items() if " " in part}
    return [
        row_of(work + part, title, of[impl], "native", of["native"])
        for part, of in whole.items()
        for impl, title in baselines.items()
    ]


WORKS = {
    "synthesis-256": Work(40, lambda quick: synthesis(256, {1: 15, 4: 7}, quick)),
    "synthesis-1024": Work(200, lambda quick: synthesis(1024, {1: 6, 4: 3}, quick)),
    "memory": Work(60, lambda quick: memory(256 if quick else 1024)),
    "latency": Work(15, latency),
    "training": Work(30, training),
    "train-rearranger": Work(30, rearranger_rows),
    "train-mapper": Work(40, mapper_rows),
    "train-generator": Work(60, generator_rows),
    "ops": Work(60, op_rows),
}
