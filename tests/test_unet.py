"""The U-Net: shapes, rebuilding, and that it can learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sis_rearrange.unet import UNet, take_levels


@pytest.mark.parametrize("out_stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_output_shape(out_stride, size):
    network = UNet(5, 7, widths=(4, 6, 8), out_stride=out_stride).eval()
    logits = network(torch.randn(2, 5, *size))
    assert logits.shape == (2, 7, size[0] // out_stride, size[1] // out_stride)
    assert network.features(torch.randn(2, 5, *size)).shape == (2, 8)


def test_config_rebuilds_the_same_function():
    torch.manual_seed(0)
    network = UNet(3, 4, widths=(4, 8), out_stride=2).eval()
    twin = UNet(**network.config).eval()
    twin.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(network(x), twin(x))


@pytest.mark.parametrize("shape", [(1, 3, 10, 8), (1, 4, 8, 8), (3, 8, 8)])
def test_wrong_input_is_refused(shape):
    with pytest.raises(ValueError, match="divisible|shape"):
        UNet(3, 2, widths=(4, 4, 4))(torch.zeros(shape))


@pytest.mark.parametrize("settings", [{"widths": ()}, {"widths": (4, 0)}, {"out_stride": 3}, {"out_stride": 16}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="positive|out_stride"):
        UNet(3, 2, **settings)


def test_every_parameter_gets_a_gradient():
    network = UNet(3, 2, widths=(4, 6, 8))
    network(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_takes_the_levels_of_a_smaller_one():
    """Where the finer level hands on what the smaller network would have read, both give the same labels."""
    torch.manual_seed(0)
    small, large = UNet(3, 4, (8, 12, 16), 2).eval(), UNet(3, 4, (6, 8, 12, 16), 4).eval()
    take_levels(large, small)
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        for index in (0, 3):  # a finer level that passes its input on
            convolution = large.down[0][index]
            convolution.weight.zero_()
            for channel in range(3):
                convolution.weight[channel, channel, 1, 1] = (1 + large.down[0][1].eps) ** 0.5
        large.down[1][0].weight.zero_()
        large.down[1][0].weight[:, :3] = small.down[0][0].weight
        assert torch.allclose(large(x.repeat_interleave(2, 2).repeat_interleave(2, 3)), small(x), atol=1e-5)
    same = UNet(3, 4, (8, 12, 16), 2).eval()
    take_levels(same, small)
    assert torch.equal(same(x), small(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 4, (6, 8, 12), 2), "6,8,12 do not end with those to start from, 8,12,16"),
        ((3, 4, (8, 12), 2), "do not end with"),
        ((3, 5, (8, 12, 16), 2), "5 labels, to start from 4"),
        ((3, 4, (6, 8, 12, 16), 2), "at stride 2, to start from 2: each doubling needs a finer level"),
        ((5, 4, (8, 12, 16), 2), "5 channels to read, to start from 3"),
    ],
)
def test_levels_of_another_kind_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        take_levels(UNet(*arguments), UNet(3, 4, (8, 12, 16), 2))


def test_learns_fine_detail_and_wide_context():
    """Label = (own sign, sign of the far corner): the first needs the skips, the second the bottleneck."""
    torch.manual_seed(0)
    network = UNet(1, 4, widths=(8, 16, 16, 16))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)

    def data():
        x = torch.rand(16, 1, 16, 16).sub(0.5).sign() * 0.5
        x[:, :, :4, :4] = torch.rand(16, 1, 1, 1).sub(0.5).sign() * 2
        return x, ((x[:, 0] > 0).long() + 2 * (x[:, :1, 0, 0, None] > 0).long())

    for _ in range(60):
        x, y = data()
        optimiser.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimiser.step()
    x, y = data()
    assert (network.eval()(x).argmax(1) == y).float().mean() > 0.9
