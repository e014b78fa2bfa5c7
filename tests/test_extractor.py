"""The extractor's two kinds on feature maps of a tiny generator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sis_rearrange.extractor import KINDS, MAX_SIDE, SemanticExtractor, reduced
from sis_rearrange.features import SplitGenerator, all_features, sample_ws

P = 4
BOTH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def maps(tiny_pack):
    generator = tiny_pack.generator()
    with torch.no_grad():
        return all_features(generator, sample_ws(generator, range(3)))[0]


def extractor_for(maps, kind, **options):
    torch.manual_seed(0)
    extractor = SemanticExtractor([x.shape[1] for x in maps], P, kind, **options)
    for parameter in extractor.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    extractor.set_statistics([[x[:1] for x in maps], [x[1:] for x in maps]])
    return extractor.eval()


def test_all_features_are_those_of_the_taps_and_of_the_image(tiny_pack):
    generator = tiny_pack.generator()
    ws = sample_ws(generator, range(2))
    maps, image = all_features(generator, ws)
    assert torch.equal(image, generator.synthesis(ws))
    assert [x.shape[2] for x in maps] == generator.synthesis.block_resolutions
    for resolution, x in zip(generator.synthesis.block_resolutions[:-1], maps, strict=False):
        assert torch.equal(x, SplitGenerator(generator, resolution).g1(ws)[0])
    with pytest.raises(ValueError, match="shape"):
        all_features(generator, ws[:, 1:])


def test_linear_is_a_sum_of_enlarged_convolutions_without_bias(maps):
    extractor = extractor_for(maps, "linear")
    expected = 0
    for layer, x in zip(extractor.layers, maps, strict=True):
        logits = torch.einsum("pc,nchw->nphw", layer.weight[:, :, 0, 0], x)
        expected = expected + F.interpolate(logits, size=maps[-1].shape[2:], mode="bilinear", align_corners=False)
    assert torch.allclose(extractor(maps), expected, atol=1e-5)
    assert torch.allclose(extractor([3 * x for x in maps]), 3 * expected, atol=1e-4)


def test_nonlinear_members_are_perceptrons_on_enlarged_maps(maps):
    extractor = extractor_for(maps, "nonlinear", members=2, width=5)

    def enlarged(x, number):  # from size to size
        for larger in maps[number + 1 :]:
            x = F.interpolate(x, size=larger.shape[2:], mode="bilinear")
        return x

    inner = []
    for number, x in enumerate(maps):  # normalised before it is enlarged
        std = x.std((0, 2, 3), correction=0).clamp_min(1e-4)[None, :, None, None]
        own = (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True, correction=0) + 0.1 * std)
        over = (x - x.mean((0, 2, 3), keepdim=True)) / std
        inner.append([enlarged(view, number) for view in (over, own)])
    probabilities = 0
    for member in range(4):
        rows = slice(member * 5, member * 5 + 5)
        hidden = extractor.bias[rows][:, None, None]
        for layer, views in zip(extractor.layers, inner, strict=True):
            hidden = hidden + torch.einsum("pc,nchw->nphw", layer.weight[rows, :, 0, 0], views[member // 2])
        head = slice(member * P, member * P + P)
        logits = torch.einsum("pc,nchw->nphw", extractor.head.weight[head, :, 0, 0], hidden.relu())
        probabilities = probabilities + (logits + extractor.head.bias[head][:, None, None]).softmax(1)
    assert torch.allclose(extractor(maps).softmax(1), probabilities / 4, atol=1e-5)


def test_half_of_the_members_do_not_see_how_bright_a_sample_is(maps):
    extractor = extractor_for(maps, "nonlinear", members=1)
    brighter = [x + 3 for x in maps]
    before, after = extractor.member_logits(maps), extractor.member_logits(brighter)
    assert torch.allclose(before[:, 1], after[:, 1], atol=1e-4)
    assert not torch.allclose(before[:, 0], after[:, 0], atol=1e-2)


@BOTH
def test_samples_do_not_touch_each_other_and_the_config_rebuilds_it(maps, kind):
    extractor = extractor_for(maps, kind)
    whole = extractor(maps)
    assert whole.shape == (3, P, *maps[-1].shape[2:])
    assert torch.allclose(extractor([x[1:2] for x in maps]), whole[1:2], atol=1e-5)
    again = SemanticExtractor(**extractor.config)
    again.load_state_dict(extractor.state_dict())
    assert torch.equal(again.eval()(maps), whole)


@BOTH
def test_gradients_flow_to_the_latents(tiny_pack, maps, kind):
    generator, extractor = tiny_pack.generator(), extractor_for(maps, kind)
    ws = sample_ws(generator, [5]).clone().requires_grad_(True)
    extractor(all_features(generator, ws)[0])[:, 1].sum().backward()
    assert ws.grad is not None and ws.grad.abs().sum() > 0


@BOTH
def test_large_maps_are_reduced_and_the_logits_enlarged(kind):
    maps = [torch.randn(1, 3, 8, 8), torch.randn(1, 2, 2 * MAX_SIDE, 2 * MAX_SIDE)]
    extractor = extractor_for(maps, kind, members=1, width=2)
    assert [x.shape[2] for x in reduced(maps)] == [8, MAX_SIDE]
    assert extractor.member_logits(maps).shape[-1] == MAX_SIDE
    assert extractor(maps).shape == (1, P, 2 * MAX_SIDE, 2 * MAX_SIDE)
    assert torch.allclose(extractor.member_logits(reduced(maps)), extractor.member_logits(maps))


def test_what_cannot_be(maps):
    with pytest.raises(ValueError, match="kind"):
        SemanticExtractor([3], 2, "cubic")
    with pytest.raises(ValueError, match="two classes"):
        SemanticExtractor([3], 1)
    extractor = extractor_for(maps, "linear")
    with pytest.raises(ValueError, match="feature maps"):
        extractor(maps[1:])
    with pytest.raises(ValueError, match="shape"):
        extractor([maps[0][:, 1:], *maps[1:]])
