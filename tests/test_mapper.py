"""Semantic mapper: shapes, rebuild from its config, and that it can learn a layout from a condition."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from sis_rearrange.mapper import SemanticMapper


def tiny(**changes: int) -> SemanticMapper:
    sizes = {"in_channels": 2, "K": 3, "image_resolution": 16, "proxy_resolution": 8} | changes
    torch.manual_seed(0)
    return SemanticMapper("sketch", **sizes, widths=(8, 12, 16))


def test_shapes_and_rejections() -> None:
    mapper = tiny()
    assert mapper(torch.zeros(5, 2, 16, 16)).shape == (5, 3, 8, 8)
    assert tiny(proxy_resolution=16)(torch.zeros(1, 2, 16, 16)).shape == (1, 3, 16, 16)
    for wrong in (torch.zeros(1, 3, 16, 16), torch.zeros(1, 2, 32, 32)):
        with pytest.raises(ValueError, match="shape"):
            mapper(wrong)
    with pytest.raises(ValueError, match="proxy_resolution 5"):
        tiny(proxy_resolution=5)


def test_config_rebuilds_the_network() -> None:
    mapper = tiny().eval()
    again = SemanticMapper(**json.loads(json.dumps(mapper.config))).eval()
    again.load_state_dict(mapper.state_dict())
    x = torch.randn(2, 2, 16, 16)
    assert again.condition == "sketch"
    assert torch.equal(again(x), mapper(x))
    assert not any("grid" in key for key in mapper.state_dict())


def test_learns_condition_and_position() -> None:
    """Class 2 where there is ink, elsewhere 0 in the upper half and 1 in the lower, of which the ink says nothing."""
    torch.manual_seed(0)
    mapper = tiny()
    ink = (F.interpolate(torch.randn(32, 1, 4, 4), size=(8, 8), mode="nearest") > 0.3).float()
    target = torch.where(ink[:, 0] > 0, 2, (torch.arange(8) >= 4).long()[None, :, None].expand(32, 8, 8))
    x = F.interpolate(ink, scale_factor=2.0, mode="nearest").repeat(1, 2, 1, 1)
    optimiser = torch.optim.Adam(mapper.parameters(), lr=1e-2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on layers this small, threads that wait for each other cost more than they bring
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(mapper(x), target).backward()
        optimiser.step()
    torch.set_num_threads(threads)
    assert (mapper(x).argmax(1) == target).float().mean() > 0.97
