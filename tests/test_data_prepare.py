"""`sis data prepare`: from folders, zips, tars, LMDBs and known data sets to one zip, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sis_rearrange.cli import main
from sis_rearrange.data import prepare as module
from sis_rearrange.data.containers import open_container
from sis_rearrange.data.layouts import LAYOUTS, SPLITS
from sis_rearrange.data.prepare import FILTER, Settings, prepare
from sis_rearrange.data.prepared import Prepared, is_prepared
from sis_rearrange.errors import InputError
from sis_rearrange.images import FITS

ROOT = Path(__file__).resolve().parent.parent


def picture(seed: int, width: int = 24, height: int = 24) -> Image.Image:
    """A smooth picture of its own."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def manifest(path: Path) -> dict:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("manifest.json"))


def pixels(path: Path) -> list[np.ndarray]:
    prepared = Prepared(path)
    return [prepared.read(index) for index in range(len(prepared))]


def prepared_from(tmp_path: Path, *inputs: Path, **settings) -> Path:
    out = tmp_path / "out.zip"
    prepare(inputs, out, Settings(**{"resolution": 16, **settings}), workers=1)
    return out


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Name in a container -> bytes: five pictures, and what else lies about."""
    pictures = {f"{'b/' if number % 2 else ''}{number}.png": encoded(picture(number)) for number in range(4)}
    pictures["b/c/4.jpg"] = encoded(picture(4), "JPEG", quality=90)
    rest = {"notes.txt": b"hi", ".hidden.png": b"", ".git/x.png": b"", "__MACOSX/._0.png": b"", "b/.DS_Store": b""}
    return pictures | rest


@pytest.fixture
def folder(files, tmp_path) -> Path:
    for name, data in files.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "photos"


def as_zip(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def as_tar(path: Path, files: dict[str, bytes], mode: Literal["w", "w:gz"] = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def as_lmdb(path: Path, files: dict[str, bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=2**24) as database, database.begin(write=True) as transaction:
        for name, data in files.items():
            transaction.put(name.encode(), data)
    return path


# ---------------------------------------------------------------- what goes in


@pytest.mark.parametrize("kind", ["zip", "stored", "tar", "tar.gz", "lmdb"])
def test_every_container_gives_the_folders_pictures(folder, files, tmp_path, kind):
    expected = manifest(prepared_from(tmp_path, folder))
    images = {name: data for name, data in files.items() if name[0] in "0123b" and "DS_" not in name}
    path = {
        "zip": lambda: as_zip(tmp_path / "x", files),
        "stored": lambda: as_zip(tmp_path / "x", files, zipfile.ZIP_STORED),
        "tar": lambda: as_tar(tmp_path / "x", files),
        "tar.gz": lambda: as_tar(tmp_path / "x", files, "w:gz"),
        "lmdb": lambda: as_lmdb(tmp_path / "x", images),
    }[kind]()
    found = manifest(prepared_from(tmp_path, path))
    keys = ("file", "sha256", "source", "source_sha256", "size", "crop")
    assert [[row[key] for key in keys] for row in found["pictures"]] == [
        [row[key] for key in keys] for row in expected["pictures"]
    ]
    assert [row["source"] for row in found["pictures"]] == ["0.png", "2.png", "b/1.png", "b/3.png", "b/c/4.jpg"]
    if kind != "lmdb":
        assert found["skipped"] == {"hidden": 4, "not a picture by its name (.txt)": 1}


def test_the_manifest_says_what_was_done(folder, files, tmp_path):
    facts = manifest(prepared_from(tmp_path, folder, fit="crop"))
    assert (facts["resolution"], facts["fit"], facts["filter"]) == (16, "crop", FILTER)
    assert FILTER.startswith("lanczos antialiased, Pillow ") and facts["inputs"] == ["photos"]
    for row, image in zip(facts["pictures"], pixels(tmp_path / "out.zip"), strict=True):
        assert row["sha256"] == hashlib.sha256(image.tobytes()).hexdigest()
        assert row["source_sha256"] == hashlib.sha256(files[row["source"]]).hexdigest()
        assert row["size"] == [24, 24] and row["crop"] == [0, 0, 24, 24] and "label" not in row


def test_members_are_stored_pngs_without_the_sources_remarks(folder, tmp_path):
    with zipfile.ZipFile(prepared_from(tmp_path, folder)) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        with Image.open(io.BytesIO(archive.read("00000/img00000000.png"))) as image:
            assert (image.format, image.mode, image.size, image.info) == ("PNG", "RGB", (16, 16), {})


def test_the_bytes_do_not_depend_on_workers_or_clocks(folder, tmp_path):
    for number in range(5, 40):
        (folder / f"{number}.png").write_bytes(encoded(picture(number)))
    (folder / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    outs = [tmp_path / f"{workers}.zip" for workers in (0, 1, 3)]
    for workers, out in zip((0, 1, 3), outs, strict=True):
        prepare([folder], out, Settings(16), workers)
        os.utime(folder / "0.png", (workers, workers))
    assert len({out.read_bytes() for out in outs}) == 1


def test_several_inputs_and_a_limit(folder, files, tmp_path):
    other = as_zip(tmp_path / "more.zip", {"x.png": encoded(picture(9))})
    rows = manifest(prepared_from(tmp_path, folder, other))["pictures"]
    assert [(row["input"], row["source"]) for row in rows][-2:] == [(0, "b/c/4.jpg"), (1, "x.png")]
    assert len(manifest(prepared_from(tmp_path, folder, other, limit=2))["pictures"]) == 2


def test_a_limit_gives_the_same_bytes_whatever_is_read_ahead(tmp_path):
    files = {f"{number:02d}.{kind}": encoded(picture(number)) for number in range(20) for kind in ("png", "txt")}
    path = as_tar(tmp_path / "in.tar", files)
    outs = [tmp_path / f"{workers}.zip" for workers in (0, 2)]
    for workers, out in zip((0, 2), outs, strict=True):
        prepare([path], out, Settings(16, limit=3), workers)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert manifest(outs[0])["skipped"] == {"not a picture by its name (.txt)": 2}


@pytest.mark.parametrize(
    "name, image, options",
    [
        ("rgba.png", Image.new("RGBA", (16, 16), (200, 10, 10, 0)), {}),
        ("palette.png", Image.new("RGB", (16, 16), "white").quantize(4), {}),
        ("grey.png", Image.new("L", (16, 16), 255), {}),
        ("grey16.png", Image.fromarray(np.full((16, 16), 65535, np.uint16)), {}),
        ("cmyk.jpg", Image.new("CMYK", (16, 16), (0, 0, 0, 0)), {"quality": 95}),
        ("bit.bmp", Image.new("1", (16, 16), 1), {}),
        ("still.gif", Image.new("P", (16, 16), 0), {"palette": bytes([255] * 768)}),
        ("x.webp", Image.new("RGB", (16, 16), "white"), {"lossless": True}),
        ("x.tif", Image.new("RGB", (16, 16), "white"), {}),
    ],
)
def test_colours_of_all_kinds(tmp_path, name, image, options):
    """All of these are white; what is transparent lies on white."""
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / name, **options)
    (made,) = pixels(prepared_from(tmp_path, tmp_path / "in"))
    assert made.shape == (16, 16, 3) and made.min() >= 254


@pytest.mark.parametrize("packed", [False, True])
def test_photos_are_turned_upright(tmp_path, packed):
    """In a zip too, by the camera's remark that the picture lies on its side."""
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    data = encoded(Image.fromarray(np.rot90(upright)), "JPEG", quality=100, exif=exif)
    if packed:
        path = as_zip(tmp_path / "in.zip", {"a.jpg": data})
    else:
        path = tmp_path / "in"
        path.mkdir()
        (path / "a.jpg").write_bytes(data)
    (made,) = pixels(prepared_from(tmp_path, path))
    assert np.abs(made.astype(int) - upright).max() < 30


