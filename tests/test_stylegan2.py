"""StyleGAN2 against the published arithmetic: weights modulated per sample and one grouped convolution."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sis_rearrange.ops import upfirdn2d
from sis_rearrange.pack import load_pack
from sis_rearrange.stylegan2 import Discriminator, Generator, SynthesisLayer, set_impl
from sis_rearrange.tensors import seeded_normal

SMALL = dict(z_dim=12, c_dim=0, w_dim=16, img_resolution=32, channel_base=256, channel_max=24, num_layers=3)


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    g = Generator(**SMALL).eval().requires_grad_(False)
    g.mapping.w_avg.normal_()
    for block in (b for _, b, _ in g.synthesis.blocks()):
        block.conv1.noise_strength.fill_(0.3)
        block.conv1.bias.normal_()
    return g


def published_layer(layer: SynthesisLayer, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The layer as the paper states it (equations 1 and 3)."""
    n, channels = x.shape[:2]
    styles = layer.affine(w)
    weight = layer.weight[None] * styles[:, None, :, None, None]
    weight = weight * (weight.square().sum(dim=[2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    out = weight.shape[1]
    x = x.reshape(1, n * channels, *x.shape[2:])
    if layer.up == 2:
        x = F.conv_transpose2d(x, weight.transpose(1, 2).reshape(n * channels, out, 3, 3), stride=2, groups=n)
        x = upfirdn2d(x.reshape(n, out, *x.shape[2:]), layer.resample_filter, padding=(1, 1, 1, 1), gain=4)
    else:
        x = F.conv2d(x, weight.reshape(n * out, channels, 3, 3), padding=1, groups=n).reshape(n, out, *x.shape[2:])
    x = x + layer.noise_const * layer.noise_strength + layer.bias[:, None, None]
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


@pytest.mark.parametrize("name", ["b8.conv0", "b8.conv1", "b32.conv0"])
def test_a_layer_equals_the_published_arithmetic(generator, name):
    layer = generator.synthesis.get_submodule(name)
    x = torch.randn(3, layer.weight.shape[1], layer.resolution // layer.up, layer.resolution // layer.up)
    w = torch.randn(3, 16)
    torch.testing.assert_close(layer(x, w, "const"), published_layer(layer, x, w), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("up", [1, 2])
def test_native_and_reference_paths_agree_with_gradients_of_first_and_second_order(batch, up):
    torch.manual_seed(4)
    layer = SynthesisLayer(32, 48, 16, 32, up=up)
    layer.noise_strength.data.fill_(0.2)
    inputs = torch.randn(batch, 32, 32 // up, 32 // up), torch.randn(batch, 16)
    results = []
    for impl in ("auto", "ref"):
        set_impl(layer, impl)
        x, w = (t.clone().requires_grad_() for t in inputs)
        y = layer(x, w, "const")
        gradients = torch.autograd.grad((y**2).mean(), [w, *layer.parameters()], create_graph=True)
        penalty = sum(g.square().mean() for g in gradients)
        again = torch.autograd.grad(penalty, [x, w, *layer.parameters()])
        results.append([y, *gradients, *again])
    for got, expected in zip(*results, strict=True):
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max().clamp_min(1e-6)


def test_parameter_names_are_the_official_ones(generator):
    names = set(generator.state_dict())
    expected = {"mapping.w_avg", "synthesis.b4.const"}
    expected |= {f"mapping.fc{i}.{p}" for i in range(3) for p in ("weight", "bias")}
    for resolution in (4, 8, 16, 32):
        block = f"synthesis.b{resolution}"
        expected |= {f"{block}.resample_filter"}
        expected |= {f"{block}.torgb.{p}" for p in ("weight", "bias", "affine.weight", "affine.bias")}
        for conv in ("conv1",) if resolution == 4 else ("conv0", "conv1"):
            parts = (
                "weight",
                "bias",
                "noise_const",
                "noise_strength",
                "resample_filter",
                "affine.weight",
                "affine.bias",
            )
            expected |= {f"{block}.{conv}.{p}" for p in parts}
    assert names == expected


def test_discriminator_names_are_the_official_ones():
    names = set(Discriminator(3, 16, channel_base=64, channel_max=8).state_dict())
    expected = {f"b16.fromrgb.{p}" for p in ("weight", "bias", "resample_filter")}
    for block in ("b16", "b8"):
        expected |= {f"{block}.resample_filter"}
        expected |= {f"{block}.{c}.{p}" for c in ("conv0", "conv1") for p in ("weight", "bias", "resample_filter")}
        expected |= {f"{block}.skip.{p}" for p in ("weight", "resample_filter")}
    expected |= {"b4.conv.weight", "b4.conv.bias", "b4.conv.resample_filter"}
    expected |= {f"b4.{layer}.{p}" for layer in ("fc", "out") for p in ("weight", "bias")}
    expected |= {
        f"mapping.{layer}.{p}" for layer in ["embed", *(f"fc{i}" for i in range(8))] for p in ("weight", "bias")
    }
    assert names == expected


def test_truncation_pulls_the_first_rows_to_the_average(generator):
    z = torch.randn(2, 12)
    full, none = generator.mapping(z), generator.mapping(z, truncation_psi=0.0)
    assert torch.equal(none, generator.mapping.w_avg.expand_as(none))
    half = generator.mapping(z, truncation_psi=0.5, truncation_cutoff=3)
    torch.testing.assert_close(half[:, :3], (full + none)[:, :3] / 2)
    assert torch.equal(half[:, 3:], full[:, 3:])


def test_labels_change_the_picture_and_are_required():
    torch.manual_seed(1)
    g = Generator(**{**SMALL, "c_dim": 4}).eval()
    assert "mapping.embed.weight" in g.state_dict()
    z = torch.randn(1, 12)
    a, b = (g.mapping(z, torch.eye(4)[i : i + 1]) for i in (0, 1))
    assert not torch.allclose(a, b)
    with pytest.raises(ValueError, match="class labels"):
        g.mapping(z)


def test_discriminator_projects_on_labels():
    torch.manual_seed(2)
    d = Discriminator(2, 16, channel_base=64, channel_max=8)
    images = torch.randn(4, 3, 16, 16)
    scores = [d(images, torch.eye(2)[[i] * 4]) for i in (0, 1)]
    assert scores[0].shape == (4, 1) and not torch.allclose(*scores)


@pytest.mark.parametrize("batch", [1, 3, 4, 6])
def test_minibatch_std_takes_any_batch(batch):
    d = Discriminator(0, 16, channel_base=64, channel_max=8)
    same = d.b4.minibatch_std(torch.ones(batch, 8, 4, 4))
    assert same.shape == (batch, 9, 4, 4) and same[:, 8].max() < 1e-3


def test_noise_modes(generator):
    ws = generator.mapping(torch.randn(3, 12))
    const, none = generator.synthesis(ws), generator.synthesis(ws, noise_mode="none")
    assert not torch.allclose(const, none)
    random = generator.synthesis(ws, "random", noise_seeds=[1, 2, 3])
    alone = generator.synthesis(ws[1:2], "random", noise_seeds=[2])
    torch.testing.assert_close(random[1:2], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(random, generator.synthesis(ws, "random", noise_seeds=[4, 5, 6]))
    with pytest.raises(ValueError, match="noise_seeds"):
        generator.synthesis(ws, "random")
    with pytest.raises(ValueError, match="noise_mode"):
        generator.synthesis(ws, "loud")


def test_gradients_reach_every_trained_parameter():
    torch.manual_seed(3)
    g, d = Generator(**SMALL), Discriminator(0, 32, channel_base=256, channel_max=24)
    d(g(torch.randn(2, 12))).sum().backward()
    missing = [n for net in (g, d) for n, p in net.named_parameters() if p.grad is None]
    assert missing == []


def test_fast_stands_in_only_where_nothing_but_the_picture_is_asked_for(generator):
    network = copy.deepcopy(generator.synthesis)
    ws = torch.randn(2, network.num_ws, 16)
    slow, marker = network(ws), torch.zeros(2, 3, 32, 32)
    network.fast = lambda ws: marker
    assert not any("fast" in name for name in [*network.state_dict(), *dict(network.named_modules())])
    with torch.no_grad():
        assert network(ws) is marker
        assert network(ws, "none") is not marker
        assert network(ws, "random", noise_seeds=[1, 2]) is not marker
        assert torch.equal(copy.deepcopy(network)(ws), slow)
    assert torch.equal(network(ws), slow)  # gradients are on
    network.load_state_dict(generator.synthesis.state_dict())
    assert network.fast is None


def test_resolution_must_be_a_power_of_two():
    with pytest.raises(ValueError, match="power of two"):
        Generator(**{**SMALL, "img_resolution": 48})


def test_the_shipped_generator_gives_the_picture_of_another_implementation():
    """The golden picture comes from code that shares nothing with ours but the parameter names and the weights."""
    pack = load_pack("toonhead")
    image = pack.generator()(seeded_normal([7], [128]), truncation_psi=0.7)[0]
    golden = np.load(Path(__file__).parent / "data" / "toonhead_seed7_psi0.7.npy", allow_pickle=False)
    assert np.abs(image.numpy() - golden).max() < 1e-4
