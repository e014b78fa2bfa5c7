"""Scores as pure functions: of label maps against true ones, of pictures against pictures, of sets against sets.

Label maps are scored by one confusion matrix, so that it can be summed over batches. It is int64 ``[K, K]``: rows are
true classes, columns predicted ones, entries count pixels.
"""

from __future__ import annotations

import numpy as np
import torch

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
