"""The facade: drawings of every kind to pictures, looks that stay, and answers that do not depend on the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SIDE, TAP, K, tiny_head
from PIL import Image

import sis_rearrange as sis
from sis_rearrange.conditions import Palette
from sis_rearrange.errors import InputError
from sis_rearrange.pack import Pack
from sis_rearrange.sampling import metadata, pick_device, sample_images
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.targets import Layouts
from sis_rearrange.tensors import one_hot, to_uint8


@pytest.fixture(scope="module")
def synth(tiny_pack: Pack) -> Synthesizer:
    made = Synthesizer(tiny_pack, device="cpu", backend="torch")
    made.set_source(seed=7)
    return made


def test_the_example_of_the_package(tiny_pack_path, tmp_path):
    pack = sis.load_pack(tiny_pack_path)
    synth = sis.Synthesizer(pack, device="auto")
    synth.set_source(seed=7)
    result = synth.synthesize(pack.file("drawings/sketch-1.png"), condition="sketch")
    assert result.image.mode == "RGB" and result.image.size == (SIDE, SIDE)
    assert result.proxy_mask.shape == result.source_proxy_mask.shape == (TAP, TAP)
    assert result.proxy_mask.dtype == result.source_proxy_mask.dtype == np.int64
    assert result.proxy_mask.min() >= 0 and result.proxy_mask.max() < K
    assert result.correspondence.shape == (TAP, TAP, 2) and result.correspondence.dtype == np.float32
    assert np.abs(result.correspondence).max() <= 1.001
    assert result.confidence.shape == (TAP, TAP) and result.confidence.dtype == np.float32
    assert result.confidence.min() >= 0 and result.confidence.max() <= 1
    result.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.info == result.metadata
    assert result.metadata["seed"] == "7" and result.metadata["condition"] == "sketch"
    assert result.metadata["pack_hash"] == pack.short_hash and "Credit" in result.metadata
    assert result.metadata["backend"] == synth.backend


@pytest.mark.parametrize("condition", ["segmentation", "sketch", "scribble"])
def test_path_picture_and_array_are_the_same_drawing(synth, tiny_pack, condition):
    path = tiny_pack.file(f"drawings/{condition}-2.png")
    with Image.open(path) as image:
        image.load()
    forms = [path, str(path), image, np.asarray(image.convert("RGB"))]
    results = [synth.synthesize(form, condition) for form in forms]
    for other in results[1:]:
        assert np.array_equal(results[0].proxy_mask, other.proxy_mask)
        assert np.array_equal(np.asarray(results[0].image), np.asarray(other.image))


def test_an_exemplar_lends_its_layout(synth):
    own = synth.synthesize(7, "exemplar")
    assert np.array_equal(own.proxy_mask, own.source_proxy_mask)
    other = synth.synthesize(8, "exemplar")
    assert not np.array_equal(other.proxy_mask, other.source_proxy_mask)
    assert np.array_equal(other.source_proxy_mask, own.proxy_mask)
    assert (other.confidence == 1).all()


def test_exemplar_forms_agree(synth):
    other = Synthesizer(synth.pack, device="cpu", backend="torch")
    source = other.set_source(seed=12)
    masks = [
        synth.synthesize(form, "exemplar").proxy_mask for form in (12, np.int64(12), source.ws, source.ws[0], source)
    ]
    for mask in masks:
        assert np.array_equal(mask, source.labels[0].numpy())
    picture = synth.synthesize(source, "exemplar").drawing
    assert np.array_equal(np.asarray(picture), np.asarray(other.source_image()))


def test_ws_as_source_is_the_same_look(synth):
    again = Synthesizer(synth.pack, device="cpu", backend="torch")
    again.set_source(ws=synth.source.ws[0])
    a, b = (each.synthesize(3, "exemplar") for each in (synth, again))
    assert np.array_equal(np.asarray(a.image), np.asarray(b.image))
    assert "seed" in a.metadata and "seed" not in b.metadata


def test_proxy_forms_agree(synth, tmp_path):
    labels = synth.synthesize(5, "exemplar").proxy_mask
    index = synth.proxy_image(labels)
    index.save(tmp_path / "index.png")
    index.convert("RGB").resize((3 * TAP, 3 * TAP), Image.Resampling.NEAREST).save(tmp_path / "colours.png")
    enlarged = np.kron(labels, np.ones((4, 4), np.int64))
    for form in (labels, labels.astype(np.uint8), enlarged, index, tmp_path / "index.png", tmp_path / "colours.png"):
        assert np.array_equal(synth.synthesize(form, "proxy").proxy_mask, labels)


def test_batch_and_single_agree(synth):
    seeds = [1, 2, 3, 4, 5]
    targets = [synth.read(seed, "exemplar") for seed in seeds]
    labels = torch.cat([target.labels for target in targets])
    batch = synth.rearrange(labels)
    assert batch.images.shape == (5, 3, SIDE, SIDE) and batch.class_mass.shape == (5, TAP, TAP)
    assert torch.equal(batch.labels, labels)
    assert torch.allclose(batch.images, synth.rearrange(one_hot(labels, K)).images, atol=1e-5)
    for n, target in enumerate(targets):
        single = synth.rearrange(target.labels)
        assert torch.allclose(single.images[0], batch.images[n], atol=1e-4)
        assert torch.allclose(single.correspondence[0], batch.correspondence[n], atol=1e-4)
        assert np.array_equal(to_uint8(single.images)[0], np.asarray(synth.paint(target).image))


def test_a_batch_of_looks(synth):
    sources = [Synthesizer(synth.pack, device="cpu", backend="torch").set_source(seed=seed) for seed in (1, 2)]
    both = synth.encode_source(torch.cat([source.ws for source in sources]))
    labels = synth.read(9, "exemplar").labels
    batch = synth.rearrange(labels.expand(2, -1, -1), both)
    for n, source in enumerate(sources):
        assert torch.allclose(batch.images[n], synth.rearrange(labels, source).images[0], atol=1e-4)
    assert not torch.allclose(batch.images[0], batch.images[1], atol=1e-2)
    with pytest.raises(ValueError, match="2 sources for 3"):
        synth.rearrange(labels.expand(3, -1, -1), both)


def test_samples_are_the_looks(synth, tiny_pack):
    (picture,) = sample_images(tiny_pack, [7], device="cpu", backend="torch")
    (faster,) = sample_images(tiny_pack, [7], device="cpu")
    assert np.abs(np.asarray(faster).astype(int) - np.asarray(picture)).max() <= 1
    assert tiny_pack.generator().synthesis.fast is None
    assert np.array_equal(np.asarray(picture), np.asarray(synth.source_image()))


@pytest.mark.parametrize(
    ("fit", "size"), [("pad", (SIDE, SIDE // 2)), ("stretch", (SIDE, SIDE // 2)), ("crop", (SIDE, SIDE))]
)
def test_the_drawings_aspect_ratio_comes_back(synth, fit, size):
    _, labels = tiny_head(64)
    wide = synth.pack.palette().to_image(labels[:32])
    result = synth.synthesize(wide, "segmentation", fit=fit)
    assert result.image.size == size
    assert result.proxy_mask.shape == (TAP, TAP)


def test_padding_of_a_proxy_mask_continues_its_rim(synth):
    labels = np.full((8, 16), 3)
    labels[3:5, 6:10] = 1
    square = synth.synthesize(labels, "proxy", fit="pad")
    assert square.image.size == (SIDE, SIDE // 2)
    assert (square.proxy_mask[:4] == 3).all() and (square.proxy_mask[-4:] == 3).all() and (square.proxy_mask == 1).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.synthesize(1, "exemplra"), "did you mean 'exemplar'"),
        (lambda s: s.synthesize(1, "exemplar", fit="padd"), "did you mean 'pad'"),
        (lambda s: s.synthesize("photo.png", "exemplar"), "photo.png: no such file"),
        (lambda s: s.synthesize(1.5, "exemplar"), "an exemplar is a picture, or a sample"),
        (lambda s: s.synthesize(1, "exemplar", samples=2), "says where everything is"),
        (lambda s: s.synthesize(np.eye(16, dtype=int), "proxy", samples=2), "says where everything is"),
        (lambda s: s.synthesize(tiny_head(64)[0], "sketch", samples=0), "samples 0"),
        (lambda s: s.synthesize(tiny_head(64)[0], "sketch", samples=65), "from 1 to 64"),
        (lambda s: s.synthesize(tiny_head(64)[0], "sketch", samples=2.5), "samples 2.5"),
        (lambda s: s.synthesize(tiny_head(64)[0], "sketch", samples=2, temperature=float("nan")), "temperature nan"),
        (lambda s: s.synthesize(tiny_head(64)[0], "sketch", samples=2, temperature=-1), "temperature -1"),
        (lambda s: s.synthesize(tiny_head(64)[0], "sketch", samples=2, seed=-1), "seed -1"),
        (lambda s: s.synthesize(-1, "exemplar"), "seed -1"),
        (
            lambda s: s.synthesize(torch.zeros(3, 4), "exemplar"),
            r"ws must be a tensor of shape \[8, 16\], got \[3, 4\]",
        ),
        (lambda s: s.synthesize(np.full((16, 16), K), "proxy"), f"labels 0 to {K - 1}"),
        (lambda s: s.synthesize(np.full((16, 16), -1), "proxy"), f"labels 0 to {K - 1}"),
        (lambda s: s.set_source(), "a seed, ws or an inversion"),
        (lambda s: s.set_source(seed=1, ws=torch.zeros(8, 16)), "a seed, ws or an inversion"),
        (lambda s: s.set_source(seed=True), "seed True"),
        (lambda s: s.set_source(seed=1.5), "seed 1.5"),
        (lambda s: s.set_source(seed=1, psi=float("nan")), "psi nan"),
        (lambda s: s.set_source(ws=torch.full((8, 16), torch.nan)), "NaN"),
        (lambda s: s.synthesize(3.5, "sketch"), "expected a path"),
    ],
)
def test_wrong_requests(tiny_pack, call, words):
    synth = Synthesizer(tiny_pack, device="cpu", backend="torch")
    synth.set_source(seed=0)
    before = synth.source
    with pytest.raises(InputError, match=words):
        call(synth)
    assert synth.source is before


def test_a_look_is_needed_first(tiny_pack):
    with pytest.raises(InputError, match="set_source"):
        Synthesizer(tiny_pack, device="cpu").synthesize(1, "exemplar")


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda", "mps", "xpu")
    for name in ("gpu", "cuda:99", "meta?"):
        with pytest.raises(InputError, match="cannot be used"):
            pick_device(name)


def test_the_packs_networks_stay_untouched(tiny_pack):
    before = {name: value.clone() for name, value in tiny_pack.generator().state_dict().items()}
    synth = Synthesizer(tiny_pack, device="cpu", backend="torch")
    synth.set_source(seed=1)
    synth.synthesize(2, "exemplar")
    assert all(torch.equal(value, before[name]) for name, value in tiny_pack.generator().state_dict().items())


def test_metadata_leaves_out_what_is_not_known(tiny_pack):
    entries = metadata(tiny_pack)
    assert set(entries) == {"Software", "torch", "pack", "pack_hash", "Credit"}
    assert entries["Software"].startswith("sis_rearrange ") and entries["pack"] == "tiny"


def test_clusters_that_the_look_lacks_give_way_to_the_next_best(synth):
    target = synth.read(tiny_head(64)[0], "sketch")
    lacking = int(target.labels.flatten().bincount().argmax())
    others = synth.source.labels.clone()
    others[others == lacking] = (lacking + 1) % K
    source = replace(synth.source, labels=others)
    result = synth.paint(target, source)
    assert lacking not in result.proxy_mask and lacking in target.labels
    kept = target.labels[0].numpy() != lacking
    present = np.isin(target.labels[0].numpy(), np.flatnonzero(np.bincount(others.flatten(), minlength=K) >= 3))
    assert np.array_equal(result.proxy_mask[kept & present], target.labels[0].numpy()[kept & present])
    expected = target.logits.softmax(dim=1)[0].numpy().transpose(1, 2, 0)
    assert np.allclose(result.confidence, np.take_along_axis(expected, result.proxy_mask[..., None], 2)[..., 0])


def test_a_painted_proxy_mask_is_taken_to_the_letter(synth):
    rare = int(synth.source.labels.flatten().bincount(minlength=K).argmin())
    source = replace(synth.source, labels=torch.where(synth.source.labels == rare, (rare + 1) % K, synth.source.labels))
    painted = np.full((TAP, TAP), rare)
    assert (synth.synthesize(painted, "proxy", source=source).proxy_mask == rare).all()


# ---------------------------------------------------------------- several layouts of one drawing


def test_samples_are_different_layouts_of_one_drawing(synth):
    drawing = tiny_head(64)[0]
    one = synth.synthesize(drawing, "sketch")
    assert one.samples == (one,) and one.alternatives == ()
    several = synth.synthesize(drawing, "sketch", samples=4)
    assert len(several.samples) == 4 and several.samples[0] is several
    assert np.array_equal(several.proxy_mask, one.proxy_mask)
    assert np.array_equal(np.asarray(several.image), np.asarray(one.image))
    assert len({each.proxy_mask.tobytes() for each in several.samples}) == 4
    assert "layout" not in several.metadata
    assert several.samples[2].metadata["layout"] == "sample 3, seed 0, temperature 1"
    for each in several.samples:
        assert each.confidence.shape == (TAP, TAP) and 0 <= each.confidence.min() <= each.confidence.max() <= 1


def test_samples_depend_on_seed_and_temperature_alone(synth):
    def masks(**settings) -> list[np.ndarray]:
        return [each.proxy_mask for each in synth.synthesize(tiny_head(64)[0], "sketch", **settings).samples]

    first = masks(samples=4, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(first, masks(samples=4, seed=3), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first[:2], masks(samples=2, seed=3), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, masks(samples=4, seed=4), strict=True))
    still = masks(samples=3, temperature=0.0)
    assert all(np.array_equal(still[0], other) for other in still[1:])


def test_a_layout_is_the_same_for_every_look(synth):
    targets = synth.vary(synth.read(tiny_head(64)[0], "sketch"), Layouts(3))
    for target in targets[1:]:
        for seed in (1, 2):
            source = Synthesizer(synth.pack, "cpu", "torch").set_source(seed=seed)
            wanted, found = target.labels[0].numpy(), synth.paint(target, source).proxy_mask
            there = np.isin(wanted, np.flatnonzero(np.bincount(source.labels.flatten(), minlength=K) >= 3))
            assert np.array_equal(found[there], wanted[there])


def test_an_alternative_says_how_sure_the_mapper_is_of_it(synth):
    target = synth.read(tiny_head(64)[0], "sketch")
    result = synth.paint(synth.vary(target, Layouts(2, 3.0))[1])
    expected = target.logits.softmax(dim=1)[0].numpy().transpose(1, 2, 0)
    assert np.allclose(result.confidence, np.take_along_axis(expected, result.proxy_mask[..., None], 2)[..., 0])
    assert result.confidence.mean() < synth.paint(target).confidence.mean()


# ---------------------------------------------------------------- real pictures, foreign palettes


def test_a_picture_can_be_the_exemplar(synth, tmp_path, monkeypatch):
    """A sample of the generator, found again by inversion: its layout comes near the sample's own."""
    picture = synth.source_image(Synthesizer(synth.pack, "cpu", "torch").set_source(seed=12))
    picture.save(tmp_path / "photo.png")
    monkeypatch.setattr("sis_rearrange.readers.EXEMPLAR_STEPS", 12)
    found = synth.synthesize(tmp_path / "photo.png", "exemplar")
    own = synth.synthesize(12, "exemplar").proxy_mask
    others = [synth.synthesize(seed, "exemplar").proxy_mask for seed in (2, 3, 4, 5)]
    assert (found.proxy_mask == own).mean() > max((other == own).mean() for other in others)
    assert np.array_equal(np.asarray(found.drawing), np.asarray(picture))


def test_masks_in_a_foreign_palette(synth, tiny_pack):
    _, labels = tiny_head(64)
    own = tiny_pack.palette()
    foreign = Palette(own.names[::-1], tuple((7 * n, 255 - 9 * n, 40) for n in range(len(own))))
    other = Synthesizer(tiny_pack, "cpu", "torch", foreign)
    other.set_source(seed=7)
    turned = foreign.to_image(len(own) - 1 - labels).convert("RGB")
    expected = synth.synthesize(own.to_image(labels), "segmentation", source=other.source)
    assert np.array_equal(other.synthesize(turned, "segmentation").proxy_mask, expected.proxy_mask)
    with pytest.raises(InputError):
        synth.synthesize(turned, "segmentation")