def test_a_still_gif_is_read_and_an_animated_one_refused_by_name(tmp_path):
    (tmp_path / "in").mkdir()
    still, other = (picture(seed).quantize(16) for seed in (1, 2))
    still.save(tmp_path / "in" / "still.gif")
    still.save(tmp_path / "in" / "moving.gif", save_all=True, append_images=[other])
    facts = manifest(prepared_from(tmp_path, tmp_path / "in"))
    assert [row["source"] for row in facts["pictures"]] == ["still.gif"]
    assert facts["left_out"][0]["source"] == "moving.gif" and "animated GIF" in facts["left_out"][0]["reason"]


# ---------------------------------------------------------------- squares and sizes


def test_resampling_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    path = as_zip(tmp_path / "in.zip", {"a.png": encoded(Image.fromarray(stripes))})
    (made,) = pixels(prepared_from(tmp_path, path))
    assert abs(made[:, 2:-2].astype(int) - 128).max() < 12


def test_fits(tmp_path):
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = (200, 0, 0)
    path = as_zip(tmp_path / "in.zip", {"a.png": encoded(Image.fromarray(wide))})
    made = {fit: pixels(prepared_from(tmp_path, path, fit=fit))[0] for fit in ("crop", "pad", "stretch")}
    rows = {fit: manifest(prepared_from(tmp_path, path, fit=fit))["pictures"][0] for fit in ("crop", "pad", "stretch")}
    assert (made["crop"] == (200, 0, 0)).all() and rows["crop"]["crop"] == [8, 0, 24, 16]
    assert (made["pad"][0] == 255).all() and (made["pad"][8, 8] == (200, 0, 0)).all()
    assert made["stretch"][8, 1].max() < 40 and rows["pad"]["crop"] == rows["stretch"]["crop"] == [0, 0, 32, 16]


