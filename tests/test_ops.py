from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from sis_rearrange.ops import bias_act, downsample2d, fir_kernel, upfirdn2d, upsample2d


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 1, 3, 0), (-1, 2, 0, -2)])
def test_upfirdn2d_is_zero_insertion_true_convolution_and_decimation(up, down, padding):
    x, kernel = torch.randn(1, 1, 7, 6), torch.randn(3, 2)
    spread = np.zeros([7 * up, 6 * up])
    spread[::up, ::up] = x[0, 0].numpy()
    left, right, top, bottom = padding
    grown = np.pad(spread, [(max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))])
    h, w = grown.shape
    grown = grown[max(-top, 0) : h - max(-bottom, 0), max(-left, 0) : w - max(-right, 0)]
    expected = 1.5 * convolve2d(grown, kernel.numpy(), mode="valid")[::down, ::down]
    result = upfirdn2d(x, kernel, up, down, padding, gain=1.5)
    np.testing.assert_allclose(result[0, 0].numpy(), expected, atol=1e-5)


def test_resampling_keeps_a_constant_image_away_from_the_border():
    x = torch.full([1, 2, 8, 8], 3.0)
    up, down = upsample2d(x, fir_kernel()), downsample2d(x, fir_kernel())
    assert up.shape == (1, 2, 16, 16) and down.shape == (1, 2, 4, 4)
    torch.testing.assert_close(up[..., 2:-2, 2:-2], torch.full([1, 2, 12, 12], 3.0))
    torch.testing.assert_close(down[..., 1:-1, 1:-1], torch.full([1, 2, 2, 2], 3.0))


def test_bias_act():
    x = torch.tensor([[-1.0, 2.0]])
    bias = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(bias_act(x, bias), torch.tensor([[-1.0, 3.0]]))
    torch.testing.assert_close(bias_act(x, bias, act="lrelu"), torch.tensor([[-0.2, 3.0]]) * math.sqrt(2))
    torch.testing.assert_close(bias_act(x, act="lrelu", gain=1, clamp=0.5), torch.tensor([[-0.2, 0.5]]))
    assert bias_act(torch.zeros(2, 3), torch.tensor([1.0, 2.0]), dim=0).tolist() == [[1.0] * 3, [2.0] * 3]
