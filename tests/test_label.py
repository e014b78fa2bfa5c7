"""`sis label`: a picture goes out, a painted mask comes in, a mapper is trained; shots from a folder."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sis_rearrange.cli import main
from sis_rearrange.conditions import as_palette
from sis_rearrange.errors import InputError
from sis_rearrange.features import sample_ws
from sis_rearrange.pack import JUDGE, SEGMENTER, add_file, create_pack, load_pack, mapper_file
from sis_rearrange.synthesis import Synthesizer
from sis_rearrange.tensors import to_uint8
from sis_rearrange.training import few_shot
from sis_rearrange.training.own_classes import pack_with_classes
from sis_rearrange.training.shot_files import (
    FREE,
    empty_mask,
    export_shots,
    majority,
    named_palette,
    shots_from_folder,
)

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def said(result) -> str:
    assert result.exit_code == 2, result.output
    lines = result.output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.output
    return lines[0]


@pytest.fixture
def pack_path(tiny_pack_path, tmp_path):
    return shutil.copytree(tiny_pack_path, tmp_path / "pack")


@pytest.fixture
def quick(monkeypatch):
    """Trainings of a few steps."""
    short = {"kimg": 0.016, "batch": 4, "cycle_batch": 1}
    monkeypatch.setattr(few_shot, "MAPPER_SETTINGS", few_shot.MAPPER_SETTINGS | short)
    monkeypatch.setattr(few_shot, "EXTRACTOR_STEPS", {"linear": 5, "nonlinear": 5})
    original, small = few_shot.DistilConfig, {"steps": 3, "batch": 2, "widths": (8, 16)}
    monkeypatch.setattr(few_shot, "DistilConfig", lambda **more: original(**small, **more))


def paint(mask: Path, size: int) -> np.ndarray:
    """Paint the top half of a mask as class 3 and a stripe below it as class 1; returns what is painted."""
    with Image.open(mask) as image:
        values = np.array(image)
        table = image.getpalette()
    values[: size // 2] = 3
    values[size // 2 : 3 * size // 4] = 1
    painted = Image.fromarray(values)
    painted.putpalette(table or [])
    painted.save(mask)
    return values


def test_export_writes_what_a_person_needs(tiny_pack, tmp_path):
    result = run("label", "export", tiny_pack.path, "--seed", "7", "--out", tmp_path, "--scale", 4)
    assert result.exit_code == 0, result.output
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"seed7.png", "seed7.json", "seed7_mask.png", "legend.png", "classes.json", "README.txt"}
    with Image.open(tmp_path / "seed7_mask.png") as mask:
        assert mask.mode == "P" and mask.size == (128, 128) and mask.getextrema() == (FREE, FREE)
        table = np.array(mask.getpalette()).reshape(-1, 3)
    assert table[: len(tiny_pack.classes)].tolist() == tiny_pack.info["palette"] and table[FREE].tolist() == [255] * 3
    with Image.open(tmp_path / "seed7.png") as picture:
        assert picture.size == (128, 128) and picture.text["seed"] == "7" and picture.text["psi"] == "0.9"
    assert len((tmp_path / "README.txt").read_text().strip().splitlines()) == 3
    assert "--out" not in (tmp_path / "README.txt").read_text() + result.output
    assert "already" in said(run("label", "export", tiny_pack.path, "--seed", "7", "--out", tmp_path))


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "L"])
def test_a_painted_mask_is_read_back_however_an_editor_saved_it(tiny_pack, tmp_path, mode):
    (mask,) = export_shots(tiny_pack, [7], tmp_path, scale=2)
    values = paint(mask, 64)
    with Image.open(mask) as image:
        if mode == "RGBA":
            rgba = np.array(image.convert("RGBA"))
            rgba[values == FREE] = 0
            Image.fromarray(rgba).save(mask)
        elif mode == "L":
            Image.fromarray(values).save(mask)
        else:
            image.convert(mode).save(mask)
    (shot,) = shots_from_folder(tmp_path, tiny_pack)
    expected = np.full((32, 32), -1)
    expected[:16], expected[16:24] = 3, 1
    assert shot.labels.dtype == torch.int64 and np.array_equal(shot.labels.numpy(), expected)
    assert torch.allclose(shot.ws, sample_ws(tiny_pack.generator(), [7], 0.9)[0])


def test_a_sample_is_known_by_its_png_text_alone_and_held_against_the_pack(tiny_pack, tmp_path):
    (mask,) = export_shots(tiny_pack, [7], tmp_path, psi=0.5)
    paint(mask, 512)
    (tmp_path / "seed7.json").unlink()
    (shot,) = shots_from_folder(tmp_path, tiny_pack)
    assert torch.allclose(shot.ws, sample_ws(tiny_pack.generator(), [7], 0.5)[0])
    (tmp_path / "seed7.json").write_text('{"seed": 8}')
    with pytest.raises(InputError, match="is not what seed 8 at psi 0.9 looks like"):
        shots_from_folder(tmp_path, tiny_pack)
    for seed in ("Infinity", "NaN", '"seven"', "[7]"):
        (tmp_path / "seed7.json").write_text(f'{{"seed": {seed}}}')
        with pytest.raises(InputError, match="seed and psi are not readable"):
            shots_from_folder(tmp_path, tiny_pack)
    (tmp_path / "seed7.json").write_text("[7]")
    with pytest.raises(InputError, match="should say which sample"):
        shots_from_folder(tmp_path, tiny_pack)


def test_folders_that_cannot_be_learnt_from(tiny_pack, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        shots_from_folder(tmp_path / "none", tiny_pack)
    with pytest.raises(InputError, match="no NAME_mask.png"):
        shots_from_folder(tmp_path, tiny_pack)
    (mask,) = export_shots(tiny_pack, [7], tmp_path)
    with pytest.raises(InputError, match="nothing is painted yet"):
        shots_from_folder(tmp_path, tiny_pack)
    Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).convert("RGB").save(mask)
    with pytest.raises(InputError, match="seed7_mask.png"):
        shots_from_folder(tmp_path, tiny_pack)
    (tmp_path / "seed7.png").unlink()
    with pytest.raises(InputError, match="no picture beside it"):
        shots_from_folder(tmp_path, tiny_pack)


def test_real_pictures_are_inverted(tiny_pack, tmp_path, monkeypatch):
    generator = tiny_pack.generator()
    with torch.no_grad():
        image = to_uint8(generator.synthesis(sample_ws(generator, [11])))[0]
    wide = np.zeros((32, 48, 3), np.uint8)
    wide[:, 8:40] = image
    Image.fromarray(wide).save(tmp_path / "photo.jpg", quality=95)
    mask = np.full((32, 48), 255, np.uint8)
    mask[:, 8:24], mask[:, 24:40] = 1, 2
    Image.fromarray(mask).save(tmp_path / "photo_mask.png")
    from sis_rearrange.inversion import InversionConfig

    monkeypatch.setattr("sis_rearrange.inversion.InversionConfig", lambda **more: InversionConfig(steps=8, **more))
    (shot,) = shots_from_folder(tmp_path, tiny_pack)
    assert shot.ws.shape == (generator.num_ws, generator.w_dim)
    assert (shot.labels[:, :16] == 1).all() and (shot.labels[:, 16:] == 2).all()
    with torch.no_grad():
        found = to_uint8(generator.synthesis(shot.ws[None]))[0].astype(int)
        other = to_uint8(generator.synthesis(sample_ws(generator, [12])))[0].astype(int)
    assert abs(found - image.astype(int)).mean() < abs(other - image.astype(int)).mean()


def test_majority_of_cells():
    labels = np.full((6, 6), -1)
    labels[:3, :3] = 1
    labels[0, 3:] = 0
    labels[1:3, 3:] = 2
    assert majority(labels, 3, 2).tolist() == [[1, 2], [-1, -1]]
    assert majority(np.array([[0, 1], [2, -1]]), 3, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, -1, -1]] * 2
    assert majority(labels[:5, :5], 3, 5).tolist() == labels[:5, :5].tolist()


def test_own_names_get_colours_that_cannot_be_mixed_up(tmp_path):
    palette = named_palette(",".join(["background", *(f"part{k}" for k in range(15))]))
    colours = np.array([*palette.colours, (255, 255, 255)])
    apart = np.abs(colours[:, None] - colours[None]).max(2) + 999 * np.eye(len(colours))
    assert apart.min() > 24
    (tmp_path / "names.json").write_text(json.dumps(["sky", "hill"]))
    assert named_palette(str(tmp_path / "names.json")).names == ("sky", "hill")
    (tmp_path / "rows.json").write_text(palette.to_json())
    assert named_palette(str(tmp_path / "rows.json")) == palette
    for text in ("one", "a,a", "a,,b", str(tmp_path / "none.json")):
        with pytest.raises(InputError):
            named_palette(text)
    (tmp_path / "rows.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="rows.json"):
        named_palette(str(tmp_path / "rows.json"))


def test_other_parts_make_another_pack(pack_path, tmp_path):
    pack, palette = load_pack(pack_path), named_palette("background,left,right")
    assert pack_with_classes(pack, pack.palette(), None) is pack
    with pytest.raises(InputError, match="--out FOLDER"):
        pack_with_classes(pack, palette, None)
    made = pack_with_classes(pack, palette, tmp_path / "mine")
    assert made.classes == palette.names and made.name == "mine" and made.conditions() == ("sketch",)
    assert not {JUDGE, SEGMENTER} & set(made.info["files"]) and not made.drawings()
    assert pack_with_classes(pack, palette, tmp_path / "mine").hash == made.hash  # a second try goes on with it
    assert load_pack(pack_path).hash == pack.hash
    with pytest.raises(InputError, match="another pack"):
        pack_with_classes(pack, named_palette("a,b"), tmp_path / "mine")
    whole = pack_with_classes(pack, pack.palette(), tmp_path / "whole")
    assert set(whole.info["files"]) == set(pack.info["files"]) and whole.classes == pack.classes


def test_a_pack_without_parts_takes_them(pack_path, tmp_path):
    bare = create_pack(tmp_path / "bare", "bare", "photos", [], [], 32)
    pack = load_pack(pack_path)
    for relpath in ("generator.safetensors", "proxy.safetensors", "rearranger.safetensors"):
        add_file(bare, relpath, pack.read(relpath))
    with pytest.raises(InputError, match="names no parts"):
        export_shots(load_pack(bare), [1], tmp_path / "shots")
    palette = named_palette("background,left,right")
    export_shots(load_pack(bare), [1], tmp_path / "shots", palette=palette)
    assert pack_with_classes(load_pack(bare), palette, None).palette() == palette
    assert load_pack(bare).classes == palette.names


def test_from_one_painted_picture_to_pictures(pack_path, tmp_path, quick):
    folder, mine = tmp_path / "label", tmp_path / "mine"
    exported = run("label", "export", pack_path, "--seed", "7", "--out", folder, "--classes", "background,a,b,c")
    assert exported.exit_code == 0, exported.output
    for text in (exported.output, (folder / "README.txt").read_text()):  # other parts need another pack
        assert f"sis label import {pack_path} {folder} --out packs/mine" in text
    paint(folder / "seed7_mask.png", 512)
    assert "other parts" in said(run("label", "import", pack_path, folder))
    result = run("label", "import", pack_path, folder, "--out", mine)
    assert result.exit_code == 0, result.output
    pack = load_pack(mine)
    assert pack.conditions() == ("segmentation", "sketch") and SEGMENTER in pack.info["files"]
    noted = pack.info["provenance"][mapper_file("segmentation")]
    assert noted["shots"] == 1 and noted["minutes"] >= 0
    with Image.open(folder / "learnt.png") as sheet:
        assert sheet.width > 300
    labels = np.zeros((64, 64), np.uint8)
    labels[8:40, 8:40] = 3
    drawing = as_palette(pack.classes, pack.info["palette"]).to_image(labels)
    synthesizer = Synthesizer(pack, device="cpu")
    synthesizer.set_source(seed=1)
    assert synthesizer.synthesize(drawing, "segmentation").image.size == (32, 32)
    again = run("label", "import", pack_path, folder, "--out", mine)
    assert again.exit_code == 0 and "wrote" in again.output  # goes on from the end: nothing is trained anew


def test_train_mapper_takes_shots(pack_path, tmp_path, quick):
    pack = load_pack(pack_path)
    (mask,) = export_shots(pack, [7], tmp_path / "shots")
    paint(mask, 512)
    script = runpy.run_path(str(ROOT / "train_mapper.py"))["main"]
    arguments = [str(pack_path), "--condition", "segmentation", "--shots", str(tmp_path / "shots")]
    arguments += ["--run", str(tmp_path / "run"), "--widths", "8,16", "--cycle-batch", "1"]
    dry = CliRunner().invoke(script, [*arguments, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert load_pack(pack_path).hash == pack.hash
    result = CliRunner().invoke(script, [*arguments, "--kimg", "0.032", "--batch", "4"])
    assert result.exit_code == 0, result.output
    assert "segmenter_agreement" in result.output
    after = load_pack(pack_path)
    assert after.info["provenance"][mapper_file("segmentation")]["config"]["kimg"] == 0.032
    assert after.info["files"][mapper_file("segmentation")] != pack.info["files"][mapper_file("segmentation")]


def test_an_empty_mask_shows_nothing():
    palette = named_palette("a,b")
    assert np.asarray(empty_mask(palette, 16).convert("RGB")).min() == 255