def test_pictures_that_are_not_square_need_a_word(folder, tmp_path):
    picture(0, 32, 16).save(folder / "wide.png")
    with pytest.raises(InputError, match=r"wide\.png: is 32x16, not square; give --fit crop or pad or stretch"):
        prepared_from(tmp_path, folder)
    assert not (tmp_path / "out.zip").exists() and not list(tmp_path.glob(".*"))


def test_small_sources_are_counted(tmp_path):
    path = as_zip(tmp_path / "in.zip", {"a.png": encoded(picture(0, 8, 8)), "b.png": encoded(picture(1))})
    done = prepare([path], tmp_path / "out.zip", Settings(16), 1)
    assert (done.pictures, done.enlarged, done.repeated) == (2, 1, 0)
    for fit, enlarged in (("pad", 0), ("crop", 1), ("stretch", 1)):  # padded, a strip only shrinks
        path = as_zip(tmp_path / "in.zip", {"a.png": encoded(picture(0, 40, 8))})
        assert prepare([path], tmp_path / "out.zip", Settings(16, fit), 1).enlarged == enlarged


# ---------------------------------------------------------------- known data sets


def test_ffhq_by_number_and_by_its_json(tmp_path):
    names = ["00000/00003.png", "59000/59999.png", "60000/60000.png", "69000/69999.png"]
    root = tmp_path / "ffhq" / "images1024x1024"
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True)
        picture(number).save(root / name)
    rows = manifest(prepared_from(tmp_path, root))["pictures"]
    assert [row["split"] for row in rows] == ["train", "train", "val", "val"]
    assert len(manifest(prepared_from(tmp_path, root, split="val"))["pictures"]) == 2
    about = {str(int(name[6:11])): {"category": "validation" if "3" in name else "training"} for name in names}
    (tmp_path / "ffhq" / "ffhq-dataset-v2.json").write_text(json.dumps(about))
    for path in (root, tmp_path / "ffhq"):  # beside the folder, or in it
        rows = manifest(prepared_from(tmp_path, path))["pictures"]
        assert [row["split"] for row in rows] == ["val", "train", "train", "train"]
    (tmp_path / "ffhq" / "ffhq-dataset-v2.json").write_text("[1")
    with pytest.raises(InputError, match=r"ffhq-dataset-v2\.json: is not FFHQ's list"):
        prepared_from(tmp_path, root)


