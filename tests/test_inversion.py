"""Inversion of pictures into the tiny pack's generator, its result file, and the command."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import SIDE, TAP
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sis_rearrange.cli import main
from sis_rearrange.editing import Editor
from sis_rearrange.errors import InputError
from sis_rearrange.features import sample_ws
from sis_rearrange.inversion import Crop, Inversion, InversionConfig, error_picture, invert, tuned_generator, work
from sis_rearrange.inversion.optimise import Plateau, tuned_layers
from sis_rearrange.inversion.perceptual import perceptual
from sis_rearrange.inversion.prior import LatentPrior, from_p, to_p
from sis_rearrange.pack import GENERATOR
from sis_rearrange.stylegan2 import Generator
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.tensors import to_uint8

QUICK = InversionConfig(steps=24, starts=2, samples=16)
QUICKEST = ["--steps", 1, "--starts", 1]  # of the command


@pytest.fixture(scope="module")
def picture(tiny_pack):
    """A sample of the tiny pack's generator as a picture of 48 pixels in a wider file."""
    images = tiny_pack.generator().synthesis(sample_ws(tiny_pack.generator(), [5], 0.9))
    square = Image.fromarray(to_uint8(images)[0]).resize((48, 48), Image.Resampling.BICUBIC)
    wide = Image.new("RGB", (80, 50), (40, 60, 90))
    wide.paste(square, (20, 1))
    return wide


@pytest.fixture(scope="module")
def inversion(tiny_pack, picture):
    return invert(tiny_pack, picture, crop=Crop(20, 1, 48), config=QUICK)


# ---- prior, distance, plateau ----------------------------------------------------------------------------------------


def test_the_prior_knows_samples_from_other_latents(tiny_pack):
    generator = tiny_pack.generator()
    prior = LatentPrior(generator, 512)
    own = sample_ws(generator, range(40), 1.0)
    assert 0.7 < prior.distance(own).mean() < 1.3
    assert prior.distance(own + 3 * own.std()).min() > 3 * prior.distance(own).max()
    assert torch.allclose(prior.colour(prior.whiten(own)), own, atol=1e-3)
    x = torch.randn(4, 7)
    assert torch.allclose(to_p(from_p(x)), x)


