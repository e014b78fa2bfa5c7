"""The native synthesis layers against plain torch in float64, on every code path of this CPU."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sis_rearrange.ops import build, fir_kernel, winograd


@pytest.fixture(autouse=True)
def library():
    found = winograd.backend()
    if found.library is None:
        pytest.skip(found.why)
    return found.library


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def path(request, library):
    before = library.sis_winograd_path()
    if not library.sis_winograd_choose_path(request.param.encode()):
        pytest.skip(f"this CPU has no {request.param}")
    yield request.param
    library.sis_winograd_choose_path(before)


def operands(n, size, channels, out, up, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    height, width = size
    factor = 2 if up else 1
    return {
        "x": draw(n, height, width, channels),
        "weight": draw(out, channels, 3, 3),
        "styles": 1 + 0.5 * draw(n, channels),
        "demodulation": draw(n, out).abs() / math.sqrt(9 * channels),
        "noise": draw(factor * height, factor * width),
        "bias": draw(out),
    }


def run(up, room=None, **given):
    given = dict(given)
    packed = winograd.pack(given.pop("weight"), up, gain=given.pop("gain", 1.0))
    return winograd.layer(given.pop("x"), packed, slope=0.2, up=up, room=room or winograd.Room(), name="y", **given)


def reference(up, x, weight, styles, demodulation, noise, bias):
    x, weight = x.double().permute(0, 3, 1, 2) * styles[:, :, None, None], weight.double()
    if up:
        y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        y = F.conv2d(y, 4 * fir_kernel().double()[None, None].repeat(y.shape[1], 1, 1, 1), padding=1, groups=y.shape[1])
    else:
        y = F.conv2d(x, weight, padding=1)
    y = y * demodulation[:, :, None, None] + (0 if noise is None else noise) + bias[:, None, None]
    return F.leaky_relu(y, 0.2).permute(0, 2, 3, 1)


SIZES = pytest.mark.parametrize("size", [(4, 4), (8, 8), (1, 1), (5, 7), (13, 2), (3, 33)], ids=str)
UP = pytest.mark.parametrize("up", [False, True], ids=["conv", "up"])


@UP
@SIZES
def test_layers_give_what_torch_gives(path, up, size):
    given = operands(2, size, 32, 48, up)
    wanted = reference(up, **given)
    assert (run(up, **given) - wanted).abs().max() < 2e-5 * wanted.abs().max()


@UP
@pytest.mark.parametrize("channels", [(16, 16), (16, 80), (528, 16)])
def test_channels(path, up, channels):
    given = operands(1, (9, 6), *channels, up)
    wanted = reference(up, **given)
    assert (run(up, **given) - wanted).abs().max() < 2e-5 * wanted.abs().max()


@UP
def test_many_blocks_of_tiles(path, up):
    """More tiles than are worked on at a time, so that blocks begin and end inside of a picture."""
    given = operands(2, (37, 41), 16, 16, up)
    wanted = reference(up, **given)
    assert (run(up, **given) - wanted).abs().max() < 2e-5 * wanted.abs().max()


@UP
def test_threads_and_batches_change_no_bit(up):
    given = operands(3, (21, 30), 16, 32, up)
    one = {key: value[1:2] if key in ("x", "styles", "demodulation") else value for key, value in given.items()}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        wanted = run(up, **given)
        torch.set_num_threads(3)
        assert torch.equal(run(up, **given), wanted) and torch.equal(run(up, **one), wanted[1:2])
    finally:
        torch.set_num_threads(before)


def test_no_noise():
    given = {**operands(1, (8, 8), 16, 16, False), "noise": None}
    wanted = reference(False, **given)
    assert (run(False, **given) - wanted).abs().max() < 2e-5 * wanted.abs().max()


def test_the_gain_of_the_weights():
    given = operands(1, (8, 8), 16, 16, True)
    wanted = reference(True, **{**given, "weight": 3 * given["weight"]})
    assert (run(True, gain=3.0, **given) - wanted).abs().max() < 2e-5 * wanted.abs().max()


def test_room_is_used_again_and_grows():
    room = winograd.Room()
    small, large = operands(1, (8, 8), 16, 16, True), operands(2, (12, 16), 16, 32, True)
    for given in (small, large, small):  # what the larger one left in memory must not show
        wanted = reference(True, **given)
        assert (run(True, room, **given) - wanted).abs().max() < 2e-5 * wanted.abs().max()
    assert run(True, room, **small).data_ptr() == run(True, room, **small).data_ptr()


@pytest.mark.parametrize("size", [(4, 4), (2, 6), (16, 10)], ids=str)
def test_rgb(path, size):
    height, width = size
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(2, height, width, 32, generator=generator), torch.randn(2, 3, 32, generator=generator)
    bias, skip = torch.randn(3, generator=generator), torch.randn(2, 3, height // 2, width // 2, generator=generator)
    wanted = torch.einsum("nhwc,nkc->nkhw", x.double(), weights.double()) + bias[:, None, None]
    assert (winograd.to_rgb(x, weights, bias, None) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    kernel = 4 * fir_kernel().double()[None, None].repeat(3, 1, 1, 1)
    wanted = wanted + F.conv_transpose2d(skip.double(), kernel, stride=2, padding=1, groups=3)
    assert (winograd.to_rgb(x, weights, bias, skip) - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_odd_channels_are_refused():
    with pytest.raises(ValueError, match="multiples of 16, got 24 and 16"):
        winograd.pack(torch.randn(16, 24, 3, 3), up=False)
    with pytest.raises(ValueError, match="multiples of 16, got 8"):
        winograd.to_rgb(torch.randn(1, 4, 4, 8), torch.randn(1, 3, 8), torch.zeros(3), None)


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("SIS_NATIVE", "0")
    assert winograd.backend().library is None and "SIS_NATIVE" in winograd.backend().why
    with pytest.raises(RuntimeError, match="SIS_NATIVE"):
        winograd.pack(torch.randn(16, 16, 3, 3), up=False)


def test_the_sources_are_the_builders():
    assert all((build.source_folder() / name).is_file() for name in build.SOURCES["winograd"])