def test_ffhq_in_two_sizes_is_not_mixed(tmp_path):
    for root in ("images1024x1024", "thumbnails128x128"):
        (tmp_path / "in" / root / "00000").mkdir(parents=True)
        picture(0).save(tmp_path / "in" / root / "00000" / "00000.png")
    with pytest.raises(InputError, match="holds FFHQ twice, in 'images1024x1024/' and 'thumbnails128x128/'"):
        prepared_from(tmp_path, tmp_path / "in")


@pytest.mark.parametrize("pack", [as_zip, as_tar])
def test_afhq_gives_labels_and_splits(tmp_path, pack):
    names = [f"afhq/{split}/{kind}/{kind}.png" for split in ("train", "val") for kind in ("cat", "dog", "wild")]
    path = pack(tmp_path / "in", {name: encoded(picture(n)) for n, name in enumerate(names)})
    facts = manifest(prepared_from(tmp_path, path))
    assert facts["classes"] == ["cat", "dog", "wild"]
    assert [(row["label"], row["split"]) for row in facts["pictures"]] == [
        (label, split) for split in ("train", "val") for label in range(3)
    ]
    done = prepare([path], tmp_path / "out.zip", Settings(16, split="train"), 1)
    assert done.labels == {"cat": 1, "dog": 1, "wild": 1} and done.splits == {"train": 3}
    plain = manifest(prepared_from(tmp_path, path, layout="folder"))
    assert plain["classes"] == [] and "label" not in plain["pictures"][0]


def test_pictures_outside_a_layout_are_counted(tmp_path):
    path = as_zip(tmp_path / "in", {"train/cat/a.png": encoded(picture(0)), "cover.png": encoded(picture(1))})
    facts = manifest(prepared_from(tmp_path, path, layout="afhq"))
    assert len(facts["pictures"]) == 1 and facts["skipped"] == {"outside the layout afhq": 1}
    assert len(manifest(prepared_from(tmp_path, path))["pictures"]) == 2  # not all fit: no layout


def test_layouts_and_splits_that_cannot_be(folder, tmp_path):
    with pytest.raises(InputError, match="--layout lsun is for LMDBs"):
        prepared_from(tmp_path, folder, layout="lsun")
    with pytest.raises(InputError, match=r"--split train: .* has no splits"):
        prepared_from(tmp_path, folder, split="train")


def test_an_lmdb_without_the_library(files, tmp_path, monkeypatch):
    path = as_lmdb(tmp_path / "church_lmdb", {"k": files["0.png"]})
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(InputError, match=r"pip install 'sis_rearrange\[lmdb\]'"):
        prepared_from(tmp_path, path)


def test_an_lmdb_is_left_as_it_was(files, tmp_path):
    """No lock file is written, so it may lie on a disk that cannot be written to."""
    path = as_lmdb(tmp_path / "church_lmdb", {"k": files["0.png"]})
    (path / "lock.mdb").unlink()
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert len(manifest(prepared_from(tmp_path, path))["pictures"]) == 1
    assert len(manifest(prepared_from(tmp_path, path / "data.mdb"))["pictures"]) == 1
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


# ---------------------------------------------------------------- files that cannot be used


