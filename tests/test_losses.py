"""Every term falls where it should fall and vanishes where it should vanish."""

from __future__ import annotations

import pytest
import torch

from sis_rearrange import losses
from sis_rearrange.tensors import one_hot

LABELS = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2], [2, 2, 2, 2]]])
MASK = one_hot(LABELS, 4)


def test_reconstruction_is_zero_for_equal_inputs_and_grows():
    x, std = torch.randn(1, 3, 4, 4), torch.tensor([1.0, 2.0, 4.0])
    assert losses.feature_reconstruction(x, x, std) == 0
    assert losses.feature_reconstruction(x + std[:, None, None], x, std).item() == pytest.approx(1)
    assert losses.image_reconstruction(x + 0.5, x).item() == pytest.approx(0.5)


def test_agreement_prefers_the_target():
    good, bad = 8 * MASK, 8 * one_hot((LABELS + 1) % 4, 4)
    assert losses.proxy_agreement(good, LABELS) < 0.01 < losses.proxy_agreement(bad, LABELS)


def test_relaxed_agreement_forgives_one_cell_at_borders_only():
    moved = LABELS.clone()
    moved[0, :, 1] = torch.tensor([1, 1, 2, 2])  # the border between 0 and 1 one cell to the left
    logits = 20 * one_hot(moved, 4)
    assert losses.proxy_agreement(logits, LABELS) > 1
    assert losses.proxy_agreement(logits, LABELS, relax=1) < 1e-3
    moved[0, 0, 0] = 2  # nowhere near a 2
    assert losses.proxy_agreement(20 * one_hot(moved, 4), LABELS, relax=1) > 1


def test_reachable_cells_have_a_class_of_the_source():
    source = one_hot(torch.zeros_like(LABELS), 4)
    assert torch.equal(losses.cells_reachable(source, MASK), LABELS == 0)


def test_attention_mass_counts_reachable_cells_only():
    reachable = LABELS == 0
    mass = torch.where(reachable, 1.0, 0.0)
    assert losses.attention_mass(mass, reachable).abs() < 1e-3
    assert losses.attention_mass(mass * 0.1, reachable) > 2
    assert losses.attention_mass(mass, torch.zeros_like(reachable)) == 0


def test_style_statistics_ignore_layout_and_see_colour():
    colours = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    target = one_hot(LABELS.flip(2), 4)
    source_picture, moved = (torch.einsum("ck,nkhw->nchw", colours, m) for m in (MASK, target))
    same = losses.style_statistics(moved, target, source_picture, MASK)
    assert same < 1e-5
    assert losses.style_statistics(moved + 0.3, target, source_picture, MASK).item() == pytest.approx(0.3, abs=1e-3)


def test_style_statistics_skip_classes_that_one_side_lacks():
    nothing_shared = losses.style_statistics(
        torch.ones(1, 2, 4, 4), one_hot(torch.full_like(LABELS, 3), 4), torch.zeros(1, 2, 4, 4), MASK
    )
    assert nothing_shared == 0


def test_class_colours_ignore_layout_and_see_colour():
    colours = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    target = one_hot(LABELS.flip(2), 4)
    picture, moved = (torch.einsum("ck,nkhw->nchw", colours, m) for m in (MASK, target))
    assert losses.class_colours(moved, target, picture, MASK) == 0
    assert losses.class_colours(moved + 0.3, target, picture, MASK).item() == pytest.approx(0.3)


def test_adversarial_terms_pull_in_opposite_directions():
    low, high = torch.full([4, 1], -3.0), torch.full([4, 1], 3.0)
    assert losses.adversarial(high) < losses.adversarial(low)
    assert losses.discriminator(high, low) < losses.discriminator(low, high)


def test_r1_is_the_squared_gradient_norm():
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    logits = (x * 2).sum(dim=[1, 2, 3])[:, None]
    assert losses.r1_penalty(logits, x, gamma=3.0).item() == pytest.approx(1.5 * 4 * 48)


def test_jointly_reachable_wants_both_classes_in_one_cell():
    coarse = torch.tensor([[[0, 0, 1, 1]]])
    fine = torch.tensor([[[0, 1, 1, 2]]])
    asked_coarse = torch.tensor([[[0, 1, 0, 1]]])
    asked_fine = torch.tensor([[[0, 0, 2, 2]]])  # 1 with 0 and 0 with 2 occur nowhere, though each class does
    reachable = losses.jointly_reachable((coarse, fine), (asked_coarse, asked_fine))
    assert reachable.tolist() == [[[True, False, False, True]]]
