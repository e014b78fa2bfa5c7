"""HED: the shipped weights, its features, and the condition made of its edges."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sis_rearrange import hed as module
from sis_rearrange.conditions import Hed, get_condition
from sis_rearrange.errors import InputError
from sis_rearrange.hed import HED, HEDFeatures, hed_file, load_hed
from sis_rearrange.images import contact_sheet
from sis_rearrange.tensors import from_uint8
from sis_rearrange.training.mapper import MapperConfig
from sis_rearrange.training.pack_training import mapper_training


@pytest.fixture(scope="module")
def hed() -> HED:
    return load_hed()


def face(side: int, shift: float = 0.0) -> Image.Image:
    """A head with eyes and a mouth in flat colours, anti-aliased."""
    big = Image.new("RGB", (4 * side, 4 * side), (150, 190, 230))
    pen, s = ImageDraw.Draw(big), 4 * side
    pen.ellipse([s * (0.2 + shift), s * 0.12, s * (0.8 + shift), s * 0.92], fill=(230, 180, 150))
    for x in (0.34, 0.54):
        pen.ellipse([s * (x + shift), s * 0.4, s * (x + 0.12 + shift), s * 0.52], fill=(40, 30, 30))
    pen.rectangle([s * (0.38 + shift), s * 0.68, s * (0.62 + shift), s * 0.75], fill=(170, 40, 50))
    return big.reduce(4)


def images(*pictures: Image.Image) -> torch.Tensor:
    return from_uint8(np.stack([np.asarray(p) for p in pictures]))


# -- network ---------------------------------------------------------------------------------------------------------


def test_the_weights_are_the_ones_that_are_described():
    facts = json.loads((hed_file().parent / "hed.json").read_text())
    data = hed_file().read_bytes()
    assert facts["sha256"] == module.SHA256 == hashlib.sha256(data).hexdigest()
    assert facts["bytes"] == len(data) and facts["file"] == hed_file().name
    assert facts["licence"] == "MIT" and facts["credit"]


def test_changed_or_missing_weights_are_refused(tmp_path):
    copy = tmp_path / "copy.safetensors"
    shutil.copy(hed_file(), copy)
    with copy.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(InputError, match="copy.safetensors: was changed"):
        load_hed(copy)
    with pytest.raises(InputError, match="none.safetensors: cannot be read"):
        load_hed(tmp_path / "none.safetensors")


def test_it_is_frozen_and_each_one_is_new(hed):
    assert not hed.training and not any(p.requires_grad for p in hed.parameters())
    assert all(p.dtype == torch.float32 for p in hed.parameters())
    assert sum(p.numel() for p in hed.parameters()) == 14_716_171


@torch.inference_mode()
def test_edges_are_where_the_parts_meet(hed):
    """High on the outline of the head and of an eye, low in the middle of the cheek and of the background."""
    edges = hed(images(face(96)))[0, 0]
    assert edges.shape == (96, 96) and float(edges.min()) >= 0 and float(edges.max()) <= 1
    on = min(float(edges[44:52, 17:23].max()), float(edges[42:46, 30:36].max()))
    off = max(float(edges[58:62, 30:40].max()), float(edges[40:50, 5:9].max()))
    assert on > 0.6 and off < 0.2


@torch.inference_mode()
@pytest.mark.parametrize("size", [(8, 8), (33, 17), (1, 40)])
def test_any_size_works(hed, size):
    assert hed(torch.zeros(1, 3, *size)).shape == (1, 1, *size)
    shapes = [f.shape[-2:] for f in hed.features(torch.zeros(1, 3, *size))]
    assert shapes == [tuple(-(-length // 2**n) for length in size) for n in range(5)]


@torch.inference_mode()
def test_samples_do_not_depend_on_the_batch(hed, monkeypatch):
    both = images(face(32), face(32, 0.1))
    whole = hed(both)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    torch.testing.assert_close(hed(both), whole, atol=1e-5, rtol=0)


def test_the_published_layout(hed):
    """Against the same network written down flat: BGR minus the mean, five blocks, sides enlarged, fused."""
    x = images(face(24))
    state, layers = hed.state_dict(), ((1, 2), (2, 2), (3, 3), (4, 3), (5, 3))
    h = (x * 127.5 + 127.5)[:, [2, 1, 0]] - torch.tensor([104.00699, 116.66877, 122.67892])[:, None, None]
    sides = []
    for block, count in layers:
        if block > 1:
            h = torch.nn.MaxPool2d(2, ceil_mode=True)(h)
        for n in range(1, count + 1):
            name = f"block{block}.conv{n}"
            h = torch.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).clamp_min(0)
        side = torch.conv2d(h, state[f"side{block}.weight"], state[f"side{block}.bias"])
        sides.append(torch.nn.Upsample(size=(24, 24), mode="bilinear")(side))
    expected = torch.conv2d(torch.cat(sides, 1), state["fuse.weight"], state["fuse.bias"]).sigmoid()
    torch.testing.assert_close(hed(x), expected, atol=1e-5, rtol=0)


# -- features --------------------------------------------------------------------------------------------------------


def test_distance_grows_with_the_change_and_has_gradients(hed):
    features = HEDFeatures(hed)
    picture = images(face(32))
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    assert float(features.distance(picture, picture)) == 0
    amounts = [float(features.distance(picture, picture + a * noise)) for a in (0.02, 0.1, 0.5)]
    assert 0 < amounts[0] < amounts[1] < amounts[2]
    moved = picture.clone().requires_grad_()
    features.distance(moved, picture + 0.1 * noise).sum().backward()
    assert moved.grad is not None and float(moved.grad.abs().sum()) > 0
    assert [f.shape[1] for f in HEDFeatures(hed, blocks=2)(picture)] == [64, 128]


# -- condition -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> Image.Image:
    return Hed().draw(np.asarray(face(128)), None, 0)


def test_either_polarity_and_any_size_read_alike(drawn):
    condition = get_condition("hed")
    plain = condition.read(drawn, 32)[0]
    assert plain.shape == (1, 3, 32, 32) and plain.dtype == torch.float32
    assert float(plain.min()) >= 0 and float(plain.max()) <= 1
    others = {
        "inverted": Image.eval(drawn, lambda v: 255 - v),
        "large": drawn.resize((700, 700), Image.Resampling.BICUBIC),
        "RGB": drawn.convert("RGB"),
        "faint": Image.eval(drawn, lambda v: v // 3),
    }
    for name, other in others.items():
        x = condition.read(other, 32)[0]
        assert float((x[:, 2] - plain[:, 2]).abs().mean()) < 0.04, name
        assert float((x[:, 1] - plain[:, 1]).abs().mean()) < 0.04, name


def test_maps_and_photos_read_like_training(drawn):
    """Nearer to the training inputs of their own picture than to those of another."""
    condition = Hed()
    batch = images(face(32), face(32, 0.12))
    trained = torch.stack([condition.from_samples(batch, None, np.random.default_rng(s)) for s in range(3)]).mean(0)
    for file in (drawn, face(128)):
        x, fit = condition.read(file, 32)
        near, far = (float((x[0] - t).abs().mean()) for t in trained)
        assert near < 0.7 * far
        assert fit.size == (128, 128)


def test_training_inputs_vary_with_the_generator_alone():
    condition, batch = Hed(), images(face(32))
    first, again, other = (condition.from_samples(batch, None, np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float(first.min()) >= 0 and float(first.max()) <= 1


def test_what_is_a_map_and_what_a_photo(drawn):
    condition = Hed()
    assert condition.is_map(drawn) and condition.is_map(Image.eval(drawn, lambda v: 255 - v))
    grey_photo = Image.fromarray((np.add.outer(np.arange(128), np.arange(128)) // 2 + 60).astype(np.uint8))
    assert not condition.is_map(face(64)) and not condition.is_map(grey_photo)


def test_empty_maps_are_refused():
    for blank in (Image.new("L", (64, 64), 0), Image.new("L", (64, 64), 255)):
        with pytest.raises(InputError, match="empty"):
            Hed().read(blank, 32)
    with pytest.raises(InputError, match="no edges"):
        Hed().read(Image.new("RGB", (64, 64), (90, 120, 30)), 32)


def test_a_mapper_learns_from_it(tiny_pack):
    """A few steps on the tiny pack: drawings of the generator's samples, at its own resolution."""
    config = MapperConfig("hed", kimg=0.012, batch=4, widths=(8, 16), cycle=0.0, save_every=100)
    training = mapper_training(tiny_pack, config, torch.device("cpu"))
    losses = [training.train_step()["loss/cross_entropy"] for _ in range(config.steps)]
    assert len(losses) == 3 and np.isfinite(losses).all()
    assert training.net.in_channels == 3


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_maps_that_are_not_square(drawn, fit):
    x, how = Hed().read(drawn.crop((0, 32, 128, 96)), 32, fit)
    assert (how.mode, how.size) == (fit, (64, 128))
    assert x.shape == (1, 3, 32, 32)
    if fit == "pad":
        assert float(x[0, [0, 2], :6].max()) == 0


def test_bars_beside_a_photo_have_no_edges():
    """They are put around the edges found, not around the photo."""
    photo = face(128).crop((0, 32, 128, 96))
    x, how = Hed().read(photo, 32)
    assert x.shape == (1, 3, 32, 32) and how.size == (64, 128)
    assert float(x[0, 2, :7].max()) == float(x[0, 2, 25:].max()) == 0
    whole = Hed().read(face(128), 32)[0]
    inside = (x[0, 2, 10:22] - whole[0, 2, 10:22]).abs().mean()
    assert float(inside) < 0.1
    assert float(x[0, 0, 8:11, :5].max()) == 0  # where the head does not reach the border, no line runs along it


def test_what_was_read_can_be_shown(drawn, tmp_path):
    shown = Hed().show(Hed().read(drawn, 32)[0][0])
    assert shown.mode == "RGB" and shown.size == (32, 32) and len(shown.getcolors(1024) or []) > 2
    contact_sheet([[face(128), drawn, shown]]).save(tmp_path / "sheet.png")
