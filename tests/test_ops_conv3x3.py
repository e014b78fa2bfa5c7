"""The 3x3 convolution that is trained through, against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sis_rearrange.ops import conv3x3, winograd
from sis_rearrange.ops.conv3x3 import takes_native

needs_native = pytest.mark.skipif(winograd.backend().library is None, reason=winograd.backend().why)


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


@needs_native
@pytest.mark.parametrize("shape", [(2, 16, 16, 16), (8, 48, 8, 8), (1, 32, 23, 29)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_value_first_and_second_gradients(shape, layout):
    draw = torch.Generator().manual_seed(0)
    out = 32
    x0 = torch.randn(*shape, generator=draw).contiguous(memory_format=layout)
    w0 = torch.randn(out, shape[1], 3, 3, generator=draw)
    direction = torch.randn(shape[0], out, *shape[2:], generator=draw)
    assert takes_native(x0, w0, "auto")
    results = []
    for native in (True, False):
        x, w = ((t if native else t.double()).clone().requires_grad_() for t in (x0, w0))
        y = conv3x3(x, w, "native") if native else F.conv2d(x, w, padding=1)
        gx, gw = torch.autograd.grad(y.square().sum() + (y * direction).sum(), [x, w], create_graph=True)
        again = torch.autograd.grad(gx.square().sum() + gw.square().sum(), [x, w])
        results.append([t.double().detach() for t in (y, gx, gw, *again)])
    for got, expected in zip(*results, strict=True):
        close(got, expected)


@needs_native
def test_results_belong_to_their_call():
    x, weight = torch.randn(1, 16, 32, 32), torch.randn(16, 16, 3, 3)
    first = conv3x3(x, weight)
    kept = first.clone()
    conv3x3(torch.randn_like(x), weight)
    assert torch.equal(first, kept)


@pytest.mark.parametrize(
    "channels, side, dtype", [(15, 32, torch.float32), (16, 4, torch.float32), (16, 32, torch.float64)]
)
def test_what_it_does_not_take_torch_does(channels, side, dtype):
    x, weight = torch.randn(1, channels, side, side, dtype=dtype), torch.randn(16, channels, 3, 3, dtype=dtype)
    assert not takes_native(x, weight, "auto")
    assert torch.equal(conv3x3(x, weight), F.conv2d(x, weight, padding=1))
    assert torch.equal(conv3x3(x, weight, "ref"), F.conv2d(x, weight, padding=1))
