"""Adaptive discriminator augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sis_rearrange.training.augmentation import INTERVAL, MAX_P, Adaptive, Strengths, augment, colour, geometry

PLAIN = Strengths(0, 0, 0, 0, 0, 0, 0)


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Dice:
    """A generator whose chances are given: `random` in turn, everything else from a seed."""

    def __init__(self, *chances: float) -> None:
        self.chances, self.rest = list(chances), np.random.default_rng(0)

    def random(self) -> float:
        return self.chances.pop(0) if self.chances else 1.0

    def __getattr__(self, name: str):
        return getattr(self.rest, name)


def moved(images, matrix):
    grid = torch.nn.functional.affine_grid(torch.from_numpy(matrix[None, :2]).float(), [1, 3, 16, 16], False)
    return torch.nn.functional.grid_sample(images[:1], grid, padding_mode="reflection", align_corners=False)


def test_nothing_happens_at_zero(images):
    assert augment(images, 0.0, np.random.default_rng(0)) is images


def test_changes_follow_the_seed_and_become_more_with_p(images):
    def change(p, seed):
        return (augment(images, p, np.random.default_rng(seed)) - images).abs().mean().item()

    assert change(0.5, 1) == change(0.5, 1) != change(0.5, 2)
    means = [np.mean([change(p, seed) for seed in range(8)]) for p in (0.05, 0.3, 0.8)]
    assert means[0] < means[1] < means[2]
    untouched = [augment(images, 0.02, np.random.default_rng(seed)) for seed in range(10)]
    assert sum(torch.allclose(x[i], images[i], atol=1e-6) for x in untouched for i in range(4)) > 20


def test_pixel_blitting_moves_whole_pixels(images):
    mirror = geometry(0.5, 16, Dice(0, 0), PLAIN)  # the first two chances: a mirror image
    assert torch.allclose(moved(images, mirror), images[:1].flip(3), atol=1e-5)
    for seed in range(6):
        dice = Dice(1, 0)  # no mirror; a quarter turn
        dice.rest = np.random.default_rng(seed)
        turned = moved(images, geometry(0.5, 16, dice, PLAIN))
        assert any(torch.allclose(turned, images[:1].rot90(k, (2, 3)), atol=1e-5) for k in range(4))
    shift = geometry(0.5, 16, Dice(1, 1, 0), Strengths(shift=0.25)) * 8
    assert np.allclose(shift[:2, 2], shift[:2, 2].round()) and abs(shift[:2, 2]).max() > 0


def test_geometry_without_strength_is_the_identity():
    rng = np.random.default_rng(0)
    quarter = {(round(m[0, 0]), round(m[0, 1])) for m in (geometry(1.0, 16, rng, PLAIN) for _ in range(40))}
    assert len(quarter) == 4
    assert np.allclose(geometry(1e-9, 16, rng, Strengths()), np.eye(3))


def test_colours_keep_what_each_change_should_keep():
    grey = np.array([0.3, 0.3, 0.3, 1])
    hue = colour(0.5, Dice(1, 1, 1, 0), Strengths())
    saturation = colour(0.5, Dice(1, 1, 1, 1, 0), Strengths())
    for matrix in (hue, saturation):
        assert np.allclose(matrix @ grey, grey) and not np.allclose(matrix, np.eye(4))
    assert np.allclose(hue[:3, :3] @ hue[:3, :3].T, np.eye(3))
    flip = colour(0.5, Dice(1, 1, 0, 0), Strengths())
    assert np.allclose(flip @ grey, [-0.3, -0.3, -0.3, 1]) and np.allclose(flip @ flip, np.eye(4))


def test_gradients_reach_the_images(images):
    images.requires_grad_(True)
    augment(images, 0.8, np.random.default_rng(0)).square().sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_p_rises_while_the_discriminator_is_too_sure_and_falls_otherwise():
    adaptive = Adaptive(target=0.6, kimg=1.0)
    for step in range(INTERVAL * 10):
        adaptive.see(torch.ones(8, 1), step)
    assert adaptive.p == pytest.approx(0.32)  # 320 of 1000 images
    for step in range(INTERVAL * 5):
        adaptive.see(torch.tensor([[1.0]] * 6 + [[-1.0]] * 2), step)  # mean sign 0.5
    assert adaptive.p == pytest.approx(0.16)
    for step in range(INTERVAL * 100):
        adaptive.see(torch.ones(8, 1), step)
    assert adaptive.p == MAX_P


def test_the_state_of_p_goes_on_between_changes():
    whole, half = Adaptive(0.6, 1.0), Adaptive(0.6, 1.0)
    for step in range(6):
        whole.see(torch.ones(3, 1), step)
        half.see(torch.ones(3, 1), step)
    rest = Adaptive(0.6, 1.0)
    rest.set_state(half.state())
    for step in range(6, 9):
        whole.see(torch.ones(3, 1), step)
        rest.see(torch.ones(3, 1), step)
    assert rest.p == whole.p > 0


def test_without_a_target_p_stays_zero():
    adaptive = Adaptive(0.0, 1.0)
    for step in range(20):
        adaptive.see(torch.ones(8, 1), step)
    assert adaptive.p == 0 and not adaptive.on
