"""The critic of patches: what it sees, and that it knows ringing edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sis_rearrange import losses
from sis_rearrange.training.generator_config import GeneratorConfig
from sis_rearrange.training.patch_critic import PatchCritic

CONFIG = GeneratorConfig(resolution=128, batch=4)


def test_a_logit_sees_a_patch_of_the_crop_and_nothing_else():
    torch.manual_seed(0)
    critic = PatchCritic(CONFIG)
    corners = [np.array([[32, 0], [10, 64]]), np.zeros((2, 2), int), np.zeros((2, 2), int)]
    images = torch.randn(2, 3, 128, 128, requires_grad=True)
    logits = critic(images, corners)
    assert [x.shape for x in logits] == [(2, 32 * 32), (2, 32 * 32), (2, 16 * 16)]
    for scale, middle in enumerate([16 * 32 + 16, 16 * 32 + 16, 8 * 16 + 8]):
        (seen,) = torch.autograd.grad(logits[scale][0, middle], images, retain_graph=True)
        strength = seen[0].abs().sum(0)
        rows, columns = (strength > 1e-5 * strength.max()).nonzero().unbind(1)  # less is rounding of Winograd's tiles
        assert not seen[1].any()
        sides = {(rows.max() - rows.min() + 1).item(), (columns.max() - columns.min() + 1).item()}
        assert sides == {17 * 2**scale}
    (seen,) = torch.autograd.grad(logits[0].sum(), images, retain_graph=True)
    inside = torch.zeros(2, 128, 128, dtype=torch.bool)
    inside[0, 32:96, :64] = inside[1, 10:74, 64:] = True
    assert not seen.abs().sum(1)[~inside].any() and seen.abs().sum(1)[inside].all()
    (seen,) = torch.autograd.grad(logits[2].sum(), images)
    assert seen.abs().sum(1).all()


def test_crops_lie_inside_and_reach_every_border():
    critic, every = PatchCritic(replace(CONFIG, batch=4000)), np.arange(4000)
    whole, half, quarter = critic.corners(7, 0, every)
    assert whole.min() == 0 and whole.max() == 64 and not (whole % 2).any()
    assert not half.any() and not quarter.any()
    again, other = critic.corners(7, 0, every[5:9])[0], critic.corners(8, 0, every)[0]
    assert np.array_equal(whole[5:9], again) and not np.array_equal(whole, other)
    large = PatchCritic(replace(CONFIG, resolution=512, batch=4000)).corners(7, 0, every)
    assert [x.max() for x in large] == [448, 192, 64]
    small = PatchCritic(replace(CONFIG, resolution=16, batch=3))
    logits = small(torch.zeros(3, 3, 16, 16), small.corners(0, 0, np.arange(3)))
    assert [x.shape for x in logits] == [(3, 16), (3, 16), (3, 4)]


def test_the_penalty_does_not_grow_with_the_number_of_places():
    torch.manual_seed(0)
    critic, images = PatchCritic(CONFIG), torch.randn(4, 3, 128, 128, requires_grad=True)
    positions = np.arange(4)
    _, penalty = critic.own_loss(images, images.detach(), positions, 0, True)
    logits = critic(images, [np.full((4, 2), 8), np.zeros((4, 2), int), np.zeros((4, 2), int)])[0]
    inner = [row * 32 + column for row in range(8, 24, 4) for column in range(8, 24, 4)]
    alone = np.mean([losses.r1_penalty(logits[:, place], images, CONFIG.patch_gamma).item() for place in inner])
    assert 0.5 * alone < penalty.item() < 20 * alone
    assert critic.own_loss(images, images.detach(), positions, 0, False)[1].item() == 0


def test_coarse_scales_tell_a_slow_drift_of_colour_from_a_flat_one():
    torch.manual_seed(0)
    critic = PatchCritic(replace(CONFIG, batch=8))
    optimizer = torch.optim.Adam(critic.parameters(), 2e-3, (0.0, 0.99))
    flat = torch.rand(8, 3, 1, 1).expand(-1, -1, 128, 128).contiguous()
    drift = flat + torch.linspace(-5, 5, 128)[:, None] / 127.5  # levels, a twelfth of one per pixel
    for step in range(20):
        optimizer.zero_grad()
        critic.own_loss(flat, drift, np.arange(8), step, False)[0].backward()
        optimizer.step()
    corners = critic.corners(0, 0, np.arange(8))
    gaps = [(a.mean() - b.mean()).item() for a, b in zip(critic(flat, corners), critic(drift, corners), strict=True)]
    assert gaps[2] > 3 * max(gaps[0], 0.0) and gaps[2] > 0.5


def test_it_tells_ringing_edges_from_clean_ones():
    torch.manual_seed(0)
    rng, critic = np.random.default_rng(0), PatchCritic(replace(CONFIG, resolution=64, batch=8))
    optimizer = torch.optim.Adam(critic.parameters(), 5e-3, (0.0, 0.99))

    def edges(count):
        shift = torch.from_numpy(rng.integers(0, 16, count))
        sign = torch.from_numpy(rng.choice([-0.5, 0.5], count)).float()[:, None]
        x = ((torch.arange(64)[None] + shift[:, None]) % 16 - 8).float()  # every crop has edges
        step, ring = torch.sign(x + 0.5) * sign, 0.1 * sign * torch.cos(1.5 * x) * (-x.abs() / 3).exp()
        return [line[:, None, None, :].expand(-1, 3, 64, -1).contiguous() for line in (step, step + ring)]

    for step in range(40):
        optimizer.zero_grad()
        critic.own_loss(*edges(8), np.arange(8), step, False)[0].backward()
        optimizer.step()
    corners = critic.corners(0, 0, np.arange(8))
    clean, ringing = (critic(images, corners)[0].mean(1) for images in edges(8))
    assert clean.min() > ringing.max()
    fakes = edges(8)[1].requires_grad_(True)
    before = critic.loss(fakes, np.arange(8), 0)  # and shows the generator the way
    before.backward()
    with torch.no_grad():
        better = fakes - 0.01 * fakes.grad / fakes.grad.abs().max()
        assert critic.loss(better, np.arange(8), 0) < before
