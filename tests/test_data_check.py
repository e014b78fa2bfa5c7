"""`sis data check`: every bad file is named, everything else counted, and pictures that occur twice are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageEnhance
from test_data_prepare import as_zip, encoded, picture

from sis_rearrange.cli import main
from sis_rearrange.data import likeness
from sis_rearrange.data.check import check
from sis_rearrange.data.likeness import Look, find_alike, look_at
from sis_rearrange.data.prepare import Settings, prepare
from sis_rearrange.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def scene(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """A picture with structure at many scales, as photos have."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (2, 4, 8, 16, 32):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float) / cells**0.5
    total -= total.min()
    return Image.fromarray((total / total.max() * 255).astype(np.uint8))


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "photos"
    path.mkdir()
    for number in range(3):
        picture(number).save(path / f"{number}.png")
    picture(3, 40, 24).save(path / "wide.jpg", quality=95)
    picture(4).convert("L").save(path / "grey.png")
    (path / "notes.txt").write_text("x")
    (path / ".DS_Store").write_text("x")
    return path


def test_a_sound_folder(folder):
    report = check(folder)
    assert (report.pictures, report.bad, report.usable) == (5, [], True)
    assert report.skipped == {"hidden": 1, "not a picture by its name (.txt)": 1}
    assert report.sizes == {"24x24": 4, "40x24": 1} and report.modes == {"RGB": 4, "L": 1}
    assert (report.not_square, report.smallest_side) == (1, 24)
    assert report.duplicates == report.near_duplicates == []
    text = "\n".join(report.lines())
    assert "5 pictures can be used, 0 cannot" in text and "not square: 1; prepare them with --fit crop" in text


