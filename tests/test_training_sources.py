"""Training pictures from renderers, folders and zips, in order and read ahead."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sis_rearrange.data.prepare import Settings, prepare
from sis_rearrange.domains import SPLITS, get_domain
from sis_rearrange.errors import InputError
from sis_rearrange.tensors import from_uint8
from sis_rearrange.training.sources import Feed, ImageFiles, Renders

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path):
    """Six pictures in two folders, and what else lies about there."""
    root = tmp_path / "pictures"
    (root / "b").mkdir(parents=True)
    (root / ".cache").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ("b" if number % 2 else ".") / f"{number}.png")
    (root / "notes.txt").write_text("")
    (root / ".hidden.png").write_text("")
    (root / ".cache" / "x.png").write_text("")
    return root


@pytest.fixture
def packed(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return tmp_path / "pictures.zip"


def test_a_zip_is_the_folder_it_was_made_from(folder, packed):
    one, two = ImageFiles(folder, 16), ImageFiles(packed, 16)
    assert one.files == two.files == ["0.png", "2.png", "4.png", "b/1.png", "b/3.png", "b/5.png"]
    assert all(np.array_equal(one[number], two[number]) for number in range(12))


def test_every_pass_shows_every_picture_in_an_order_of_its_own(folder):
    files = ImageFiles(folder, 16, seed=3)
    passes = [[files[turn * 6 + place].tobytes() for place in range(6)] for turn in range(3)]
    assert all(set(each) == set(passes[0]) and len(set(each)) == 6 for each in passes)
    assert len({tuple(each) for each in passes}) == 3
    assert [files[number].tobytes() for number in range(6)] == passes[0]
    other = ImageFiles(folder, 16, seed=4)
    assert [other[number].tobytes() for number in range(6)] != passes[0]


def test_mirrored_passes(folder):
    plain, mirrored = ImageFiles(folder, 16), ImageFiles(folder, 16, mirror=True)
    for number in range(12):
        assert np.array_equal(mirrored[number], plain[number][:, ::-1] if number >= 6 else plain[number])


def test_resampling_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    small = ImageFiles(tmp_path, 16)[0].astype(int)
    assert abs(small[:, 2:-2] - 128).max() < 12


def test_pictures_that_are_not_square_need_a_word(tmp_path):
    Image.new("RGB", (32, 16), "red").save(tmp_path / "wide.png")
    with pytest.raises(InputError, match=r"wide\.png: is 32x16, not square; give --fit"):
        ImageFiles(tmp_path, 16)[0]
    assert ImageFiles(tmp_path, 16, fit="crop")[0].shape == (16, 16, 3)
    with pytest.raises(InputError, match="--fit squeeze"):
        ImageFiles(tmp_path, 16, fit="squeeze")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_named(folder, packed, workers):
    (folder / "b" / "7.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("b/7.jpg", b"\xff\xd8\xff\xe0 no picture")
    for path in (folder, packed):
        feed = Feed(ImageFiles(path, 16), 7, workers)
        with pytest.raises(InputError, match=r"b/7\.jpg") as error:
            feed.take(0)
        assert "\n" not in str(error.value)
        feed.close()


@pytest.fixture
def prepared(folder, tmp_path):
    prepare([folder], tmp_path / "prepared.zip", Settings(16), 1)
    return tmp_path / "prepared.zip"


def test_a_prepared_zip_is_the_folder_it_was_made_from(folder, prepared):
    one, two = ImageFiles(folder, 16, mirror=True), ImageFiles(prepared, 16, mirror=True)
    assert all(np.array_equal(one[number], two[number]) for number in range(12))
    again = pickle.loads(pickle.dumps(two))  # as for processes that are not forked
    assert np.array_equal(again[3], two[3])
    assert two.describe()["manifest"] == two._store.digest and two.describe()["images"] == 6


def test_a_prepared_zip_of_another_kind_is_refused(prepared):
    with pytest.raises(InputError, match="was prepared at 16 pixels, not --resolution 32"):
        ImageFiles(prepared, 32)
    with pytest.raises(InputError, match="--fit pad: .* was prepared with square pictures; leave --fit out"):
        ImageFiles(prepared, 16, fit="pad")


def rewritten(path, change):
    """The prepared zip with its members as ``change`` makes them out of {name: bytes}."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_changed_picture_is_found_when_it_is_read(prepared):
    """Not before: a training does not wait for millions of hashes. Another picture, another size, no picture."""
    other, small = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(other, "PNG")
    Image.new("RGB", (8, 8), "red").save(small, "PNG")
    name = "00000/img00000002.png"
    for data in (other.getvalue(), small.getvalue(), b"no picture"):
        files = ImageFiles(rewritten(prepared, lambda members, data=data: members.update({name: data})), 16)
        refused = []
        for number in range(6):
            try:
                files[number]
            except InputError as error:
                refused.append(str(error))
        assert len(refused) == 1 and f"{name} is not what was prepared" in refused[0] and "\n" not in refused[0]


