"""Scores of label maps: values worked out by hand, and the direction of every metric."""

from __future__ import annotations

import math

import pytest
import torch

from sis_rearrange.metrics import class_iou, confusion, miou, pixel_accuracy

TRUE = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])


def test_rows_are_true_classes():
    matrix = confusion(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 0]), 2)
    assert matrix.tolist() == [[1, 1], [0, 1]] and matrix.dtype == torch.int64


def test_values_by_hand():
    matrix = confusion(torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1]]), TRUE, 3)
    assert class_iou(matrix)[:2].tolist() == pytest.approx([4 / 5, 3 / 4])
    assert math.isnan(class_iou(matrix)[2])
    assert miou(matrix) == pytest.approx((4 / 5 + 3 / 4) / 2)
    assert pixel_accuracy(matrix) == pytest.approx(7 / 8)


def test_class_only_predicted_hurts_the_others_but_has_no_score_itself():
    matrix = confusion(torch.where(TRUE == 1, 2, 0), TRUE, 3)
    assert miou(matrix) == pytest.approx(0.5)


def test_direction_more_wrong_pixels_score_lower():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 5, (4, 32, 32), generator=generator)
    noise = torch.rand(target.shape, generator=generator)
    scores = []
    for share in (0.0, 0.1, 0.5, 0.9):
        matrix = confusion(torch.where(noise < share, (target + 1) % 5, target), target, 5)
        scores.append((miou(matrix), pixel_accuracy(matrix)))
    assert scores[0] == (1.0, 1.0)
    for better, worse in zip(scores, scores[1:], strict=False):
        assert better[0] > worse[0] and better[1] > worse[1]


def test_miou_counts_a_small_class_as_much_as_a_large_one():
    target = torch.zeros(100, dtype=torch.int64)
    target[:2] = 1
    matrix = confusion(torch.zeros_like(target), target, 2)
    assert pixel_accuracy(matrix) == 0.98 and miou(matrix) < 0.5


def test_matrices_add_up_over_batches():
    a, b = torch.randint(0, 3, (2, 6, 8, 8), generator=torch.Generator().manual_seed(1))
    parts = sum(confusion(a[i : i + 2], b[i : i + 2], 3) for i in (0, 2, 4))
    assert torch.equal(parts, confusion(a, b, 3))


def test_nothing_to_score_is_nan():
    empty = confusion(torch.empty(0), torch.empty(0), 3)
    assert math.isnan(miou(empty)) and math.isnan(pixel_accuracy(empty))


@pytest.mark.parametrize("predicted", [torch.tensor([[0]]), torch.full((2, 4), 3), torch.full((2, 4), -1)])
def test_wrong_input_is_refused(predicted):
    with pytest.raises(ValueError, match="shapes|labels"):
        confusion(predicted, TRUE, 3)