def test_bad_files_are_left_out_or_end_it(folder, tmp_path):
    (folder / "1.jpg").write_bytes(encoded(picture(7), "JPEG")[:-300])
    (folder / "2.heic").write_bytes(b"x")
    (folder / "3.png").write_bytes(b"")
    done = prepare([folder], tmp_path / "out.zip", Settings(16), 2)
    assert [Path(where).name for where, _ in done.left_out] == ["photos: 1.jpg", "photos: 2.heic", "photos: 3.png"]
    reasons = [reason for _, reason in done.left_out]
    assert "damaged or cut off" in reasons[0] and ".heic" in reasons[1] and "empty" in reasons[2]
    assert [row["source"] for row in manifest(tmp_path / "out.zip")["left_out"]] == ["1.jpg", "2.heic", "3.png"]
    with pytest.raises(InputError, match=r"1\.jpg: .*damaged or cut off.*--strict"):
        prepare([folder], tmp_path / "strict.zip", Settings(16, strict=True), 2)
    assert not (tmp_path / "strict.zip").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "what, words",
    [
        ("empty", "no pictures there"),
        ("text", "1 not a picture by its name"),
        ("bad", "none of 1 pictures can be used"),
        ("none", "no such folder"),
    ],
)
def test_inputs_without_pictures(tmp_path, what, words):
    if what != "none":
        (tmp_path / what).mkdir()
    if what == "text":
        (tmp_path / what / "a.txt").write_text("x")
    if what == "bad":
        (tmp_path / what / "a.png").write_text("x")
    with pytest.raises(InputError, match=words):
        prepared_from(tmp_path, tmp_path / what)
    assert not (tmp_path / "out.zip").exists()


def test_links_and_pipes_in_folders(folder, tmp_path):
    (folder / "again").symlink_to(folder)
    (folder / "link.png").symlink_to(folder / "0.png")
    (folder / "lost.png").symlink_to(folder / "gone.png")
    os.mkfifo(folder / "pipe.png")
    facts = manifest(prepared_from(tmp_path, folder))
    assert len(facts["pictures"]) == 6 and facts["skipped"]["symbolic link to a folder"] == 1
    assert {row["source"]: row["reason"] for row in facts["left_out"]} == {
        "lost.png": "cannot be read (No such file or directory)",
        "pipe.png": "is not a regular file",
    }


@pytest.mark.parametrize("options, words", [
    ({"resolution": 100}, "--resolution 100"), ({"resolution": 4}, "--resolution 4"), ({"resolution": -8}, "--resol"),
    ({"fit": "crap"}, "did you mean 'crop'"), ({"split": "tests"}, "--split tests"), ({"limit": 0}, "--max 0"),
    ({"layout": "fhq"}, "did you mean 'ffhq'")])  # fmt: skip
