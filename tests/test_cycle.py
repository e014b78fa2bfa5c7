from __future__ import annotations

import pytest
import torch

from sis_rearrange import losses
from sis_rearrange.cycle import Cycle, Looks
from sis_rearrange.features import SplitGenerator, sample_ws


@pytest.fixture
def scene(tiny_pack):
    proxy = tiny_pack.proxy()
    split = SplitGenerator(tiny_pack.generator(), proxy.resolution)
    ws = sample_ws(split.generator, [1, 2])
    feature_map, skip = split.g1(ws)
    looks = Looks(ws, feature_map, skip, proxy.labels(feature_map))
    return Cycle(split, tiny_pack.rearranger(), tiny_pack.segmenter(), tiny_pack.discriminator()), looks


def test_the_gradient_reaches_the_mask_and_nothing_else(scene):
    cycle, looks = scene
    logits = torch.randn(2, 5, 16, 16, requires_grad=True)
    shown, real = cycle(logits, looks, torch.randint(0, 10, [2, 32, 32]))
    (shown + real).backward()
    assert logits.grad.abs().sum() > 0
    assert all(p.grad is None for p in cycle.parameters())


def test_following_the_gradient_brings_the_parts_nearer(scene):
    cycle, looks = scene
    logits = torch.randn(2, 5, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    parts = cycle.segmenter(cycle.split.g2(looks.feature_map, looks.skip, looks.ws)).argmax(dim=1)
    optimizer, losses = torch.optim.Adam([logits], lr=0.1), []
    for _ in range(30):
        loss, _ = cycle(logits, looks, parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < losses[0]


def test_rare_parts_weigh_more_within_a_limit():
    parts = torch.zeros(1, 10, 10, dtype=torch.int64)
    parts[0, 0, :4] = 1
    weights = losses.part_weights(parts, 3)
    assert weights[0] < weights[1] < weights[2] < 20
    assert (weights * torch.tensor([0.96, 0.04, 0.0])).sum().item() == pytest.approx(1)