def test_every_bad_file_is_named_with_its_reason(folder):
    (folder / "broken.jpg").write_bytes(encoded(picture(5), "JPEG")[:-200])
    (folder / "text.png").write_text("no picture")
    (folder / "phone.heic").write_bytes(b"x")
    picture(6, 4, 24).save(folder / "thin.png")
    reasons = dict(check(folder).bad)
    assert list(reasons) == ["broken.jpg", "phone.heic", "text.png", "thin.png"]
    words = ("damaged or cut off", ".heic pictures are not read", "not a picture in a known format", "too few")
    assert all(word in reason for word, reason in zip(words, reasons.values(), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_report_does_not_depend_on_workers_or_packing(folder, tmp_path, workers):
    packed = as_zip(tmp_path / "x.zip", {file.name: file.read_bytes() for file in folder.iterdir()})
    one, two = (check(path, workers).as_json() for path in (folder, packed))
    assert one.pop("path") != two.pop("path") and one == two


def test_exact_duplicates_are_those_with_the_same_pixels(folder):
    Image.open(folder / "0.png").save(folder / "again.bmp")
    report = check(folder)
    assert report.duplicates == [["0.png", "again.bmp"]] and report.near_duplicates == []
    assert "the same pixels: 1 beyond the first of their kind" in "\n".join(report.lines())


def test_near_duplicates(tmp_path):
    """Saved again, scaled, retouched: found; another picture, or a flat one: not."""
    for number in range(12):
        scene(number).save(tmp_path / f"scene{number:02d}.png")
    first = scene(0)
    first.save(tmp_path / "a-jpeg.jpg", quality=60)
    first.resize((80, 60), Image.Resampling.LANCZOS).save(tmp_path / "b-small.jpg", quality=80)
    ImageEnhance.Contrast(first).enhance(0.97).save(tmp_path / "c-contrast.png")
    for level in (0, 128, 255):
        Image.new("RGB", (64, 64), (level,) * 3).save(tmp_path / f"flat{level}.png")
    report = check(tmp_path, 1)
    assert report.near_duplicates == [["a-jpeg.jpg", "b-small.jpg", "c-contrast.png", "scene00.png"]]
    threshold = report.as_json()["near_threshold"]
    assert threshold == {"hash": "dHash 16x16", "bits": likeness.THRESHOLD, "of": 256}


def test_the_threshold_lies_between_copies_and_others():
    """With room on both sides."""
    looks = [look_at(scene(number)) for number in range(20)]
    copies = [look_at(scene(number).resize((90, 70), Image.Resampling.LANCZOS)) for number in range(20)]

    def apart(one: Look, two: Look) -> int:
        pair = (np.frombuffer(look.bits, np.uint8) for look in (one, two))
        return int(np.unpackbits(np.bitwise_xor(*pair)).sum())

    assert max(apart(one, two) for one, two in zip(looks, copies, strict=True)) <= likeness.THRESHOLD - 4
    others = [apart(looks[i], looks[j]) for i in range(20) for j in range(i)]
    assert min(others) >= 2 * likeness.THRESHOLD


def test_alike_pictures_are_found_across_blocks_and_at_the_limit(monkeypatch):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (50, 256), dtype=np.uint8)
    grey = bytes(64)
    for place, flips in ((30, likeness.THRESHOLD), (41, 1), (45, likeness.THRESHOLD + 1)):
        bits[place] = bits[7]
        bits[place, :flips] ^= 1
    looks = [Look(np.packbits(row).tobytes(), grey) for row in bits]
    expected = [[7, 30, 41, 45]]  # 45 is not like 7 but like 30
    for block in (4, 16, 4096):
        monkeypatch.setattr(likeness, "_BLOCK", block)
        assert find_alike(looks) == expected
    looks[41] = Look(looks[41].bits, bytes([int(likeness.GREY) + 1] * 64))
    assert find_alike(looks) == [[7, 30, 45]]
    monkeypatch.setattr(likeness, "MAX_COMPARED", 10)
    assert find_alike(looks) == [] and find_alike([*looks, looks[3]]) == [[3, 50]]
    assert find_alike(looks[:1]) == find_alike([]) == []


def test_a_prepared_zip_is_held_against_its_hashes(folder, tmp_path):
    out = tmp_path / "out.zip"
    prepare([folder], out, Settings(16, fit="crop"), 1)
    report = check(out)
    assert (report.pictures, report.prepared, report.usable) == (5, 16, True)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(out.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"cut\.zip: the zip file is damaged or cut off"):
        check(cut)
    data = bytearray(out.read_bytes())
    place = data.index(b"IDAT") + 12
    data[place] ^= 255
    out.write_bytes(data)
    report = check(out)
    assert report.pictures == 4 and report.bad[0][0] == "00000/img00000000.png"
    assert "is not what was prepared" in report.bad[0][1]


def run(*args: str | Path):
    return CliRunner().invoke(main, ["data", "check", *map(str, args)])


def test_the_command_and_its_exit_codes(folder, tmp_path):
    done = run(folder)
    assert done.exit_code == 0 and done.stderr == "" and "5 pictures can be used" in done.stdout
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    done = run(folder)
    assert done.exit_code == 2 and done.stdout.startswith("bad: broken.jpg: ")
    assert done.stderr == f"Error: {folder}: 1 of 6 pictures cannot be used\n"
    done = run(folder, "--json")
    facts = json.loads(done.stdout)
    assert done.exit_code == 2 and facts["bad"][0]["file"] == "broken.jpg" and facts["usable"] is False
    (tmp_path / "none").mkdir()
    done = run(tmp_path / "none")
    assert done.exit_code == 2 and done.stderr == f"Error: {tmp_path / 'none'}: no pictures there\n"
    assert "no such folder or file" in run(tmp_path / "nowhere").stderr


def test_names_that_cannot_be_printed(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a\x1b[31m.png", "line\nbreak.png", "broken\udcff.png"):
        (tmp_path / "in" / name).write_bytes(encoded(picture(0)) if name[0] == "a" else b"x")
    done = run(tmp_path / "in")
    assert done.exit_code == 2 and done.stdout.splitlines()[:2] == [
        r"bad: 'broken\udcff.png': not a picture in a known format (PNG, JPEG, WEBP, BMP, GIF, TIFF)",
        r"bad: 'line\nbreak.png': not a picture in a known format (PNG, JPEG, WEBP, BMP, GIF, TIFF)",
    ]
    assert "\x1b" not in done.stdout and json.loads(run(tmp_path / "in", "--json").stdout)["pictures"] == 1


def test_the_name_of_a_folder_may_have_a_line_break(tmp_path):
    (tmp_path / "two\nlines").mkdir()
    assert run(tmp_path / "two\nlines").stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error(folder):
    """As in `sis data check photos | head`."""
    code = "import sys; from sis_rearrange.cli import main; main(sys.argv[1:], prog_name='sis')"
    command = [sys.executable, "-c", code, "data", "check", str(folder), "--workers", "0"]
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as closed:
        done = subprocess.run(command, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert "Error" not in done.stderr and "Broken pipe" not in done.stderr


@pytest.mark.parametrize("name", ["a.rar", "a.7z", "a.txt"])
def test_what_is_no_container(tmp_path, name):
    (tmp_path / name).write_bytes(b"Rar!\x1a\7" * 100)
    with pytest.raises(InputError, match="is none of what is read: a folder, zip, tar, tar.gz or LMDB"):
        check(tmp_path / name)


def test_the_commands_do_not_load_torch(folder):
    code = f"""
import sys
from click.testing import CliRunner
from sis_rearrange.cli import main
assert CliRunner().invoke(main, ["data", "check", {str(folder)!r}, "--workers", "0"]).exit_code == 0
print([name for name in ("torch", "scipy", "sklearn", "lmdb") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