@pytest.mark.parametrize("kind", ["discriminator", "hed"])
def test_perceptual_distance_is_small_for_like_pictures(tiny_pack, kind):
    measure = perceptual(kind, tiny_pack.discriminator())
    generator = tiny_pack.generator()
    a, b = (generator.synthesis(sample_ws(generator, [s], 1.0)).clamp(-1, 1) for s in (1, 2))
    near = (a + 0.02 * torch.randn(a.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    assert measure.distance(a, a).item() == 0
    assert measure.distance(a, near).item() < measure.distance(a, b).item()
    features = [measure.features(torch.cat([a, b, near]))] * 2
    pairs = measure.to_all(*features)
    assert torch.allclose(pairs[0, 1], measure.distance(a, b)[0], atol=1e-4)
    assert torch.allclose(pairs, pairs.T, atol=1e-5)


def test_unknown_features_are_named():
    with pytest.raises(InputError, match="did you mean 'hed'"):
        perceptual("hex", None)
    with pytest.raises(InputError, match="no discriminator"):
        perceptual("discriminator", None)
    assert perceptual("auto", None).kind == "hed"


def test_a_plateau_ends_a_phase_and_progress_does_not():
    def steps_until_end(losses):
        plateau = Plateau(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 200, patience=3)
        for count, loss in enumerate(losses, 1):
            if plateau.ends(loss):
                return count, plateau.optimizer.param_groups[0]["lr"]
        return None, plateau.optimizer.param_groups[0]["lr"]

    count, rate = steps_until_end([1.0] * 100)
    assert count is not None and count < 20 and rate < 0.1
    assert steps_until_end([0.9**n for n in range(100)]) == (None, 1.0)


# ---- invert ----------------------------------------------------------------------------------------------------------


def test_inversion_finds_the_picture_and_tuning_helps(tiny_pack, picture, inversion):
    start = invert(tiny_pack, picture, crop=Crop(20, 1, 48), config=dataclasses.replace(QUICK, steps=1, tune=False))
    assert inversion.scores["psnr_latent"] > start.psnr + 1
    assert inversion.psnr > inversion.scores["psnr_latent"] + 1
    assert inversion.tuned and not inversion.outside
    assert (
        inversion.error_map.shape == (SIDE, SIDE) and 0 <= inversion.error_map.min() <= inversion.error_map.max() <= 1
    )


def test_the_scores_are_those_of_what_is_stored(tiny_pack, picture, inversion):
    image = inversion.generator(tiny_pack.generator()).synthesis(inversion.ws[None]).clamp(-1, 1)
    square = picture.crop((20, 1, 68, 49)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    target = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 127.5 - 1
    psnr = 10 * torch.log10(4 / (image - target).square().mean())
    assert psnr.item() == pytest.approx(inversion.psnr, abs=1e-3)
    assert np.allclose(inversion.error_map, ((image - target).abs().mean(1)[0] / 2).numpy(), atol=1e-3)


def test_a_seed_decides_and_the_pack_stays_as_it_was(tiny_pack, picture, inversion):
    before = {name: p.clone() for name, p in tiny_pack.generator().state_dict().items()}
    again = invert(tiny_pack, picture, crop=Crop(20, 1, 48), config=QUICK)
    assert torch.equal(again.ws, inversion.ws)
    assert all(torch.equal(again.delta[name], change) for name, change in inversion.delta.items())
    other = invert(tiny_pack, picture, crop=Crop(20, 1, 48), config=dataclasses.replace(QUICK, seed=1))
    assert not torch.equal(other.ws, inversion.ws)
    after = tiny_pack.generator().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(p.requires_grad for p in tiny_pack.generator().parameters())


def test_progress_adds_up_even_where_phases_end_early(tiny_pack, picture):
    stuck = dataclasses.replace(QUICK, steps=120, tune=False, lr=1e-12)
    for config in (stuck, dataclasses.replace(QUICK, steps=3), dataclasses.replace(QUICK, steps=3, space="w")):
        done: list[int] = []
        invert(tiny_pack, picture, config=config, progress=done.append)
        assert sum(done) == work(config, SIDE) and min(done) >= 0


def test_w_has_one_row_and_w_plus_has_many(tiny_pack, picture):
    rows = {
        space: invert(tiny_pack, picture, steps=6, starts=1, space=space, tune=False).ws.unique(dim=0).shape[0]
        for space in ("w", "w+")
    }
    assert rows["w"] == 1 and rows["w+"] > 1


def test_a_bare_generator_with_noise_is_inverted_and_left_alone(picture):
    torch.manual_seed(0)
    generator = Generator(8, 0, 8, 16, channel_base=64, channel_max=8, num_layers=2).eval()
    for name, parameter in generator.named_parameters():
        if "noise_strength" in name:
            parameter.data.fill_(0.1)
    before = generator.synthesis.b8.conv0.noise_const.clone()
    found = invert(generator, picture, config=InversionConfig(steps=4, starts=1, samples=4))
    assert found.settings["features"] == "hed" and found.pack["generator"] == ""
    assert torch.equal(generator.synthesis.b8.conv0.noise_const, before)


def test_what_no_sample_looks_like_is_outside_the_domain(tiny_pack):
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    found = invert(tiny_pack, noise, config=dataclasses.replace(QUICK, steps=2, tune=False, features="hed"))
    assert found.outside
    heat = np.asarray(error_picture(found, Image.fromarray(noise)), dtype=int)
    assert (heat[..., 0] - heat[..., 2]).max() > 50  # red where it is wrong


def test_only_blocks_above_the_tap_are_tuned(tiny_pack, inversion):
    names = tuned_layers(tiny_pack.generator(), TAP)
    assert "synthesis.b32.conv1.weight" in names and "synthesis.b32.torgb.bias" in names
    assert not any("b16." in name or "affine" in name or "noise" in name for name in names)
    assert set(inversion.delta) == set(names) and all(change.any() for change in inversion.delta.values())


def test_tuning_leaves_what_the_rearranger_sees_to_the_bit(tiny_pack, inversion):
    editor = Editor(tiny_pack, "cpu")
    tuned, untuned = (editor.look(found) for found in (inversion, dataclasses.replace(inversion, delta={})))
    assert torch.equal(tuned.feature_map, untuned.feature_map) and torch.equal(tuned.skip, untuned.skip)
    assert torch.equal(tuned.labels, untuned.labels)
    assert not torch.equal(tuned.picture(), untuned.picture())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(steps=0), "--steps 0"),
        (dict(starts=0), "--starts 0"),
        (dict(space="z"), "--space z"),
        (dict(crop=Crop(60, 0, 48)), "inside the picture of 80x50"),
        (dict(crop=Crop(0, 0, 3)), "at least 8 pixels"),
    ],
)
def test_settings_that_make_no_sense(tiny_pack, picture, wrong, message):
    with pytest.raises(InputError, match=message):
        invert(tiny_pack, picture, **wrong)


