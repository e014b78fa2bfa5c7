"""Edits at tiny size: what changes, what must not, films, and the commands."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import SIDE, TAP, K, tiny_head
from PIL import Image

from sis_rearrange.cli import main
from sis_rearrange.editing import (
    Change,
    Editor,
    edit,
    exemplar,
    mix_layers,
    morph,
    morph_latents,
    own_masks,
    read_change,
    transfer,
    write_film,
)
from sis_rearrange.editing.local import _shares, blend_weight
from sis_rearrange.editing.masks import dilated
from sis_rearrange.editing.morphing import between, distances
from sis_rearrange.errors import InputError
from sis_rearrange.inversion import Crop, InversionConfig, invert
from sis_rearrange.inversion.crops import square_tensor
from sis_rearrange.tensors import to_uint8

PICTURE, CROP = (90, 70), Crop(13, 5, 61)  # an odd size, so that nothing fits by chance


@pytest.fixture(scope="module")
def editor(tiny_pack):
    return Editor(tiny_pack, "cpu")


@pytest.fixture(scope="module")
def look(editor):
    return editor.look(3)


@pytest.fixture(scope="module")
def picture(look):
    """A look's picture in a file of noise: every pixel that must not change can be told from its neighbours."""
    pixels = np.random.default_rng(0).integers(0, 255, (PICTURE[1], PICTURE[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    square = Image.fromarray(to_uint8(look.picture())[0]).resize((CROP.size, CROP.size))
    image.paste(square, (CROP.x, CROP.y))
    return image


@pytest.fixture(scope="module")
def target(picture):
    return square_tensor(CROP.cut(picture), SIDE)


def repainted(mask: Image.Image, label: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A mask with one box of cells (of TAP) painted over."""
    factor = mask.width // TAP
    left, top, right, bottom = (v * factor for v in box)
    mask = mask.copy()
    mask.paste(label, (left, top, right, bottom))
    return mask


def inversion_file(path, tiny_pack, picture, **settings):
    found = invert(tiny_pack, picture, crop=CROP, config=InversionConfig(steps=2, starts=1, samples=4, **settings))
    found.save(path)
    return found


# ---- local edits -----------------------------------------------------------------------------------------------------


def test_own_masks_come_back_as_no_change(editor, look, target):
    masks = own_masks(editor, look, target)
    assert set(masks) == {"proxy", "parts"} and all(mask.size == (512, 512) for mask in masks.values())
    for mask in masks.values():
        for saved in (mask, mask.convert("RGB"), mask.resize((300, 300), Image.Resampling.NEAREST)):
            with pytest.raises(InputError, match="is the picture's own mask"):
                read_change(editor, look, target, saved)


@pytest.mark.parametrize("form", ["P", "RGB"])
def test_a_proxy_mask_says_which_cells_changed(editor, look, target, form):
    mask = own_masks(editor, look, target)["proxy"]
    label = (int(look.labels[0, 3, 3]) + 1) % K
    change = read_change(editor, look, target, repainted(mask, label, (2, 2, 6, 5)).convert(form))
    expected = torch.zeros(TAP, TAP, dtype=torch.bool)
    expected[2:5, 2:6] = look.labels[0, 2:5, 2:6] != label
    assert change.kind == "proxy" and torch.equal(change.cells, expected)
    assert (change.wanted[4:10, 4:12] == label).all()
    assert torch.equal((change.wanted != change.own)[::2, ::2], expected)
    assert torch.equal(change.own[1::2, 1::2], look.labels[0])


def test_a_part_mask_changes_only_around_the_new_part(editor, look, target):
    mask = own_masks(editor, look, target)["parts"]
    own = np.asarray(mask)
    count = np.bincount(own.ravel(), minlength=10)
    label = int(np.argsort(count)[-2])  # a part that the picture has
    mask = repainted(mask, int(np.argmax(count)), (5, 5, 11, 11))
    change = read_change(editor, look, target, repainted(mask, label, (6, 6, 10, 10)))
    near = torch.zeros(TAP, TAP, dtype=torch.bool)
    near[6:10, 6:10] = True
    assert change.kind == "parts" and change.cells.any()
    assert not (change.cells & ~dilated(near, 2)).any()
    fine = change.cells.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(change.wanted[~fine], change.own[~fine])
    assert (change.wanted[12:20, 12:20] == label).all()
    lacking = int(np.argmin(count))
    assert count[lacking] == 0
    stand_in = read_change(editor, look, target, repainted(mask, lacking, (6, 6, 10, 10))).wanted[12:20, 12:20]
    assert len(stand_in.unique()) == 1 and count[stand_in[0, 0]] > 0  # one of the parts that the picture has


def test_an_edit_leaves_every_pixel_beyond_the_border(editor, look, picture, target):
    mask = own_masks(editor, look, target)["proxy"]
    label = (int(look.labels[0, 8, 8]) + 1) % K
    change = read_change(editor, look, target, repainted(mask, label, (7, 7, 10, 10)))
    result = edit(editor, look, picture, CROP, change, feather=1.0)
    before, after = np.asarray(picture, int), np.asarray(result.image, int)
    touched = np.zeros(before.shape[:2], bool)
    touched[CROP.y : CROP.y + CROP.size, CROP.x : CROP.x + CROP.size] = result.weight > 0
    assert result.image.size == PICTURE and touched.any() and touched.mean() < 0.5
    assert (before[~touched] == after[~touched]).all()
    assert (before[touched] != after[touched]).any()
    # one cell is CROP.size / TAP pixels: the change, a margin of a cell, a border of a cell, nothing more
    near = np.zeros((TAP, TAP), bool)
    near[7 - 2 : 10 + 2, 7 - 2 : 10 + 2] = True
    allowed = np.array(Image.fromarray(near).resize((CROP.size, CROP.size), Image.Resampling.NEAREST))
    assert not (result.weight[~dilated(torch.from_numpy(allowed), 2).numpy()] > 0).any()


def test_what_shows_and_what_is_read_as_asked():
    own, wanted = torch.zeros(4, 4, dtype=torch.long), torch.zeros(4, 4, dtype=torch.long)
    wanted[:2] = 1  # eight cells: two come out as asked, four as something else that is new, two as they were
    found = torch.tensor([[1, 1, 2, 2], [2, 2, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    change = Change(own, wanted, torch.zeros(2, 2, dtype=torch.bool), "parts")
    assert _shares(change, found) == (0.25, 0.75)
    assert _shares(change._replace(wanted=own), found) == (1.0, 1.0)


def test_cells_that_did_not_change_keep_the_looks_features(editor, look, picture):
    cells = torch.zeros(TAP, TAP, dtype=torch.bool)
    own = look.labels[0].repeat_interleave(2, 0).repeat_interleave(2, 1)
    nothing = edit(editor, look, picture, CROP, Change(own, own, cells & False, "proxy"))
    assert np.array_equal(np.asarray(nothing.image), np.asarray(picture))
    assert np.array_equal(np.asarray(nothing.square), to_uint8(look.picture())[0])


def test_transparency_and_colour_profile_of_the_original_stay(editor, look, picture, target):
    mask = own_masks(editor, look, target)["proxy"]
    change = read_change(editor, look, target, repainted(mask, (int(look.labels[0, 8, 8]) + 1) % K, (7, 7, 10, 10)))
    clear = picture.convert("RGBA")
    alpha = np.random.default_rng(1).integers(0, 256, PICTURE[::-1], dtype=np.uint8)
    clear.putalpha(Image.fromarray(alpha))
    clear.info["icc_profile"] = b"\0" * 16 + b"RGB " + b"\0" * 108
    result = edit(editor, look, clear, CROP, change)
    before, after = np.asarray(clear), np.asarray(result.image)
    weight = np.zeros(before.shape[:2], np.float32)
    weight[CROP.y : CROP.y + CROP.size, CROP.x : CROP.x + CROP.size] = result.weight
    assert result.image.mode == "RGBA" and result.image.info["icc_profile"] == clear.info["icc_profile"]
    assert (before[weight == 0] == after[weight == 0]).all()
    assert (after[weight == 1, 3] == 255).all()
    plain = np.asarray(edit(editor, look, picture, CROP, change).image)
    assert (plain[weight == 1] == after[weight == 1, :3]).all()
    picture.info["icc_profile"] = b"\0" * 16 + b"CMYK" + b"\0" * 108  # of what it was before it became RGB
    assert "icc_profile" not in edit(editor, look, picture, CROP, change).image.info


def test_the_border_is_as_wide_as_asked():
    region = np.zeros((8, 8), bool)
    region[3, 3] = True
    hard, soft, wide = (blend_weight(region, 80, feather) for feather in (0, 1, 2))
    assert set(np.unique(hard)) == {0, 1} and hard.sum() == 100
    assert hard.sum() < soft.sum() < wide.sum()
    assert (soft[hard > 0] == 1).all() and 0 < soft[35, 29] < 1 and soft[35, 19] == 0
    assert blend_weight(region & False, 80, 1).sum() == 0


@pytest.mark.parametrize(
    ("mask", "kind", "message"),
    [
        (Image.new("RGB", (64, 64), (10, 250, 10)), "auto", "say which with --kind"),
        (Image.new("RGB", (64, 64), (10, 250, 10)), "proxy", "outside the palette"),
        (Image.new("P", (64, 40)), "proxy", "must be square"),
        (Image.new("P", (64, 64)), "part", "must be auto, proxy or parts"),
    ],
)
def test_masks_that_cannot_be_read(editor, look, target, mask, kind, message):
    with pytest.raises(InputError, match=message):
        read_change(editor, look, target, mask, kind)


# ---- two looks -------------------------------------------------------------------------------------------------------


def test_a_look_in_its_own_layout_is_itself(editor, look):
    own = exemplar(editor, look, look)
    moved = editor.move(look, editor.reachable(look.logits, look))
    assert torch.equal(own, look.decode(moved.feature_map, moved.skip))
    other = editor.look(4)
    assert (exemplar(editor, other, look) - own).abs().max() > 0.01


def test_style_mixing_takes_rows(look, editor):
    other = editor.look(4)
    count = look.ws.shape[1]
    images = [mix_layers(look, other, first) for first in (1, count - 1)]
    distance = [(image - look.picture()).abs().mean().item() for image in images]
    assert distance[0] > distance[1] > 0
    with pytest.raises(InputError, match=f"give 1 to {count - 1}"):
        mix_layers(look, other, count)


def test_transfer_changes_the_part_and_little_else(editor, look, tiny_pack):
    donor = editor.look(4)
    shared = set(editor.parts(look.picture()).unique().tolist()) & set(editor.parts(donor.picture()).unique().tolist())
    part = max(shared, key=lambda n: int((editor.parts(look.picture()) == n).sum()))
    name = tiny_pack.classes[part]
    image = transfer(editor, look, donor, [name])
    inside = editor.parts(look.picture())[0] == part
    change = (image - look.picture()).abs().mean(dim=1)[0]
    assert change[inside].mean() > 0
    missing = next(n for n in range(10) if n not in editor.parts(donor.picture()).unique().tolist())
    with pytest.raises(InputError, match=f"has no {tiny_pack.classes[missing]}"):
        transfer(editor, look, donor, [tiny_pack.classes[missing]])
    with pytest.raises(InputError, match="unknown part 'nose'"):
        transfer(editor, look, donor, ["nose"])


# ---- films -----------------------------------------------------------------------------------------------------------


def test_outlines_move_between_layouts():
    a, b = np.zeros((16, 16), np.int64), np.zeros((16, 16), np.int64)
    a[4:8, 4:8] = 1
    b[4:8, 8:12] = 1
    ends = distances(a, 3), distances(b, 3)
    for t, labels in ((0, a), (1, b)):
        soft = between(*ends, t)
        assert np.array_equal(soft.argmax(dim=1)[0].numpy(), labels)
        assert torch.allclose(soft.sum(dim=1), torch.ones(1, 16, 16), atol=1e-5)
    middle = between(*ends, 0.5)[0, 1]
    assert middle[5, 7] > 0.4 and middle[5, 8] > 0.4 and middle[5, 2] < 0.1
    assert distances(np.zeros((4, 4), np.int64), 2)[0].min() > 0


def test_a_morph_ends_where_it_should(editor, look):
    other = editor.look(4)
    layouts = [editor.reachable(each.logits, look) for each in (look, other)]
    frames = list(morph(editor, look, *layouts, 3))
    assert len(frames) == 3 and not torch.equal(frames[0], frames[2])
    for frame, layout in ((frames[0], layouts[0]), (frames[2], layouts[1])):
        moved = editor.move(look, layout)
        assert (frame - look.decode(moved.feature_map, moved.skip)).abs().mean() < 0.1
    latent = list(morph_latents(editor, look, look, other, 3))
    assert torch.allclose(latent[2], exemplar(editor, other, look), atol=1e-4)


def test_films_are_written_whole(tmp_path):
    frames = [Image.new("RGB", (16, 16), (40 * n, 0, 0)) for n in range(3)]
    write_film(tmp_path / "a.gif", frames, 10)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.is_animated and film.size == (16, 16)
    write_film(tmp_path / "folder", frames, 10)
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == [f"frame000{n}.png" for n in range(3)]
    with pytest.raises(InputError, match="name a .gif, an .mp4, or a folder"):
        write_film(tmp_path / "a.avi", frames, 10)
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        with pytest.raises(InputError, match="imageio-ffmpeg"):
            write_film(tmp_path / "a.mp4", frames, 10)
    assert {p.name for p in tmp_path.iterdir()} == {"a.gif", "folder"}


# ---- commands --------------------------------------------------------------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_edit_command(tmp_path, tiny_pack, tiny_pack_path, editor, picture):
    picture.save(tmp_path / "a.png")
    found = inversion_file(tmp_path / "a.safetensors", tiny_pack, picture)
    own = editor.look(found)
    mask = own_masks(editor, own, square_tensor(CROP.cut(picture), SIDE))["proxy"]
    repainted(mask, (int(own.labels[0, 8, 8]) + 1) % K, (7, 7, 10, 10)).save(tmp_path / "mask.png")
    options = ["--mask", tmp_path / "mask.png", "--source", tmp_path / "a.safetensors", "--out", tmp_path / "b.png"]
    done = run("edit", tiny_pack_path, tmp_path / "a.png", *options, "--sheet", tmp_path / "sheet.png")
    assert done.exit_code == 0, done.output
    assert "cells changed" in done.output and (tmp_path / "sheet.png").exists()
    before, after = np.asarray(picture), np.asarray(Image.open(tmp_path / "b.png"))
    assert before.shape == after.shape and 0 < (before != after).any(axis=2).mean() < 0.5


def test_the_edit_command_says_what_is_wrong(tmp_path, tiny_pack, tiny_pack_path, picture):
    picture.save(tmp_path / "a.png")
    Image.new("RGB", PICTURE, (9, 9, 9)).save(tmp_path / "other.png")
    inversion_file(tmp_path / "a.safetensors", tiny_pack, picture, tune=False)
    base = ["edit", tiny_pack_path, tmp_path / "a.png", "--mask", tmp_path / "other.png"]
    given = ["--source", tmp_path / "a.safetensors", "--out", tmp_path / "b.png"]
    cases = [
        ([*base, "--source", tmp_path / "a.safetensors", "--out", tmp_path / "b.jpg"], "let the name end in .png"),
        ([*base, *given, "--crop", "0,0,20"], "leave one of the two away"),
        ([*base, *given], "must be square"),
        (["edit", tiny_pack_path, tmp_path / "other.png", "--mask", tmp_path / "a.png", *given], "another picture"),
        ([*base[:3], "--mask", tmp_path / "none.png", *given], "no such file"),
        ([*base, *given[:2], "--out", tmp_path / "a.png"], "would replace what it is made of"),
        ([*base, *given, "--sheet", tmp_path / "other.png"], "would replace what it is made of"),
    ]
    for arguments, message in cases:
        done = run(*arguments)
        assert done.exit_code == 2 and message in done.output, done.output
        assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "b.png").exists()


def test_mix_transfer_and_morph(tmp_path, tiny_pack, tiny_pack_path, picture):
    source = tmp_path / "a.safetensors"
    inversion_file(source, tiny_pack, picture)
    Image.fromarray(tiny_head(64)[1]).save(tmp_path / "mask1.png")
    Image.fromarray(tiny_head(64, 0.1)[1]).save(tmp_path / "mask2.png")
    drawn = [tmp_path / "mask1.png", tmp_path / "mask2.png", "--condition", "segmentation", "--look", source]
    films = ["--frames", 2]
    for name, arguments in {
        "mix.png": ["mix", tiny_pack_path, 3, source],
        "layers.png": ["mix", tiny_pack_path, source, 4, "--layer", 3],
        "morph.gif": ["morph", tiny_pack_path, 3, source, *films],
        "latent.gif": ["morph", tiny_pack_path, 3, 4, "--through", "latents", "--look", source, *films],
        "drawn.gif": ["morph", tiny_pack_path, *drawn, *films],
    }.items():
        done = run(*arguments, "--out", tmp_path / name)
        assert done.exit_code == 0, (name, done.output)
        first = (tmp_path / name).read_bytes()
        assert run(*arguments, "--out", tmp_path / name).exit_code == 0
        assert (tmp_path / name).read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mix", "3", "four", "--out", "a.png"], "give a seed such as 12"),
        (["mix", "3", "none.safetensors", "--out", "a.png"], "no such file"),
        (["mix", "3", "4", "--out", "a.gif"], "let the name end in .png"),
        (["transfer", "3", "4", "--part", "nose", "--out", "a.png"], "unknown part 'nose'"),
        (["morph", "3", "4", "--frames", "1", "--out", "a.gif"], "give 2 to 1,000"),
        (["morph", "3", "4", "--through", "walls", "--out", "a.gif"], "must be masks or latents"),
        (["morph", "3", "4", "--rate", "0", "--out", "a.gif"], "1 to 60"),
        (["morph", "a.png", "b.png", "--condition", "sketch", "--out", "a.gif"], "give --look"),
        (["morph", "3", "4", "--out", "a.avi"], "name a .gif"),
    ],
)
def test_commands_say_what_is_wrong_in_one_line(tmp_path, tiny_pack_path, arguments, message):
    arguments = [tmp_path / a if a in ("a.png", "a.gif", "a.avi") else a for a in arguments]
    done = run(arguments[0], tiny_pack_path, *arguments[1:])
    assert done.exit_code == 2 and message in done.output
    assert len(done.output.strip().splitlines()) == 1 and not list(tmp_path.iterdir())
