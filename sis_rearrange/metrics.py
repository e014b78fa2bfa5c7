"""Scores as pure functions: of label maps against true ones, of pictures against pictures, of sets against sets.

Label maps are scored by one confusion matrix, so that it can be summed over batches. It is int64 ``[K, K]``: rows are
true classes, columns predicted ones, entries count pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

LEVEL = 0.95  # of every interval
RESAMPLES = 1000  # of a bootstrap
MAX_PSNR = 100.0  # dB, of pictures that are the same


def confusion(predicted: torch.Tensor, target: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Confusion matrix int64 ``[K, K]`` of two label maps of the same shape (any), labels in [0, num_classes).

    Raises ValueError where the shapes differ or a label is out of range.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"label maps of different shapes: {list(predicted.shape)} and {list(target.shape)}")
    predicted, target = predicted.flatten().long(), target.flatten().long()
    for labels in (predicted, target):
        if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
            raise ValueError(f"labels must lie in [0, {num_classes})")
    counts = torch.bincount(target * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def confusions(predicted: torch.Tensor, target: torch.Tensor, num_classes: int) -> torch.Tensor:
    """One matrix per picture: int64 ``[N, K, K]`` for label maps ``[N, ...]``; their sum is `confusion`."""
    pairs = zip(predicted, target, strict=True)
    matrices = [confusion(each, true, num_classes) for each, true in pairs]
    return torch.stack(matrices) if matrices else torch.zeros(0, num_classes, num_classes, dtype=torch.int64)


def class_iou(matrix: torch.Tensor) -> torch.Tensor:
    """Intersection over union per class, float32 ``[K]`` in [0, 1]; NaN for a class absent from the targets."""
    matrix = matrix.double()
    hits, target = matrix.diagonal(), matrix.sum(1)
    union = target + matrix.sum(0) - hits
    iou = hits / union.clamp(min=1)
    return torch.where(target > 0, iou, torch.nan).float()


def miou(matrix: torch.Tensor) -> float:
    """Mean IoU over the classes that occur in the targets, in [0, 1]; NaN where there are no targets at all."""
    return float(class_iou(matrix).nanmean())


def pixel_accuracy(matrix: torch.Tensor) -> float:
    """Share of pixels with the true label, in [0, 1]; NaN where there are no pixels at all."""
    total = int(matrix.sum())
    return int(matrix.diagonal().sum()) / total if total else float("nan")


def psnr(images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio per picture, dB ``[N]``, for images ``[N, C, H, W]`` in [0, 1]; at most 100."""
    if images.shape != originals.shape:
        raise ValueError(f"images of different shapes: {list(images.shape)} and {list(originals.shape)}")
    error = (images.double() - originals.double()).square().mean(dim=(1, 2, 3))
    return (-10 * error.clamp_min(10 ** (-MAX_PSNR / 10)).log10()).float()


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two sets of features ``[N, F]`` and ``[M, F]`` under a normal model, in float64.

    ``|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))``, at least 0. The trace of the root is that of
    the symmetric ``(cov_a^(1/2) cov_b cov_a^(1/2))^(1/2)``, which stays real for singular covariances.
    Raises ValueError unless both sets have two members or more and the same number of features.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"expected features [N, F] and [M, F] with N, M >= 2, got {list(a.shape)} and {list(b.shape)}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    root_trace = np.sqrt(np.linalg.eigvalsh(root_a @ cov_b @ root_a).clip(min=0)).sum()
    shift = a.mean(axis=0) - b.mean(axis=0)
    return max(0.0, float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * root_trace))


# ---------------------------------------------------------------- probabilities against what came of them


class Bins(NamedTuple):
    """Predictions sorted into equal parts of [0, 1] by their confidence; empty ones have NaN means."""

    confidence: np.ndarray  # [B]: mean of each bin
    accuracy: np.ndarray  # [B]: share of hits
    cells: np.ndarray  # [B]: how many

    @property
    def error(self) -> float:
        """Expected calibration error (Naeini et al. 2015), in [0, 1]: mean |accuracy - confidence| over predictions."""
        filled = self.cells > 0
        gap = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((gap * self.cells[filled]).sum() / max(self.cells.sum(), 1))


def reliability(confidence: torch.Tensor, hit: torch.Tensor, bins: int = 15) -> Bins:
    """How often predictions of each confidence were right; both of any one shape, confidence in [0, 1], hits bool.

    Raises ValueError where the shapes differ or a confidence is no probability.
    """
    if confidence.shape != hit.shape:
        raise ValueError(f"{list(confidence.shape)} confidences for {list(hit.shape)} hits")
    sure = confidence.flatten().double()
    if sure.numel() and not (float(sure.min()) >= 0 and float(sure.max()) <= 1 + 1e-6):
        raise ValueError("a confidence is a probability, in [0, 1]")
    at = (sure * bins).long().clamp(0, bins - 1)
    count = torch.bincount(at, minlength=bins).double()
    sums = (torch.bincount(at, weights=x, minlength=bins) for x in (sure, hit.flatten().double()))
    means = [torch.where(count > 0, total / count.clamp(min=1), torch.nan).numpy() for total in sums]
    return Bins(means[0], means[1], count.long().numpy())


# ---------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Interval:
    """Where the true value lies with ``LEVEL`` confidence, and what was repeated to find out."""

    low: float
    high: float
    over: str

    def __post_init__(self) -> None:
        if not self.low <= self.high and not (math.isnan(self.low) or math.isnan(self.high)):
            raise ValueError(f"an interval from {self.low} to {self.high}")

    def as_json(self) -> dict[str, float | str | None]:
        """``{"low", "high", "over"}``; None for NaN."""
        ends = {"low": self.low, "high": self.high}
        return {**{key: value if math.isfinite(value) else None for key, value in ends.items()}, "over": self.over}


def bootstrap(
    values: torch.Tensor,  # [N, ...]: what each of N pictures adds to a sum, as a confusion matrix; NaN: nothing
    statistic: Callable[[torch.Tensor], float] | None = None,  # of such a sum [...]; None: the mean of values [N]
    resamples: int = RESAMPLES,
    seed: int = 0,
    what: str = "pictures",
) -> Interval:
    """Percentile bootstrap over pictures (Efron): the statistic of N pictures drawn with replacement, many times.

    Raises ValueError without pictures.
    """
    if statistic is None:
        values = values[~values.isnan()]
    if not len(values):
        raise ValueError("no pictures to draw from")
    N = len(values)
    drawn = np.random.default_rng(seed).multinomial(N, np.full(N, 1 / N), size=resamples)
    sums = torch.from_numpy(drawn).double() @ values.reshape(N, -1).double()
    shape = values.shape[1:]
    found = [float(row) / N if statistic is None else statistic(row.reshape(shape)) for row in sums]
    low, high = np.nanquantile(np.array(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), f"bootstrap over {N} {what}")


def mean_interval(values: Sequence[float] | np.ndarray, what: str = "repeats") -> Interval:
    """Student's interval of the mean of a few independent repeats; NaN ends for fewer than two."""
    from scipy import stats

    x = np.asarray(values, np.float64)
    over = f"{len(x)} {what}"
    if len(x) < 2:
        return Interval(math.nan, math.nan, over)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 1)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(float(x.mean()) - half, float(x.mean()) + half, over)


def share_interval(share: float, count: int, what: str = "pictures") -> Interval:
    """Wilson's interval of a share of ``count`` independent pictures."""
    from scipy import stats

    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Interval(max(0.0, centre - half), min(1.0, centre + half), f"{count} {what} (Wilson)")