@pytest.mark.parametrize("text", ["", "1,2", "a,b,c", "1,2,3,4", "-1,0,20"])
def test_crops_are_three_numbers(text):
    with pytest.raises(InputError, match="such as 40,0,512"):
        Crop.parse(text)


# ---- file ------------------------------------------------------------------------------------------------------------


def test_the_file_keeps_everything(tmp_path, tiny_pack, inversion):
    path = tmp_path / "a.safetensors"
    inversion.save(path)
    again = Inversion.load(path, tiny_pack)
    assert torch.equal(again.ws, inversion.ws) and again.crop == inversion.crop
    assert again.scores == inversion.scores and again.settings == inversion.settings
    assert np.array_equal(again.error_map, inversion.error_map)
    assert inversion.encode() == again.encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_tuned_pack_is_the_pack_with_another_generator(tiny_pack, inversion):
    clusters = tiny_pack.proxy()
    tuned = inversion.tuned_pack(tiny_pack)
    assert tuned.hash != tiny_pack.hash and tuned.proxy() is clusters
    images = [pack.generator().synthesis(inversion.ws[None]) for pack in (tuned, tiny_pack)]
    assert not torch.allclose(*images, atol=1e-3)
    assert torch.equal(images[0], inversion.generator(tiny_pack.generator()).synthesis(inversion.ws[None]))
    assert tuned_generator(tiny_pack.generator(), {}) is tiny_pack.generator()
    untuned = dataclasses.replace(inversion, delta={})
    assert untuned.tuned_pack(tiny_pack) is tiny_pack


