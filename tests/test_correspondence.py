from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from sis_rearrange.correspondence import draw_positions, rearrange
from sis_rearrange.tensors import cell_grid, one_hot


def example(n=2, d=6, values=3, classes=4, size=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    query, key = torch.randn(n, d, size, size, generator=g), torch.randn(n, d, size, size, generator=g)
    mask = one_hot(torch.randint(0, classes, [n, size, size], generator=g), classes)
    return query, key, torch.randn(n, values, size, size, generator=g), mask


def test_equals_the_attention_written_out():
    query, key, values, mask = example()
    similarity = torch.einsum("ndq,ndk->nqk", *(F.normalize(t, dim=1).flatten(2) for t in (query, key)))
    weights = torch.softmax(9.0 * similarity, dim=2)
    match = rearrange(query, key, values, mask, torch.tensor(9.0))
    grid = cell_grid(8, 8)[None].expand(2, -1, -1, -1)
    for result, carried in ((match.values, values), (match.class_probability, mask), (match.position, grid)):
        expected = torch.einsum("nqk,nvk->nvq", weights, carried.flatten(2)).reshape(result.shape)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_a_sharp_match_of_equal_codes_is_the_identity():
    query, _, values, mask = example(d=16)
    match = rearrange(query, query, values, mask, torch.tensor(200.0))
    torch.testing.assert_close(match.values, values, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(match.position[0], cell_grid(8, 8), atol=1e-3, rtol=1e-3)


def test_class_probabilities_sum_to_one():
    match = rearrange(*example(), torch.tensor(3.0))
    torch.testing.assert_close(match.class_probability.sum(dim=1), torch.ones(2, 8, 8))


def test_gradients_flow_to_query_key_values_and_sharpness():
    query, key, values, mask = example()
    inputs = [query, key, values, torch.tensor(5.0)]
    for t in inputs:
        t.requires_grad_()
    rearrange(query, key, values, mask, inputs[3]).values.square().sum().backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in inputs)


def test_source_and_target_may_differ_in_size():
    _, key, values, mask = example()
    match = rearrange(torch.randn(2, 6, 4, 5), key, values, mask, torch.tensor(2.0))
    assert match.values.shape == (2, 3, 4, 5) and match.position.shape == (2, 2, 4, 5)


def test_positions_are_drawn_in_distinct_colours():
    colours = draw_positions(cell_grid(8, 8).permute(1, 2, 0).numpy())
    assert colours.dtype == np.uint8 and colours.shape == (8, 8, 3)
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 64
