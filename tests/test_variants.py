"""Layouts of a drawing: what is sure stays, what is open hangs together, and the seed decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sis_rearrange.pack import load_pack
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.targets import Layouts
from sis_rearrange.tensors import from_uint8, one_hot
from sis_rearrange.variants import BANK, NEVER, UNLIKELY, variations

ROOT = Path(__file__).resolve().parent.parent
CELLS, K = 16, 4


def bands(shift: int) -> torch.Tensor:
    """A layout of four upright bands, moved to the right: labels [CELLS, CELLS]."""
    column = (torch.arange(CELLS) + shift) % CELLS // (CELLS // K)
    return column.expand(CELLS, CELLS)


BANDS = torch.stack([bands(shift) for shift in range(CELLS)])


def drawing() -> torch.Tensor:
    """Logits [1, K, CELLS, CELLS] of a mapper that is sure of the upper half and knows nothing of the lower."""
    logits = 8.0 * one_hot(bands(0)[None], K)
    logits[:, :, CELLS // 2 :] = 0.01 * torch.randn(K, CELLS // 2, CELLS, generator=torch.Generator().manual_seed(0))
    return logits


def layouts(count: int, seed: int = 0, **settings: float) -> torch.Tensor:
    """Labels [count, CELLS, CELLS]."""
    return (drawing() + variations(drawing(), BANDS, count, seed, **settings)).argmax(dim=1)


def borders(labels: torch.Tensor) -> int:
    """How many pairs of neighbouring cells differ."""
    return int((labels[:, 1:] != labels[:, :-1]).sum() + (labels[:, :, 1:] != labels[:, :, :-1]).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_sure_cells_stay_and_open_ones_differ(temperature):
    found, best = layouts(6, temperature=temperature), drawing().argmax(dim=1)
    upper, lower = found[:, : CELLS // 2], found[:, CELLS // 2 :]
    assert (upper == best[:, : CELLS // 2]).all()
    assert len({tuple(each.flatten().tolist()) for each in lower}) == 6


def test_open_regions_hang_together():
    found = layouts(6)
    gumbel = -torch.empty(6, K, CELLS, CELLS).exponential_(generator=torch.Generator().manual_seed(0)).log()
    alone = (drawing() + gumbel).argmax(dim=1)  # each cell drawn by itself
    assert borders(found[:, CELLS // 2 :]) < 0.3 * borders(alone[:, CELLS // 2 :])
    assert all((each == BANDS[:, CELLS // 2 :]).all(dim=(1, 2)).any() for each in found[:, CELLS // 2 :])


def test_layouts_that_the_drawing_contradicts_are_rare():
    logits = 0.5 * one_hot(bands(0)[None], K)
    near = (0, 1, 2, 3, CELLS - 1, CELLS - 2, CELLS - 3)  # shifts of less than a band
    share = []
    for temperature in (0.3, 4.0, 10.0):
        pulls = torch.cat([variations(logits, BANDS, 1, seed, temperature) for seed in range(200)])
        picked = [(pull > 0).float().argmax(dim=0) for pull in pulls]
        share.append(sum(any((p == BANDS[s]).all() for s in near) for p in picked) / len(picked))
    assert share[0] > share[1] > share[2] and share[0] > 0.9


def test_no_variation_at_temperature_zero():
    assert (variations(drawing(), BANDS, 3, 0, temperature=0.0) == 0).all()
    assert torch.equal(layouts(2, temperature=0.0), drawing().argmax(dim=1).expand(2, -1, -1))


def test_the_seed_decides_and_the_count_does_not():
    assert torch.equal(layouts(4, seed=7), layouts(4, seed=7))
    assert torch.equal(layouts(4, seed=7), layouts(9, seed=7)[:4])
    assert not torch.equal(layouts(4, seed=7), layouts(4, seed=8))
    assert layouts(0).shape == (0, CELLS, CELLS)


def test_calibration_says_what_is_sure():
    """Logits of 8 over a temperature of 8 are a guess: then the upper half may change too."""
    best = drawing().argmax(dim=1)[:, : CELLS // 2]
    assert (layouts(6, calibration=8.0, temperature=10.0)[:, : CELLS // 2] != best).any()


def test_unlikely_clusters_rank_between_likely_and_lacking_ones():
    pull = variations(drawing(), BANDS, 4, 0)
    probability = drawing().softmax(dim=1)
    unlikely = (probability < UNLIKELY * probability.amax(dim=1, keepdim=True)).expand(4, -1, -1, -1)
    assert unlikely.any() and (pull[unlikely] == -NEVER).all() and (pull[~unlikely] >= 0).all()


@pytest.mark.parametrize(
    ("count", "temperature"), [(CELLS + 1, 1.0), (-1, 1.0), (1, -0.1), (1, float("nan")), (1, float("inf"))]
)
def test_senseless_requests(count, temperature):
    with pytest.raises(ValueError, match="layouts|temperature"):
        variations(drawing(), BANDS, count, 0, temperature)
    assert BANK >= 4


# ---------------------------------------------------------------- the shipped pack


def test_a_vague_scribble_varies_where_it_is_silent_and_not_where_it_speaks():
    synth = Synthesizer(load_pack(ROOT / "pretrained" / "toonhead"), "cpu", "torch")
    synth.set_source(seed=33)
    target = synth.read(ROOT / "docs" / "images" / "vague.png", "scribble")
    drawn = synth.vary(target, Layouts(9))
    layouts = torch.cat([each.labels for each in drawn])
    changed = (layouts[1:] != layouts[:1]).float().mean(dim=0)
    sure = (target.logits / target.temperature).softmax(dim=1).amax(dim=1)[0]
    assert changed[sure < 0.5].mean() > 0.3 and changed[sure > 0.8].mean() < 0.1 and (changed[sure > 0.96] == 0).all()
    assert all(borders(each[None]) < 1.25 * borders(layouts[:1]) for each in layouts[1:])

    judge, classes = synth.pack.judge(), synth.pack.classes
    pictures = np.stack([np.asarray(synth.paint(each).image) for each in drawn])
    with torch.inference_mode():
        seen = judge(from_uint8(pictures)).argmax(dim=1)
    with Image.open(ROOT / "docs" / "images" / "vague.png") as image:
        asked = torch.from_numpy(synth.pack.palette().from_strokes(image.convert("RGB"))[2::4, 2::4])
    for name in ("background", "skin"):
        stroke = asked == classes.index(name)
        kept = (seen[:, stroke] == classes.index(name)).float().mean(dim=1)
        assert stroke.sum() > 10 and kept.min() > 0.8, name
