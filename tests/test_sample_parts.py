"""Parts of samples: the extractor's reading, corrected by each sample's colours."""

from __future__ import annotations

import pytest
import torch

from sis_rearrange.extractor import SemanticExtractor
from sis_rearrange.features import all_features, sample_ws
from sis_rearrange.sample_parts import COLOUR_WEIGHT, sample_parts, with_colours


def halves(noise: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture ``[1, 3, 16, 16]``, red on the left and blue on the right, and which half its pixels belong to."""
    colours = torch.tensor([[0.8, -0.8, -0.8], [-0.8, -0.8, 0.8]])
    truth = (torch.arange(16) >= 8).long().expand(16, 16)[None]
    shades = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return colours[truth].movedim(-1, 1) + noise * shades, truth


def read_as(parts: torch.Tensor, strength: float = 6.0, P: int = 2) -> torch.Tensor:
    """Logits ``[1, P, 16, 16]`` of a reading, far apart in all columns but 8 and 9, where they are 1 apart."""
    logits = torch.nn.functional.one_hot(parts, P).movedim(-1, 1) * strength
    logits[..., 8:10] /= strength
    return logits


def too_far(truth: torch.Tensor) -> torch.Tensor:
    """The left part two pixels wider than it is."""
    parts = truth.clone()
    parts[:, :, 8:10] = 0
    return parts


def test_pixels_of_another_parts_colour_become_its_own():
    image, truth = halves()
    read = too_far(truth)
    assert (with_colours(read_as(read), image).argmax(1) == truth).all()
    assert (with_colours(read_as(read), image, weight=0).argmax(1) == read).all()


def test_flat_pictures_and_sure_readings_stay():
    image, truth = halves()
    read = too_far(truth)
    assert (with_colours(read_as(read), torch.full_like(image, 0.3)).argmax(1) == read).all()
    sure = 100.0 * torch.nn.functional.one_hot(read, 2).movedim(-1, 1)
    assert (with_colours(sure, image).argmax(1) == read).all()


def test_a_part_that_does_not_occur_gets_no_pixels():
    image, truth = halves()
    logits = read_as(truth, P=4)
    logits[:, 2:] -= 20
    found = with_colours(logits, image)
    assert found.isfinite().all() and (found.argmax(1) == truth).all()


def test_samples_do_not_touch_each_other():
    image, truth = halves()
    other = image.flip(3)
    both = with_colours(read_as(torch.cat([truth, truth])), torch.cat([image, other]))
    torch.testing.assert_close(both[:1], with_colours(read_as(truth), image))
    torch.testing.assert_close(both[1:], with_colours(read_as(truth), other))


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="expected"):
        with_colours(torch.zeros(1, 2, 16, 16), torch.zeros(1, 3, 8, 8))


def test_parts_are_read_in_the_pictures_that_come_with_them(tiny_pack):
    generator = tiny_pack.generator()
    ws = sample_ws(generator, range(20, 23))
    maps, images = all_features(generator, ws)
    torch.manual_seed(0)
    extractor = SemanticExtractor([x.shape[1] for x in maps], 4).eval()
    with torch.no_grad():
        logits = extractor(maps)
    pictures, parts = sample_parts(generator, extractor, ws)
    torch.testing.assert_close(pictures, images.clamp(-1, 1))
    assert not parts.requires_grad and parts.dtype == torch.int64
    assert (parts == with_colours(logits, images.clamp(-1, 1), COLOUR_WEIGHT).argmax(1)).float().mean() > 0.999
    assert (parts != logits.argmax(1)).any()