def test_files_that_do_not_fit(tmp_path, tiny_pack, inversion):
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="let the name end in .safetensors"):
        inversion.save(tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds a 'generator', no inversion"):
        Inversion.load(tiny_pack.file(GENERATOR))
    dataclasses.replace(inversion, pack={"name": "other", "generator": "0" * 64}).save(path)
    with pytest.raises(InputError, match="another generator"):
        Inversion.load(path, tiny_pack)
    dataclasses.replace(inversion, ws=inversion.ws[:3]).save(path)
    with pytest.raises(InputError, match="does not fit"):
        Inversion.load(path, tiny_pack)
    dataclasses.replace(inversion, scores={}).save(path)
    with pytest.raises(InputError, match="no whole inversion|not a whole inversion"):
        Inversion.load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        Inversion.load(path)


# ---- the command -----------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_command_writes_result_and_masks(tmp_path, tiny_pack_path, picture):
    picture.save(tmp_path / "wide.png")
    out, masks = tmp_path / "a.safetensors", tmp_path / "masks"
    options = [*QUICKEST, "--out", out, "--show-masks", masks]
    done = run("invert", tiny_pack_path, tmp_path / "wide.png", *options)
    assert done.exit_code == 0, done.output
    assert "looking at --crop 15,0,50" in done.output and "PSNR" in done.output
    assert {p.name for p in masks.iterdir()} == {"inversion.png", "proxy.png", "parts.png", "error.png"}
    assert Image.open(masks / "proxy.png").mode == "P"
    assert Inversion.load(out).picture["name"] == "wide.png"
    # Again: what the command wrote is replaced, what somebody painted is not, and that is told before the work
    assert run("invert", tiny_pack_path, tmp_path / "wide.png", *options).exit_code == 0
    with Image.open(masks / "proxy.png") as mask:
        mask.putpixel((3, 3), (mask.getpixel((3, 3)) + 1) % 4)
        mask.save(masks / "proxy.png", pnginfo=texts_of(mask))
    painted = (masks / "proxy.png").read_bytes()
    out.unlink()
    done = run("invert", tiny_pack_path, tmp_path / "wide.png", *options)
    assert done.exit_code == 2 and "proxy.png: was changed" in done.output and not out.exists()
    assert (masks / "proxy.png").read_bytes() == painted


def texts_of(image):
    texts = PngInfo()
    for key, value in image.text.items():
        texts.add_text(key, value)
    return texts


def test_what_cannot_be_written_is_told_before_the_work(tmp_path, tiny_pack_path, picture, monkeypatch):
    picture.save(tmp_path / "wide.png")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    monkeypatch.setattr("sis_rearrange.inversion.invert", lambda *_, **__: pytest.fail("worked first"))
    out = ["--out", tmp_path / "a.safetensors"]
    for options, message in (
        (["--out", tmp_path / "file" / "a.safetensors"], "is a file, not a folder"),
        (["--out", tmp_path / "folder.safetensors"], "is a folder"),
        ([*out, "--show-masks", tmp_path / "file"], "is a file, not a folder"),
    ):
        done = run("invert", tiny_pack_path, tmp_path / "wide.png", *options)
        assert done.exit_code == 2 and message in done.output and done.output.count("\n") == 1, done.output


def test_the_command_warns_outside_the_domain(tmp_path, tiny_pack_path):
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    out = tmp_path / "a.safetensors"
    done = run("invert", tiny_pack_path, tmp_path / "noise.png", "--features", "hed", *QUICKEST, "--out", out)
    assert done.exit_code == 0 and "outside the generator's domain" in done.output
    assert Image.open(tmp_path / "a_error.png").size == (SIDE, SIDE)


def test_an_inversion_is_a_source(tmp_path, tiny_pack, tiny_pack_path, inversion):
    synth = Synthesizer(tiny_pack, "cpu", "torch")
    plain = synth.set_source(seed=3)
    source = synth.set_source(inversion=dataclasses.replace(inversion, picture={"name": "me.jpg"}))
    shown = inversion.generator(tiny_pack.generator()).synthesis(inversion.ws[None])
    assert np.array_equal(np.asarray(synth.source_image()), to_uint8(shown)[0])
    own = Synthesizer(inversion.tuned_pack(tiny_pack), "cpu", "torch")
    own.set_source(ws=inversion.ws)
    for other in (plain, source):  # a source keeps its generator, whichever was set last
        layout = synth.read(3, "exemplar")
        expected = (own if other is source else Synthesizer(tiny_pack, "cpu", "torch")).paint(
            layout, dataclasses.replace(other, tuned=None)
        )
        assert np.array_equal(np.asarray(synth.paint(layout, other).image), np.asarray(expected.image))
    with pytest.raises(InputError, match="one of the three"):
        synth.set_source(seed=3, inversion=inversion)
    with pytest.raises(InputError, match="another generator"):
        synth.set_source(inversion=dataclasses.replace(inversion, pack={"name": "x", "generator": "0"}))

    dataclasses.replace(inversion, picture={"name": "me.jpg"}).save(tmp_path / "me.safetensors")
    arguments = ["synthesize", tiny_pack_path, "--condition", "exemplar", 4, "--backend", "torch", "--source"]
    for seeds, names in (([], {"me"}), (["--seeds", 7], {"me", "seed7"})):
        out = tmp_path / f"out{len(seeds)}"
        done = run(*arguments, tmp_path / "me.safetensors", *seeds, "--out", out)
        assert done.exit_code == 0, done.output
        assert {p.name for p in out.iterdir()} == {f"exemplar4_{n}.png" for n in names} | {"contact_sheet.png"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "a.pt"], "let the name end in .safetensors"),
        (["--out", "a.safetensors", "--crop", "1,2"], "such as 40,0,512"),
        (["--out", "a.safetensors", "--crop", "70,0,50"], "inside the picture"),
        (["--out", "a.safetensors", "--space", "v"], "must be w or w+"),
        (["--out", "a.safetensors", "--features", "vgg"], "unknown features"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(tmp_path, tiny_pack_path, picture, options, message):
    picture.save(tmp_path / "wide.png")
    options = [tmp_path / o if str(o).startswith("a.") else o for o in options]
    done = run("invert", tiny_pack_path, tmp_path / "wide.png", *options)
    assert done.exit_code == 2 and message in done.output
    assert len([line for line in done.output.strip().splitlines() if line.startswith("Error")]) == 1
    assert not (tmp_path / "a.safetensors").exists()
