"""The coherent match: what an edited region is fetched from."""

from __future__ import annotations

import pytest
import torch

from sis_rearrange.editing.matching import FINE, coherent_match, fetch, surroundings

R = 16  # cells


def face(top: int = 10) -> torch.Tensor:
    """Labels [2 R, 2 R]: background 0, a head 1, one square eye 2 with a brow 3 above it, clothes 4 at the bottom."""
    labels = torch.zeros(FINE * R, FINE * R, dtype=torch.long)
    labels[4:26, 6:26] = 1
    labels[top : top + 4, 12:18] = 2
    labels[top - 2 : top - 1, 11:19] = 3
    labels[28:] = 4
    return labels


def changed(own: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cells [R, R] with any pixel that changed."""
    return (own != wanted).view(R, FINE, R, FINE).any(dim=3).any(dim=1)


def moved_by(position: torch.Tensor) -> torch.Tensor:
    """Offsets [R, R, 2] in cells of where each cell comes from."""
    at = (torch.arange(R) + 0.5) / R * 2 - 1
    return (position - torch.stack(torch.meshgrid(at, at, indexing="ij"), dim=-1)) * R / 2


def test_a_moved_part_is_fetched_in_one_piece():
    own, wanted = face(10), face(14)
    position = coherent_match(own, wanted, changed(own, wanted), 5)
    eye = torch.zeros(R, R, dtype=torch.bool)
    eye[7:9, 6:9] = True  # cells wholly of the moved eye
    assert torch.equal(moved_by(position)[eye], torch.tensor([-2.0, 0.0]).expand(6, 2))
    left = torch.zeros(R, R, dtype=torch.bool)
    left[5, 6:9] = True  # where it was, and the brow is not yet
    source = fetch(torch.nn.functional.one_hot(own[1::2, 1::2], 5).permute(2, 0, 1)[None].float(), position)[0]
    assert (source.argmax(dim=0)[left] == 1).all()  # skin


def test_cells_beyond_the_region_stay_and_sources_show_the_part():
    own = face()
    wanted = own.clone()
    wanted[6:12, 28:32] = 4  # clothes where none ever are
    region = changed(own, wanted)
    offset = moved_by(coherent_match(own, wanted, region, 5))
    assert offset[~region].abs().max() < 1e-6
    position = coherent_match(own, wanted, region, 5)
    rows = ((position[..., 0] + 1) / 2 * FINE * R).round().long()
    columns = ((position[..., 1] + 1) / 2 * FINE * R).round().long()
    assert (own[rows[region], columns[region]] == 4).all()


def test_a_part_that_the_picture_lacks_and_an_empty_region():
    own = face()
    wanted = own.clone()
    wanted[0:4] = 5
    position = coherent_match(own, wanted, changed(own, wanted), 6)
    assert torch.isfinite(position).all() and position.abs().max() <= 1
    assert moved_by(coherent_match(own, own, changed(own, own), 6)).abs().max() < 1e-6


def test_fetching_from_where_everything_is_changes_nothing():
    maps = torch.randn(1, 3, R, R)
    position = coherent_match(face(), face(), torch.zeros(R, R, dtype=torch.bool), 5)
    assert torch.allclose(fetch(maps, position), maps, atol=1e-5)


def test_surroundings_measure_the_share_that_differs():
    plain, other = torch.zeros(12, 12, dtype=torch.long), torch.ones(12, 12, dtype=torch.long)
    distance = (surroundings(plain, 2) - surroundings(other, 2)).square().sum(dim=1)
    assert distance.tolist() == pytest.approx([2.0] * 144)
