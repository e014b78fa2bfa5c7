"""Long jobs in their own process, and the commands that make the same pictures from the files beside them."""

from __future__ import annotations

import base64
import io
import json
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import SIDE, TAP, tiny_head
from PIL import Image
from studio_calls import base64_of, call, finished, picture_of, pixels

from sis_rearrange.cli import main
from sis_rearrange.inversion import Inversion
from sis_rearrange.studio import worker
from sis_rearrange.studio.refusals import Busy, Gone
from sis_rearrange.studio.service import Studio

CLASSES = [{"name": "background", "colour": "#202020"}, {"name": "head", "colour": "#c04020"}]


@pytest.fixture(scope="module")
def studio(tiny_pack):
    found = Studio([tiny_pack], device="cpu", backend="torch")
    yield found
    found.close()


@pytest.fixture(scope="module")
def upload(studio):
    """A picture of 80 x 60, uploaded."""
    picture, _ = tiny_head(60)
    wide = np.concatenate([picture, picture[:, :20]], axis=1)
    return base64_of(wide), call(studio, "upload", picture=base64_of(wide), name="photo.png")["token"]


@pytest.fixture(scope="module")
def inverted(studio, upload):
    """The reply of its inversion."""
    job = call(studio, "invert", token=upload[1], crop={"x": 4, "y": 2, "size": 56}, steps=6)["job"]
    state = finished(studio, job)
    assert state["state"] == "done", state
    assert state["fraction"] == 1
    return state["reply"]


@pytest.fixture
def folder(tiny_pack, tmp_path, monkeypatch):
    """A folder where the pack goes by its name, to run commands in."""
    (tmp_path / tiny_pack.name).symlink_to(tiny_pack.path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str) -> None:
    """Run a command line as it stands."""
    words = shlex.split(command)
    assert words[0] == "sis"
    done = CliRunner().invoke(main, words[1:])
    assert done.exit_code == 0, done.output


def same(path: Path, text: str) -> bool:
    """Whether a file shows the pixels of a picture in base64."""
    return bool((np.asarray(Image.open(path).convert("RGB")) == pixels(text)).all())


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(base64.b64decode(text))


def test_an_inversion_shows_itself(studio, inverted, tiny_pack, folder):
    assert picture_of(inverted["image"]).size == (SIDE, SIDE)
    assert picture_of(inverted["proxy_mask"]).size == (TAP, TAP)
    assert picture_of(inverted["part_mask"]).size == (SIDE, SIDE)
    assert picture_of(inverted["original"]).size == picture_of(inverted["error_map"]).size == (56, 56)
    assert inverted["crop"] == {"x": 4, "y": 2, "size": 56} and inverted["file"] == "photo.safetensors"
    sent = call(studio, "file", token=inverted["token"])
    assert sent["name"] == "photo.safetensors"
    write(folder, sent["name"], sent["data"])
    assert Inversion.load(folder / sent["name"], tiny_pack).psnr == pytest.approx(inverted["psnr"], abs=0.01)


def test_the_command_inverts_to_the_bit(studio, inverted, upload, folder):
    write(folder, "photo.png", upload[0])
    run(inverted["command"])
    made = Inversion.load(folder / "photo.safetensors")
    wanted = call(studio, "file", token=inverted["token"])["data"]
    write(folder, "wanted.safetensors", wanted)
    theirs = Inversion.load(folder / "wanted.safetensors")
    # the process for jobs may sum in another order: it shares the cores with the thread that draws
    assert (made.ws - theirs.ws).abs().max() < 0.05 and made.crop == theirs.crop and made.settings == theirs.settings


@pytest.mark.parametrize("condition", ["segmentation", "sketch", "scribble"])
def test_the_command_draws_to_the_bit(studio, tiny_pack, folder, condition):
    drawing = base64_of(tiny_pack.read(f"drawings/{condition}-3.png"))
    found = call(studio, "render", look={"seed": 7, "psi": 0.65}, condition=condition, drawing=drawing, fit="crop")
    assert found["needs"] == ["drawing.png"]
    write(folder, "drawing.png", drawing)
    run(found["command"])
    assert same(folder / "out" / "drawing_seed7.png", found["image"])
    assert Image.open(folder / "out" / "drawing_seed7.png").info == picture_of(found["image"]).info


def test_the_command_draws_several_layouts_to_the_bit(studio, tiny_pack, folder):
    drawing = base64_of(tiny_pack.read("drawings/scribble-1.png"))
    request = {"samples": 3, "temperature": 1.7, "layout_seed": 4}
    found = call(studio, "render", look={"seed": 2}, condition="scribble", drawing=drawing, **request)
    write(folder, "drawing.png", drawing)
    run(found["command"])
    pictures = [found["image"], *(each["image"] for each in found["alternatives"])]
    for number, text in enumerate(pictures, start=1):
        assert same(folder / "out" / f"drawing_sample{number}_seed2.png", text)


