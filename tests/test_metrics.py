"""Scores: values worked out by hand, and the direction of every metric."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sis_rearrange.metrics import (
    Interval,
    bootstrap,
    class_iou,
    confusion,
    confusions,
    frechet_distance,
    mean_interval,
    miou,
    pixel_accuracy,
    psnr,
    reliability,
    share_interval,
)

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


def test_psnr_by_hand_and_per_picture():
    black = torch.zeros(3, 3, 4, 4)
    other = torch.stack([torch.full((3, 4, 4), level) for level in (0.0, 0.1, 1.0)])
    assert psnr(other, black).tolist() == pytest.approx([100, 20, 0], abs=1e-4)
    with pytest.raises(ValueError, match="shapes"):
        psnr(black, black[:1])


def gaussian(mean: float, scale: float, count: int = 4000, seed: int = 0) -> np.ndarray:
    """Features [count, 3], independent."""
    return mean + scale * np.random.default_rng(seed).standard_normal((count, 3))


def test_frechet_distance_of_equal_sets_is_zero_whatever_their_order_and_rank():
    a = gaussian(1, 2)
    assert frechet_distance(a, a[::-1].astype(np.float32)) == pytest.approx(0, abs=1e-5)
    flat = np.concatenate([a, a[:, :1]], axis=1)  # a singular covariance
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(a[:2], a[:2]) == pytest.approx(0, abs=1e-5)


def test_frechet_distance_by_hand():
    a = gaussian(0, 1)
    assert frechet_distance(a, a + 2) == pytest.approx(12)  # three means off by 2
    assert frechet_distance(a, 3 * (a - a.mean(0)) + a.mean(0)) == pytest.approx(4 * np.trace(np.cov(a.T)))
    matrix = np.random.default_rng(1).standard_normal((3, 3))
    from scipy.linalg import sqrtm

    b = a @ matrix
    root = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected) == frechet_distance(b, a)


def test_direction_frechet_distance_grows_with_shift_and_spread():
    a = gaussian(0, 1)
    shifted = [frechet_distance(a, gaussian(mean, 1, seed=1)) for mean in (0, 0.2, 1, 3)]
    spread = [frechet_distance(a, gaussian(0, scale, seed=1)) for scale in (1, 1.5, 3)]
    assert shifted == sorted(shifted) and spread == sorted(spread) and shifted[0] < 0.01 < shifted[1]


@pytest.mark.parametrize("b", [np.zeros((5, 2)), np.zeros((1, 3)), np.zeros(5)])
def test_frechet_distance_refuses_sets_it_cannot_compare(b: np.ndarray):
    with pytest.raises(ValueError, match="features"):
        frechet_distance(gaussian(0, 1, 5), b)


# ---- confusion per picture -------------------------------------------------------------------------------------------


def test_matrices_of_pictures_add_up():
    a, b = torch.randint(0, 3, (2, 5, 8, 8), generator=torch.Generator().manual_seed(2))
    each = confusions(a, b, 3)
    assert each.shape == (5, 3, 3) and torch.equal(each.sum(dim=0), confusion(a, b, 3))
    assert torch.equal(each[2], confusion(a[2], b[2], 3)) and confusions(a[:0], b[:0], 3).shape == (0, 3, 3)


# ---- reliability -----------------------------------------------------------------------------------------------------


def test_reliability_by_hand():
    sure = torch.tensor([0.95, 0.95, 0.55, 0.55])
    bins = reliability(sure, torch.tensor([True, True, True, False]), bins=10)
    assert bins.cells.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert bins.confidence[[5, 9]].tolist() == pytest.approx([0.55, 0.95], abs=1e-6)
    assert bins.accuracy[[5, 9]].tolist() == [0.5, 1.0] and math.isnan(bins.accuracy[0])
    assert bins.error == pytest.approx(0.05, abs=1e-6)
    assert reliability(torch.ones(3), torch.ones(3, dtype=torch.bool)).error == 0


def test_direction_calibration_error_grows_with_bragging():
    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(20_000, generator=generator)
    hit = torch.rand(chance.shape, generator=generator) < chance
    errors = [reliability(chance ** (1 / power), hit).error for power in (1.0, 1.5, 3.0)]
    assert errors[0] < 0.02 < errors[1] < errors[2]
    assert reliability(chance**2, hit).error > errors[0]  # modesty is no better


def test_reliability_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="probability"):
        reliability(torch.tensor([1.5]), torch.tensor([True]))
    with pytest.raises(ValueError, match="hits"):
        reliability(torch.rand(2), torch.tensor([True]))


# ---- intervals -------------------------------------------------------------------------------------------------------


def test_bootstrap_of_a_mean_is_students_for_many():
    values = torch.from_numpy(gaussian(2, 3)[:, 0])
    found = bootstrap(values)
    half = 1.96 * float(values.std()) / len(values) ** 0.5
    assert (found.low, found.high) == pytest.approx(
        (float(values.mean()) - half, float(values.mean()) + half), abs=0.02
    )
    assert found.over == "bootstrap over 4000 pictures"
    assert bootstrap(values) == found != bootstrap(values, seed=1)


def test_intervals_hold_the_true_value_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    draws = rng.normal(1, 2, (200, 40))
    for interval in (lambda x: bootstrap(torch.from_numpy(x), resamples=300), mean_interval):
        hits = sum(found.low <= 1 <= found.high for found in map(interval, draws))
        assert 0.87 * 200 <= hits <= 200
    shares = rng.binomial(50, 0.1, 200) / 50
    assert sum(share_interval(x, 50).low <= 0.1 <= share_interval(x, 50).high for x in shares) >= 0.9 * 200


def test_direction_intervals_shrink_with_more_pictures_and_widen_with_spread():
    def width(interval) -> float:
        return interval.high - interval.low

    values = torch.from_numpy(gaussian(0, 1)[:, 0])
    assert width(bootstrap(values)) < width(bootstrap(values[:400])) < width(bootstrap(3 * values[:400]))
    assert width(mean_interval(values[:50].numpy())) < width(mean_interval(values[:5].numpy()))
    assert width(share_interval(0.5, 1000)) < width(share_interval(0.5, 10))
    assert width(bootstrap(torch.ones(9))) == 0


def test_a_bootstrap_of_matrices_is_around_their_score():
    target = torch.randint(0, 3, (30, 8, 8), generator=torch.Generator().manual_seed(3))
    noise = torch.rand(target.shape, generator=torch.Generator().manual_seed(4))
    matrices = confusions(torch.where(noise < 0.3, (target + 1) % 3, target), target, 3)
    found = bootstrap(matrices, miou)
    assert found.low < miou(matrices.sum(dim=0)) < found.high < 1


def test_nothing_to_repeat():
    assert math.isnan(mean_interval([0.5]).low) and mean_interval([0.5]).as_json()["low"] is None
    assert bootstrap(torch.tensor([1.0, float("nan")])) == bootstrap(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="no pictures"):
        bootstrap(torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match="interval"):
        Interval(1.0, 0.0, "nothing")
