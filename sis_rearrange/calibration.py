"""Confidence that means what it says: one temperature per mapper, fitted on the generator's own samples.

A mapper's logits are divided by its temperature to be probabilities (Guo et al. 2017, temperature scaling): which
cluster is the likeliest stays, how sure the mapper says it is changes. The samples' drawings are those of training, as
varied as people's; their seeds are not. No picture of the test split is involved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from sis_rearrange.conditions import Condition, get_condition
from sis_rearrange.errors import InputError
from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.pack import Pack, mapper_file, write_component

CALIBRATION_SEEDS = 550_000  # the first of them: not those of training, validation or evaluation
SAMPLES = 256
BATCH = 32
PSI = 0.9
RANGE = (0.05, 20.0)  # of temperatures


class Answers(NamedTuple):
    """What a mapper said of drawings of samples, and what the samples have."""

    logits: torch.Tensor  # [N, K, r, r]
    labels: torch.Tensor  # [N, r, r] int64: the samples' own proxy masks


@torch.inference_mode()
def answers(pack: Pack, name: str, seeds: Sequence[int], psi: float = PSI) -> Answers:
    """A mapper's logits for drawings of the samples of these seeds, on the CPU.

    Raises InputError where the pack lacks the mapper, or the segmenter that the condition's drawings need.
    """
    mapper, condition = pack.mapper(name), get_condition(name, pack.palette())
    found = [(mapper(x), labels) for x, labels in _drawn(pack, condition, seeds, psi)]
    return Answers(torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found]))


def _drawn(
    pack: Pack, condition: Condition, seeds: Sequence[int], psi: float
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Condition tensors and proxy masks of the samples, some at a time; a sample's drawing depends on its seed."""
    proxy = pack.proxy()
    split = SplitGenerator(pack.generator(), proxy.resolution)
    segmenter = pack.segmenter() if condition.needs_labels else None
    for start in range(0, len(seeds), BATCH):
        part = seeds[start : start + BATCH]
        ws = sample_ws(split.generator, part, psi)
        feature_map, skip = split.g1(ws)
        images = split.g2(feature_map, skip, ws).clamp(-1, 1)
        parts = None if segmenter is None else segmenter(images).argmax(dim=1)
        drawings = []
        for n, seed in enumerate(part):
            labels = None if parts is None else parts[n : n + 1]
            drawings.append(condition.from_samples(images[n : n + 1], labels, np.random.default_rng(seed)))
        yield torch.cat(drawings), proxy.labels(feature_map)


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature in `RANGE` at which the likeliest cluster's probability best says whether it is the right one.

    Logits are ``[N, K, h, w]``, labels ``[N, h, w]``; best is the lowest binary cross-entropy over cells. (The
    likelihood of all clusters at once is another thing: mappers are trained with smoothed labels, which give clusters
    that never occur their share, and a temperature that mends this makes the likeliest cluster too sure.)
    """
    from scipy.optimize import minimize_scalar

    x = logits.float()
    hit = (x.argmax(dim=1) == labels).float()

    def loss(log_temperature: float) -> float:
        sure = (x / float(np.exp(log_temperature))).softmax(dim=1).amax(dim=1)
        return float(F.binary_cross_entropy(sure.clamp(max=1 - 1e-6), hit))

    found = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-3})
    return round(float(np.exp(found.x)), 4)


def calibrate(pack: Pack, name: str, samples: int = SAMPLES) -> float:
    """The temperature of a mapper of the pack, from samples with seeds from `CALIBRATION_SEEDS`."""
    found = answers(pack, name, range(CALIBRATION_SEEDS, CALIBRATION_SEEDS + samples))
    return fit_temperature(*found)


def write_temperature(pack: Pack, name: str, temperature: float) -> None:
    """Put a mapper's temperature into its configuration in the pack's folder; weights and provenance stay.

    The pack's hash changes; open the pack again for it. Raises InputError where the folder cannot be written.
    """
    from sis_rearrange.weights import decode_weights

    relpath = mapper_file(name)
    config, state = decode_weights(pack.read(relpath), str(pack.path / relpath))
    if config.get("kind") != "mapper":
        raise InputError(f"{pack.path / relpath}: holds a {config.get('kind')!r}, not a mapper; train it again")
    config["args"] = {**config["args"], "temperature": temperature}
    half = any(tensor.dtype == torch.float16 for tensor in _stored(pack.read(relpath)).values())
    provenance = dict(pack.info["provenance"].get(relpath, {}))
    provenance["calibrated"] = {"temperature": temperature, "command": f"sis pack calibrate {pack.name}"}
    write_component(pack.path, relpath, state, config, provenance, half)


def _stored(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file in the types they are stored in."""
    from safetensors.torch import load

    return dict(load(data))