def test_the_command_takes_an_exemplar_to_the_bit(studio, folder):
    found = call(studio, "render", look={"seed": 2, "psi": 0.7}, condition="exemplar", drawing={"seed": 9})
    assert found["needs"] == []
    run(found["command"])
    assert same(folder / "out" / "exemplar9_seed2.png", found["image"])


def test_the_command_draws_in_an_inverted_look_to_the_bit(studio, tiny_pack, inverted, folder):
    look = {"picture": inverted["token"]}
    drawing = base64_of(tiny_pack.read("drawings/segmentation-1.png"))
    found = call(studio, "render", look=look, condition="segmentation", drawing=drawing)
    assert found["needs"] == ["drawing.png", "photo.safetensors"]
    write(folder, "drawing.png", drawing)
    write(folder, "photo.safetensors", call(studio, "file", token=inverted["token"])["data"])
    run(found["command"])
    assert same(folder / "out" / "drawing_photo.png", found["image"])


def test_the_command_takes_an_inverted_exemplar_to_the_bit(studio, inverted, folder):
    found = call(studio, "render", look={"seed": 5}, condition="exemplar", drawing={"picture": inverted["token"]})
    assert found["needs"] == ["photo.safetensors"]
    write(folder, "photo.safetensors", call(studio, "file", token=inverted["token"])["data"])
    run(found["command"])
    assert same(folder / "out" / "photo_seed5.png", found["image"])


def test_an_edit_changes_the_changed_and_the_command_does_so_to_the_bit(studio, inverted, upload, folder):
    mask = np.asarray(picture_of(inverted["proxy_mask"])).copy()
    mask[:5, :5] = (mask[:5, :5] + 1) % 3
    request = {"token": inverted["token"], "mask": base64_of(Image.fromarray(mask)), "kind": "proxy", "feather": 1.0}
    shown, whole = (call(studio, "edit", **request, whole=whole) for whole in (False, True))
    assert picture_of(shown["image"]).size == (56, 56) and picture_of(whole["image"]).size == (80, 60)
    before, after = pixels(upload[0]), pixels(whole["image"])
    assert (before[2:10, 4:12] != after[2:10, 4:12]).any(), "the changed corner of the crop"
    assert (before[34:] == after[34:]).all() and (before[:, 40:] == after[:, 40:]).all(), "and nothing far from it"
    weight = np.asarray(picture_of(shown["weight"]))
    assert weight[0, 0] == 255 and weight[40, 40] == 0
    for name, text in (("photo.png", upload[0]), ("mask.png", request["mask"])):
        write(folder, name, text)
    write(folder, "photo.safetensors", call(studio, "file", token=inverted["token"])["data"])
    assert sorted(whole["needs"]) == ["mask.png", "photo.png", "photo.safetensors"]
    run(whole["command"])
    assert same(folder / "out" / "edited.png", whole["image"])


def test_mixing_with_a_picture_is_the_commands(studio, inverted, folder):
    found = call(studio, "mix", structure={"seed": 4, "psi": 0.7}, look={"picture": inverted["token"]})
    write(folder, "photo.safetensors", call(studio, "file", token=inverted["token"])["data"])
    run(found["command"])
    assert same(folder / "out" / "mixed.png", found["image"])


@pytest.mark.parametrize("kind", ["drawings", "looks"])
def test_a_morph_is_the_commands(studio, tiny_pack, inverted, folder, kind):
    drawings = [base64_of(tiny_pack.read(f"drawings/segmentation-{n}.png")) for n in (1, 2)]
    request = {"first": {"seed": 1}, "second": {"picture": inverted["token"]}, "look": {"seed": 3}}
    if kind == "drawings":
        request |= {"first": drawings[0], "second": drawings[1], "condition": "segmentation"}
    state = finished(studio, call(studio, "morph", **request, frames=4)["job"])
    assert state["state"] == "done", state
    write(folder, "first.png", drawings[0])
    write(folder, "second.png", drawings[1])
    write(folder, "photo.safetensors", call(studio, "file", token=inverted["token"])["data"])
    run(state["reply"]["command"])
    film, ours = Image.open(folder / "out" / "morph.gif"), picture_of(state["reply"]["gif"])
    assert film.n_frames == ours.n_frames and (kind == "drawings" or film.n_frames > 1)
    for frame in range(film.n_frames):
        film.seek(frame)
        ours.seek(frame)
        assert (np.asarray(film.convert("RGB")) == np.asarray(ours.convert("RGB"))).all()


