"""Scores of label maps against true ones, all read off one confusion matrix so that they can be summed over batches.

A confusion matrix is int64 ``[K, K]``: rows are true classes, columns predicted ones, entries count pixels.
"""

from __future__ import annotations

import torch


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