def _manifest(key, value):
    def change(members):
        members["manifest.json"] = json.dumps(json.loads(members["manifest.json"]) | {key: value}).encode()

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda members: members.pop("00000/img00000001.png"), "holds 5 pictures but its manifest lists 6"),
        (lambda members: members.update({"00000/img9.png": b""}), "holds 7 pictures but its manifest lists 6"),
        (lambda members: members.update({"manifest.json": members["manifest.json"][:-9]}), "manifest.json is damaged"),
        (_manifest("version", 2), "of version 2, which is not known here"),
        (_manifest("resolution", "16"), "manifest.json is damaged"),
        (_manifest("pictures", []), "manifest.json is damaged"),
        (_manifest("pictures", [{"file": "a", "sha256": "xyz"}]), "manifest.json is damaged"),
        (_manifest("pictures", 3), "manifest.json is damaged"),
        (_manifest("classes", 5), "manifest.json is damaged"),
        (_manifest("classes", [1]), "manifest.json is damaged"),
        (_manifest("fit", ["pad"]), "manifest.json is damaged"),
        (_manifest("filter", None), "manifest.json is damaged"),
    ],
)
def test_a_prepared_zip_that_is_not_what_its_manifest_says(prepared, change, words):
    with pytest.raises(InputError, match=words):
        ImageFiles(rewritten(prepared, change), 16)


def test_a_prepared_zip_that_was_packed_again(prepared, tmp_path):
    with zipfile.ZipFile(prepared) as archive, zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    with pytest.raises(InputError, match="was packed again with compression"):
        ImageFiles(tmp_path / "b.zip", 16)


def test_tars_are_prepared_first(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder, "pictures")
    with pytest.raises(InputError, match="first  sis data prepare"):
        ImageFiles(tmp_path / "a.tar", 16)


@pytest.mark.parametrize("kind", ["packed", "prepared"])
def test_a_zip_read_here_is_read_right_in_workers_too(request, kind):
    """A forked process shares open files: it must not share the place they are read at."""
    files = ImageFiles(request.getfixturevalue(kind), 16)
    expected = [files[number].copy() for number in range(24)]
    feed = Feed(files, 4, 2)
    for first in range(0, 24, 4):
        assert torch.equal(feed.take(first), from_uint8(np.stack(expected[first : first + 4])))
    feed.close()


@pytest.mark.parametrize("what", ["empty", "missing", "file"])
def test_places_without_pictures(tmp_path, what):
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.write_text("no zip")
    with pytest.raises(InputError, match=what):
        ImageFiles(path, 16)


def test_renders_follow_the_training_split_and_never_touch_the_others():
    renders = Renders(get_domain("toonhead"), 16)
    domain, split = get_domain("toonhead"), SPLITS["train"]
    assert np.array_equal(renders[5], domain.render(split[5], 16)[0])
    assert np.array_equal(renders[len(split) + 5], renders[5])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_and_may_start_anywhere(folder, workers):
    files = ImageFiles(folder, 16)
    feed = Feed(files, 4, workers)
    for first in (0, 4, 8, 40, 44, 0):
        expected = from_uint8(np.stack([files[number] for number in range(first, first + 4)]))
        assert torch.equal(feed.take(first), expected)
    assert feed.waited > 0
    feed.close()


def test_workers_end_with_a_killed_training(tmp_path):
    """Nobody is left to tell them, so they have to look for themselves."""
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    code = f"""
import multiprocessing, time
from pathlib import Path
from sis_rearrange.training.sources import Feed, ImageFiles
feed = Feed(ImageFiles(Path({str(tmp_path)!r}), 16), 2, 1)
feed.take(0)
print(multiprocessing.active_children()[0].pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    os.kill(worker, signal.SIGTERM)  # a service's signals reach everybody; the training decides
    os.kill(worker, signal.SIGINT)
    time.sleep(0.3)
    os.kill(worker, 0)
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _alive(worker):
        time.sleep(0.2)
    assert not _alive(worker)


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
