"""The studio over the shipped pack: drawn by the engine where it is there, and the commands draw the same bits."""

from __future__ import annotations

import base64
import shlex

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from studio_calls import base64_of, call, finished, picture_of, pixels

from sis_rearrange.cli import main
from sis_rearrange.pack import load_pack
from sis_rearrange.studio.service import Studio


@pytest.fixture(scope="module")
def pack():
    return load_pack("toonhead")


@pytest.fixture(scope="module")
def studio(pack):
    found = Studio([pack])
    yield found
    found.close()


def made_by(command, folder):
    """The pictures that a command writes, by name."""
    done = CliRunner().invoke(main, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    paths = [path for path in (folder / "out").glob("*.png") if path.stem != "contact_sheet"]
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in paths}


@pytest.mark.parametrize(("condition", "number"), [("segmentation", 1), ("segmentation", 3), ("sketch", 2)])
def test_a_drawing_is_the_commands_to_the_bit(studio, pack, tmp_path, monkeypatch, condition, number):
    drawing = base64_of(pack.read(f"drawings/{condition}-{number}.png"))
    found = call(studio, "render", look={"seed": 33}, condition=condition, drawing=drawing)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawing.png").write_bytes(base64.b64decode(drawing))
    made = made_by(found["command"], tmp_path)
    assert (made["drawing_seed33"] == pixels(found["image"])).all()


def test_an_exemplar_is_the_commands_to_the_bit(studio, tmp_path, monkeypatch):
    found = call(studio, "render", look={"seed": 4}, condition="exemplar", drawing={"seed": 24})
    monkeypatch.chdir(tmp_path)
    assert (made_by(found["command"], tmp_path)["exemplar24_seed4"] == pixels(found["image"])).all()


def test_an_inverted_look_is_the_commands_to_the_bit(studio, pack, tmp_path, monkeypatch):
    photo = call(studio, "gallery", first_seed=61, count=1)["looks"][0]["image"]
    token = call(studio, "upload", picture=photo, name="me.png")["token"]
    state = finished(studio, call(studio, "invert", token=token, steps=4)["job"])
    assert state["state"] == "done", state
    look = {"picture": state["reply"]["token"]}
    drawing = base64_of(pack.read("drawings/sketch-1.png"))
    found = call(studio, "render", look=look, condition="sketch", drawing=drawing)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawing.png").write_bytes(base64.b64decode(drawing))
    sent = call(studio, "file", token=look["picture"])
    (tmp_path / sent["name"]).write_bytes(base64.b64decode(sent["data"]))
    assert (made_by(found["command"], tmp_path)["drawing_me"] == pixels(found["image"])).all()


def test_a_stroke_changes_the_picture_where_it_is(studio, pack):
    """Hair painted over half the face of a sample's own mask: that half changes, the other hardly."""
    start = call(studio, "start", look={"seed": 33})
    mask = np.array(picture_of(start["part_mask"]))
    before = call(
        studio, "render", look={"seed": 33}, condition="segmentation", drawing=base64_of(_indexed(mask, pack))
    )
    mask[24:44, 4:20] = pack.classes.index("hair")
    after = call(studio, "render", look={"seed": 33}, condition="segmentation", drawing=base64_of(_indexed(mask, pack)))
    change = np.abs(pixels(after["image"]).astype(int) - pixels(before["image"])).mean(axis=2)
    assert change[26:42, 6:18].mean() > 5 * change[26:42, 46:58].mean() + 1


def _indexed(labels, pack):
    return pack.palette().to_image(labels.astype(np.int64))
