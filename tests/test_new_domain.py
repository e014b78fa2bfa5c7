"""docs/new-domain.md as a stranger follows it: from a folder with everything in it to a picture of a sketch."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "new-domain.md").read_text()
# What makes the documented commands tiny: option -> value. Everything else is as it is written.
TINY = {
    "prepare": {"--resolution": "32"},
    "train_generator.py": {"--resolution": "32", "--kimg": "0.008", "--batch": "4", "--z-dim": "16", "--w-dim": "16",
                           "--num-layers": "2", "--channel-base": "256", "--channel-max": "16", "--workers": "1"},
    "train_rearranger.py": {"--kimg": "0.008", "--batch": "4", "--tap": "16", "--clusters": "4",
                            "--proxy-samples": "16", "--save-every": "2"},
    "train_mapper.py": {"--kimg": "0.016", "--batch": "8", "--widths": "8,16", "--save-every": "2"},
}  # fmt: skip


def documented() -> list[list[str]]:
    """The commands of the section on photos, in order."""
    section = TEXT.split("## 3. A folder of photos")[1].split("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return [shlex.split(line, comments=True) for line in "".join(blocks).replace("\\\n", " ").splitlines() if line]


def tiny(words: list[str]) -> list[str]:
    """A documented command with the options of `TINY`."""
    for name, value in next((options for key, options in TINY.items() if key in words), {}).items():
        if name in words:
            words[words.index(name) + 1] = value
        else:
            words += [name, value]
    return words


def photos(folder: Path) -> None:
    """Twelve pictures of three sizes, and what lies about in such folders."""
    (folder / "holiday").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, size in enumerate([(90, 60), (60, 90), (64, 64)] * 4):
        image = Image.new("RGB", size, tuple(int(value) for value in rng.integers(120, 255, 3)))
        x, y = rng.integers(5, 30, 2)
        ImageDraw.Draw(image).ellipse((x, y, x + 30, y + 25), tuple(int(value) for value in rng.integers(0, 120, 3)))
        image.save(folder / ("holiday" if number % 2 else ".") / f"photo {number}.jpg", quality=90)
    whole = (folder / "photo 0.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "read me.txt").write_text("my photos")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    still = Image.open(folder / "photo 2.jpg").quantize(32)
    still.save(folder / "still.gif")
    still.save(folder / "moving.gif", save_all=True, append_images=[still.rotate(90)])


def follow(words: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    if words[0] == "python":
        command = [sys.executable, str(ROOT / words[1]), *words[2:]]
    else:
        command = [sys.executable, "-c", "from sis_rearrange.cli import main; main(prog_name='sis')", *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)


def test_a_folder_of_photos_becomes_a_pack_that_draws(tmp_path):
    photos(tmp_path / "photos")
    drawing = Image.new("L", (64, 64), 255)
    ImageDraw.Draw(drawing).ellipse((14, 18, 46, 44), outline=0, width=2)
    drawing.save(tmp_path / "drawing.png")
    done = {}
    for words in documented():
        name = " ".join(words[:3]) if words[0] == "sis" else words[1]
        done[name] = follow(tiny(words), tmp_path)
        expected = 2 if name == "sis data check" and "photos/" in words else 0  # there are bad files
        assert done[name].returncode == expected, f"{shlex.join(words)}\n{done[name].stdout}{done[name].stderr}"
        assert "Traceback" not in done[name].stderr
    check, prepare = done["sis data check"], done["sis data prepare"]
    assert "bad: broken.jpg: the picture is damaged or cut off" in check.stdout
    assert "bad: moving.gif: an animated GIF" in check.stdout
    assert "skipped: 1 hidden" in check.stdout and "not a picture by its name (.txt)" in check.stdout
    assert "not square: 8; prepare them with --fit crop" in check.stdout
    assert check.stderr == "Error: photos: 2 of 15 pictures cannot be used\n"
    assert "wrote photos64.zip: 13 pictures of 32 px, left out 2" in prepare.stdout
    assert {"train_generator.py", "train_rearranger.py", "train_mapper.py"} <= set(done)
    pictures = sorted((tmp_path / "out").glob("drawing_seed*.png"))
    assert [path.name for path in pictures] == [f"drawing_seed{seed}.png" for seed in range(4)]
    for path in pictures:
        with Image.open(path) as image:
            assert image.size == (32, 32)


def test_the_photos_section_holds_the_whole_way():
    """Every step, and no option of a step that only the test would know."""
    names = [words[1] if words[0] == "python" else " ".join(words[1:3]) for words in documented()]
    wanted = ["data check", "data prepare", "train_generator.py", "train_rearranger.py", "train_mapper.py"]
    assert [name for name in names if name in wanted] == wanted
    assert names[-1].startswith("synthesize")


def test_photos_before_they_are_prepared_are_refused_by_name(tmp_path):
    """Someone who goes on without it is told which file is the matter, and what to do."""
    photos(tmp_path / "photos")
    command = "python train_generator.py packs/p --data photos --run runs/g --fit crop --save-every 1"
    done = follow(tiny(shlex.split(command)), tmp_path)
    assert done.returncode == 2 and len([line for line in done.stderr.splitlines() if line.startswith("Error: ")]) == 1
    assert re.search(r"photos/(broken\.jpg|moving\.gif): .*`prepare` leaves them out", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
