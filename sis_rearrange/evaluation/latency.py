"""Time: one drawing to picture for a user who has set a source, and what training took according to the pack."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version

from PIL import Image

from sis_rearrange.evaluation.networks import batches
from sis_rearrange.pack import REARRANGER, Pack, mapper_file
from sis_rearrange.synthesis import Synthesizer

WARM_UP = 3  # runs before the clock counts


def score_latency(
    pack: Pack, condition: str, drawings: Sequence[Image.Image], seed: int, runs: int, progress: bool | None = None
) -> dict[str, float]:
    """Median milliseconds of ``runs`` warm calls of ``Synthesizer.synthesize`` on the CPU, drawings taken in turn.

    From an image in memory to a picture in memory, on the default backend; the source is set before.
    """
    synthesizer = Synthesizer(pack, device="cpu")
    synthesizer.set_source(seed=seed)
    seconds = []
    for at in batches(WARM_UP + runs, f"timing {condition}", progress):
        for run in range(at.start, at.stop):
            started = time.perf_counter()
            synthesizer.synthesize(drawings[run % len(drawings)], condition)
            seconds.append(time.perf_counter() - started)
    return {f"latency_ms_{condition}": 1000 * statistics.median(seconds[WARM_UP:])}


def latency_backend(pack: Pack) -> str:
    """What ran the networks of `score_latency`: "torch" or "openvino" with its version."""
    backend = Synthesizer(pack, device="cpu").backend
    return backend if backend == "torch" else f"{backend} {version(backend)}"


def training_minutes(pack: Pack) -> dict[str, float]:
    """Minutes that the rearranger and the mappers took to train, where ``domain.json`` says so."""
    files = {"rearranger": REARRANGER} | {f"mapper_{name}": mapper_file(name) for name in pack.conditions()}
    noted = {name: pack.info["provenance"].get(file, {}).get("minutes") for name, file in files.items()}
    return {f"train_minutes_{name}": float(value) for name, value in noted.items() if isinstance(value, int | float)}