def test_own_classes_are_learnt_and_drawn_with(studio, tiny_pack, folder):
    """Trained on the process's own: a mapper of two parts, then a drawing in them, and the pack behind it."""
    mask = np.full((64, 64, 3), 255, np.uint8)
    mask[4:20, 4:60] = (0x20, 0x20, 0x20)
    mask[24:56, 20:44] = (0xC0, 0x40, 0x20)
    request = {"seed": 3, "mask": base64_of(mask), "classes": CLASSES, "kimg": 0.05}
    state = finished(studio, call(studio, "label_train", **request)["job"], seconds=500)
    assert state["state"] == "done", state
    learnt = state["reply"]
    assert [(part["name"], part["colour"]) for part in learnt["parts"]] == [
        ("background", "#202020"),
        ("head", "#c04020"),
    ]
    assert picture_of(learnt["learnt"]).width > 100
    drawing = mask.copy()
    drawing[(drawing == 255).all(axis=2)] = (0x20, 0x20, 0x20)
    found = call(studio, "render", look={"seed": 1}, condition=learnt["condition"], drawing=base64_of(drawing))
    start = call(studio, "start", look={"seed": 1}, condition=learnt["condition"])
    assert set(np.unique(np.asarray(picture_of(start["part_mask"])))) <= {0, 1}
    sent = call(studio, "file", token=learnt["condition"])
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(sent["data"]))) as archive:
        archive.extractall(folder)
    write(folder, "drawing.png", base64_of(drawing))
    run(found["command"])
    assert same(folder / "out" / "drawing_seed1.png", found["image"])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((64, 64, 3), 255, np.uint8), "mask: nothing is painted yet"),
        (np.full((64, 64, 3), 0x20, np.uint8), "fewer than two parts"),
    ],
)
def test_a_mask_that_teaches_nothing_fails_in_words(studio, mask, message):
    state = finished(
        studio, call(studio, "label_train", seed=3, mask=base64_of(mask), classes=CLASSES, kimg=0.05)["job"]
    )
    assert state["state"] == "failed" and message in state["message"]
    assert str(studio.store.folder) not in state["message"]


def test_a_cancelled_job_ends_at_once_and_the_next_one_runs(studio, upload):
    running = call(studio, "invert", token=upload[1], steps=1000)["job"]
    waiting = call(studio, "invert", token=upload[1], steps=3)["job"]
    assert call(studio, "job", id=waiting)["before"] == 1
    assert call(studio, "cancel", id=running)["state"] == "cancelled"
    assert finished(studio, waiting)["state"] == "done"
    assert call(studio, "job", id=running)["state"] == "cancelled"
    assert call(studio, "cancel", id=waiting)["state"] == "done", "one that has ended stays as it is"


def test_a_job_that_waits_can_be_cancelled(studio, upload):
    running, waiting = (call(studio, "invert", token=upload[1], steps=1000)["job"] for _ in range(2))
    assert call(studio, "cancel", id=waiting)["state"] == "cancelled"
    assert call(studio, "job", id=running)["state"] in ("queued", "running")
    call(studio, "cancel", id=running)


def test_jobs_are_bounded_and_their_files_go(tiny_pack):
    from sis_rearrange.studio.values import Limits

    studio = Studio([tiny_pack], Limits(jobs=1, job_seconds=1.0), "cpu", "torch")
    try:
        picture, _ = tiny_head(40)
        token = call(studio, "upload", picture=base64_of(picture), name="a")["token"]
        job = call(studio, "invert", token=token, steps=1000)["job"]
        with pytest.raises(Busy, match="busy: 1 jobs are waiting"):
            call(studio, "invert", token=token, steps=3)
        state = finished(studio, job, 60)
        assert state["state"] == "failed" and "longer than" in state["message"]
    finally:
        folder = studio.store.folder
        studio.close()
    assert not folder.exists()
    with pytest.raises(Gone):
        studio.jobs.state("job-" + "a" * 24)


def test_a_worker_that_dies_is_replaced(studio, upload):
    job = call(studio, "invert", token=upload[1], steps=1000)["job"]
    while studio.jobs._process is None or call(studio, "job", id=job)["state"] != "running":
        pass
    studio.jobs._process.kill()
    state = finished(studio, job)
    assert state["state"] == "failed" and "mistake of the program's" in state["message"]
    assert finished(studio, call(studio, "invert", token=upload[1], steps=3)["job"])["state"] == "done"


def test_progress_is_read_off_the_trainings_lines():
    said = []
    steps = worker._Steps(lambda fraction, message: said.append((fraction, message)))
    for line in ("step 10 of 100  kimg", "step 100 of 100", "step 1 of 1,000 ", "step 500 of 1,000"):
        steps.write(line)
    fractions = [fraction for fraction, _ in said]
    assert fractions == sorted(fractions) and 0 < fractions[0] < fractions[-1] < 1
    assert said[0][1] != said[-1][1]


def test_a_mistake_in_a_job_is_told_without_detail(capsys):
    assert worker.answer({"kind": "nothing"}, lambda *_: None) == {"failed": "", "bug": "KeyError"}
    assert json.dumps(worker.answer({"kind": "invert", "pack": "nowhere", "folder": "x"}, lambda *_: None))
