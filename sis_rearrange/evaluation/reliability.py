"""Protocol "reliability": is a mapper right as often as it says it is?

Samples of the generator are drawn as training draws them, and the mapper's likeliest cluster is compared with the
sample's own, cell by cell. "As trained" takes the mapper's logits as they are, "calibrated" divides them by the
temperature in the pack; the temperature was fitted on other samples.
"""

from __future__ import annotations

import torch

from sis_rearrange.calibration import PSI, Answers, answers
from sis_rearrange.errors import InputError
from sis_rearrange.evaluation.networks import NOISE_MODE
from sis_rearrange.evaluation.outcome import Outcome, Request, about, as_markdown, hash_of, plain
from sis_rearrange.evaluation.plots import need_matplotlib, reliability_plot
from sis_rearrange.metrics import Bins, bootstrap, reliability
from sis_rearrange.pack import Pack

SEEDS = 620_000  # the first sample
SAMPLES, QUICK_SAMPLES = 512, 128
BINS = 15
PLOT = "reliability.png"


def reliability_outcome(pack: Pack, request: Request, samples: int | None = None) -> Outcome:
    """Run the protocol on every mapper of the pack. Raises InputError where a network or matplotlib is missing."""
    need_matplotlib()
    count = samples or (QUICK_SAMPLES if request.quick else SAMPLES)
    seeds = range(SEEDS, SEEDS + count)
    mappers = {name: pack.mapper(name) for name in pack.conditions()}
    results = about(
        pack,
        "reliability",
        request,
        {"samples": count, "bins": BINS},
        "none: samples of the generator",
        {"samples": (seeds.start, seeds.stop)},
        {"drawings": "made of the samples as in training, at the generator's resolution"},
        {name: hash_of(mapper) for name, mapper in mappers.items()},
    )
    shown: dict[str, tuple[Bins, Bins]] = {}
    for name, mapper in mappers.items():
        try:
            found = answers(pack, name, seeds)
        except InputError as error:  # a condition whose extractor is not there
            results["notes"].append(f"{name}: not measured ({error})")
            continue
        shown[name] = _bins(found, 1.0), _bins(found, mapper.temperature)
        for title, temperature, bins in (
            ("uncalibrated", 1.0, shown[name][0]),
            ("calibrated", mapper.temperature, shown[name][1]),
        ):
            metric = f"ece_{title}_{name}_{count}"
            results["metrics"][metric] = plain(bins.error)
            results["intervals"][metric] = _interval(found, temperature)
        results["metrics"][f"temperature_{name}"] = mapper.temperature
        right = (found.logits.argmax(dim=1) == found.labels).float().mean(dim=(1, 2))
        results["metrics"][f"proxy_accuracy_{name}_{count}"] = float(right.mean())
        results["intervals"][f"proxy_accuracy_{name}_{count}"] = bootstrap(right, what="samples").as_json()
    results["notes"] += [f"psi {PSI:g}, noise {NOISE_MODE}; expected calibration error over {BINS} equal bins"]
    if all(mapper.temperature == 1.0 for mapper in mappers.values()):
        results["notes"].append(f"no mapper is calibrated: run `sis pack calibrate {pack.name}`")
    title = f"{pack.name}: how often mappers are right against how sure they are ({count} samples)"
    return Outcome(results, as_markdown(results), {PLOT: reliability_plot(shown, title)} if shown else {})


def _bins(found: Answers, temperature: float) -> Bins:
    """Of the likeliest cluster of each cell."""
    sure, best = (found.logits / temperature).softmax(dim=1).max(dim=1)
    return reliability(sure, best == found.labels, BINS)


def _interval(found: Answers, temperature: float) -> dict[str, float | str | None]:
    """Of the calibration error, over samples: each adds to the sums of the bins."""
    sure, best = (found.logits / temperature).softmax(dim=1).max(dim=1)
    hit = (best == found.labels).double().flatten(1)
    sure = sure.double().flatten(1)
    at = (sure * BINS).long().clamp(0, BINS - 1)
    sums = [torch.zeros(len(at), BINS, dtype=torch.float64).scatter_add_(1, at, x) for x in (hit - sure, sure * 0 + 1)]

    def error(total: torch.Tensor) -> float:
        return float(total[0].abs().sum() / total[1].sum())

    return bootstrap(torch.stack(sums, dim=1), error, what="samples").as_json()