def test_settings_that_cannot_be(folder, tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        prepared_from(tmp_path, folder, **options)


def test_an_interrupted_preparation_leaves_the_old_file(folder, tmp_path, monkeypatch):
    out = prepared_from(tmp_path, folder)
    before = out.read_bytes()
    monkeypatch.setattr(module._Run, "finish", lambda self, inputs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepared_from(tmp_path, folder)
    assert out.read_bytes() == before and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_killed_preparation_left_is_removed_by_the_next(folder, tmp_path, workers):
    """And nothing else: neither the file of one that is under way, nor hidden files of others."""
    code = f"""
import os, signal
from pathlib import Path
from sis_rearrange.data import prepare as module
module._Run.finish = lambda self, inputs: os.kill(os.getpid(), signal.SIGKILL)
module.prepare([Path({str(folder)!r})], Path({str(tmp_path / "killed.zip")!r}), module.Settings(16), {workers})
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (left,) = tmp_path.glob(".*")
    others = [tmp_path / f".{'0' * 16}.tmp", tmp_path / ".mine.prepare.tmp"]
    for path in others:
        path.write_bytes(b"somebody's")
    with module._Writer(tmp_path / "slow.zip") as under_way:
        deadline = time.monotonic() + 30  # its workers end within a second or so, and hold the file until then
        while left.exists() and time.monotonic() < deadline:
            prepared_from(tmp_path, folder)
        assert {*tmp_path.glob(".*")} == {*others, under_way._temporary}
        under_way.add("a", b"b")
        under_way.commit()
    assert {*tmp_path.glob(".*")} == {*others} and zipfile.ZipFile(tmp_path / "slow.zip").read("a") == b"b"


def test_outputs_that_cannot_be(folder, files, tmp_path):
    archive = as_zip(tmp_path / "in.zip", files)
    for out, words in ((archive, "one of the inputs"), (tmp_path / "a.tar", "end in .zip"), (folder, "end in .zip")):
        with pytest.raises(InputError, match=words):
            prepare([archive], out, Settings(16), 1)
    with pytest.raises(InputError, match=r"notes\.txt/out\.zip: cannot be written"):
        prepare([archive], folder / "notes.txt" / "out.zip", Settings(16), 1)


def test_the_command(folder, tmp_path):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    shutil.copy(folder / "0.png", folder / "copy.png")
    done = CliRunner().invoke(main, ["data", "prepare", str(folder), str(tmp_path / "o.zip"), "--resolution", "32"])
    assert done.exit_code == 0, done.output
    assert done.stderr == f"left out: {folder}: broken.jpg: {done.stderr.split('broken.jpg: ')[1]}"  # no bar in a log
    assert "enlarged: 6 were smaller than 32 px" in done.stdout and "repeated: 1 came before" in done.stdout
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'o.zip'}: 6 pictures of 32 px, left out 1"
    assert is_prepared(tmp_path / "o.zip") and not is_prepared(folder)
    done = CliRunner().invoke(
        main, ["data", "prepare", str(folder), str(tmp_path / "p.zip"), "--resolution", "32", "--strict"]
    )
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1 and "broken.jpg" in done.stderr


def test_a_name_that_is_no_text_can_be_printed(folder, tmp_path):
    code = "import sys; from sis_rearrange.cli import main; main(sys.argv[1:], prog_name='sis')"
    command = [sys.executable, "-c", code, "data", "prepare", folder, os.fsencode(tmp_path) + b"/\xff.zip"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in most locales
    done = subprocess.run([*command, "--resolution", "16"], cwd=ROOT, env=strict, capture_output=True)
    assert done.returncode == 0 and done.stdout.endswith(b"\\udcff.zip: 5 pictures of 16 px\n"), done.stderr


def test_a_prepared_zip_can_be_prepared_again(folder, tmp_path):
    """Smaller, say: its manifest is no picture."""
    first = prepared_from(tmp_path, folder).rename(tmp_path / "first.zip")
    facts = manifest(prepared_from(tmp_path, first, resolution=8))
    assert len(facts["pictures"]) == 5 and facts["pictures"][0]["source"] == "00000/img00000000.png"


def test_the_output_may_lie_in_the_folder(folder, tmp_path):
    """Neither it nor its unfinished form is counted."""
    expected = prepared_from(tmp_path, folder).read_bytes()
    prepare([folder], folder / "out.zip", Settings(16), 1)
    assert (folder / "out.zip").read_bytes() == expected


def test_the_commands_choices_are_those_of_the_package():
    """They are written down twice, so that asking for help loads nothing."""
    chosen = {option.name: option.type.choices for option in main.commands["data"].commands["prepare"].params[2:]
              if hasattr(option.type, "choices")}  # fmt: skip
    assert {name: tuple(values) for name, values in chosen.items()} == {"fit": FITS, "layout": LAYOUTS, "split": SPLITS}


def test_containers_are_told_by_content_not_by_name(files, tmp_path):
    kinds = {as_zip(tmp_path / "a.tar", files): "Zip", as_tar(tmp_path / "b.zip", files): "Tar"}
    assert {path: type(open_container(path)).__name__ for path in kinds} == kinds
