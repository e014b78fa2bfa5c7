from __future__ import annotations

import numpy as np
import pytest
import torch

from sis_rearrange.tensors import assert_shape, cell_grid, from_uint8, instance_norm, one_hot, seeded_normal, to_uint8


def test_uint8_round_trip_keeps_every_value():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    images = from_uint8(values)
    assert images.min() == -1 and images.max() == 1
    assert np.array_equal(to_uint8(images), values)


def test_to_uint8_clips():
    assert to_uint8(torch.full([1, 3, 1, 1], 7.0)).max() == 255
    assert to_uint8(torch.full([1, 3, 1, 1], -7.0)).min() == 0


@pytest.mark.parametrize(
    "bad", [np.zeros([1, 2, 2, 3]), np.zeros([2, 2, 3], np.uint8), np.zeros([1, 2, 2, 4], np.uint8)]
)
def test_from_uint8_refuses_other_arrays(bad):
    with pytest.raises(ValueError, match="expected uint8"):
        from_uint8(bad)


def test_a_sample_does_not_depend_on_its_batch():
    alone = seeded_normal([7], [5])
    assert torch.equal(seeded_normal([3, 7, 9], [5])[1], alone[0])
    assert not torch.equal(seeded_normal([8], [5]), alone)
    assert not torch.equal(seeded_normal([7], [5], stream=1), alone)
    assert seeded_normal([], [5]).shape == (0, 5)


def test_one_hot_undoes_argmax():
    labels = torch.randint(0, 5, [2, 4, 6])
    assert torch.equal(one_hot(labels, 5).argmax(dim=1), labels)


def test_cell_grid_holds_cell_centres_as_y_x():
    grid = cell_grid(2, 4)
    assert grid[0, :, 0].tolist() == [-0.5, 0.5]
    assert grid[1, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_assert_shape():
    assert_shape(torch.zeros(2, 3), [None, 3])
    for shape in ([2, 4], [2], [2, 3, None]):
        with pytest.raises(ValueError, match="expected a tensor of shape"):
            assert_shape(torch.zeros(2, 3), shape)


@pytest.mark.parametrize("count", [1, 3])
def test_instance_norm_has_the_right_gradient_in_any_layout(count):
    x = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    back = torch.randn(count, 8, 8, 4, generator=torch.Generator().manual_seed(1)).permute(0, 3, 1, 2)
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
    (wanted,) = torch.autograd.grad((x - mean) / (variance + 1e-5).sqrt(), x, back)
    (found,) = torch.autograd.grad(instance_norm(x), x, back)
    assert torch.allclose(found, wanted, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(instance_norm(x), torch.nn.functional.instance_norm(x))
