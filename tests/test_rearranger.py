from __future__ import annotations

import pytest
import torch

from sis_rearrange.rearranger import Rearranger, position_code
from sis_rearrange.tensors import cell_grid, one_hot


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Rearranger(channels=6, num_clusters=4, resolution=16, width=16, refine_width=8)


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(1)
    masks = [one_hot(torch.randint(0, 4, [2, 16, 16], generator=g), 4) for _ in range(2)]
    return torch.randn(2, 6, 16, 16, generator=g), torch.randn(2, 3, 16, 16, generator=g), *masks


def test_shapes(net, inputs):
    moved = net(*inputs)
    shapes = [[2, 6, 16, 16], [2, 3, 16, 16], [2, 16, 16], [2, 2, 16, 16], [2, 0, 16, 16]]
    assert [list(t.shape) for t in moved] == shapes
    assert moved.class_mass.min() >= 0 and moved.class_mass.max() <= 1 + 1e-5
    assert moved.correspondence.abs().max() <= 1


def test_equal_masks_match_every_cell_with_itself_even_untrained(net, inputs):
    feature_map, skip, mask, _ = inputs
    net.log_sharpness.data.fill_(5.0)
    moved = net(feature_map, skip, mask, mask)
    error = (moved.correspondence - cell_grid(16, 16)).abs().mean()
    other = (net(*inputs).correspondence - cell_grid(16, 16)).abs().mean()
    assert error < 0.02 < other


def test_codes_can_be_computed_once(net, inputs):
    feature_map, skip, source, target = inputs
    moved = net(feature_map, skip, source, target, net.encode(source), net.encode(target))
    for once, anew in zip(moved, net(*inputs), strict=True):
        torch.testing.assert_close(once, anew)


def test_a_sample_does_not_depend_on_its_batch(net, inputs):
    alone = net(*[t[1:] for t in inputs])
    for one, both in zip(alone, net(*inputs), strict=True):
        torch.testing.assert_close(one[0], both[1], atol=1e-5, rtol=1e-5)


def test_cells_of_one_class_ask_different_questions(net):
    flat = one_hot(torch.zeros(1, 16, 16, dtype=torch.int64), 4)
    code = net.encode(flat)[0].flatten(1)
    assert torch.pdist(code.t()).min() > 0


def test_gradients_reach_every_parameter(net, inputs):
    moved = net(*inputs)
    (moved.feature_map.square().sum() + moved.skip.square().sum() + moved.class_mass.sum()).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


def test_without_refinement_the_values_are_mixtures_of_source_cells(inputs):
    net = Rearranger(6, 4, 16, width=16, refine_width=0)
    feature_map = inputs[0]
    moved = net(*inputs).feature_map
    assert (moved <= feature_map.amax(dim=[2, 3], keepdim=True) + 1e-4).all()
    assert (moved >= feature_map.amin(dim=[2, 3], keepdim=True) - 1e-4).all()


def test_position_code_names_every_cell():
    code = position_code(16).flatten(1)
    assert code.shape == (14, 256) and torch.pdist(code.t()).min() > 0.01


def test_config_rebuilds_the_network(net, inputs):
    again = Rearranger(**net.config)
    again.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(again(*inputs).feature_map, net(*inputs).feature_map)


def test_what_is_carried_along_moves_like_the_rest(net, inputs):
    feature_map, skip, source_mask, target_mask = inputs
    plain = net(*inputs)
    marks = torch.arange(net.resolution**2, dtype=torch.float32).reshape(1, 1, net.resolution, net.resolution)
    moved = net(*inputs, carried=torch.cat([marks.expand(len(skip), -1, -1, -1), source_mask], dim=1))
    assert plain.carried.shape[1] == 0 and moved.carried.shape[1] == 1 + net.K
    torch.testing.assert_close(moved.feature_map, plain.feature_map, atol=1e-5, rtol=1e-5)
    mass = (moved.carried[:, 1:] * target_mask).sum(dim=1)
    torch.testing.assert_close(mass, plain.class_mass, atol=1e-5, rtol=1e-5)
    assert moved.carried[:, 0].min() >= 0 and moved.carried[:, 0].max() <= net.resolution**2 - 1


def test_many_samples_are_moved_a_few_at_a_time(net, inputs, monkeypatch):
    many = tuple(t.repeat(3, 1, 1, 1) for t in inputs)
    many[0].mul_(torch.linspace(0.5, 2, len(many[0]))[:, None, None, None])
    expected = net(*many)
    monkeypatch.setattr("sis_rearrange.rearranger.CHUNK_BYTES", 4 * (6 + 3 + 4) * 16 * 16 * 2)
    sizes: list[int] = []
    handle = net.feature_key.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    with torch.no_grad():
        for made, wanted in zip(net(*many), expected, strict=True):
            torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-5)
    handle.remove()
    assert sum(sizes) == len(many[0]) and max(sizes) == 2
