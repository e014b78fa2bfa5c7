"""A StyleGAN2 of full size, from the official pickle to a picture, on the CPU: each step in a process of its own.

Takes about ten minutes on two idle cores, so it runs only when asked for:

    SIS_FULL_SIZE=1 python -m pytest -s tests/test_full_size.py

prints minutes and peak memory of every step. The weights are random, so the pictures are noise.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from sis_rearrange.pack import load_pack, verify_pack

ROOT = Path(__file__).resolve().parent.parent
LIMIT_GB = 12.0
TAP = int(os.environ.get("SIS_FULL_SIZE_TAP", "64"))

pytestmark = pytest.mark.skipif("SIS_FULL_SIZE" not in os.environ, reason="ten minutes; set SIS_FULL_SIZE=1")

WRITE = """
import sys, torch
from pathlib import Path
from official_pickles import write_pytorch
from sis_rearrange.stylegan2 import Discriminator, Generator
torch.manual_seed(0)
kwargs = dict(z_dim=512, c_dim=0, w_dim=512, img_resolution=256, img_channels=3)
generator = Generator(**{k: v for k, v in kwargs.items()}, channel_base=32768).requires_grad_(False)
for name, tensor in generator.state_dict().items():
    if name.endswith(("noise_strength", "w_avg")):
        tensor.normal_().mul_(0.1)
    if "torgb.weight" in name:
        tensor.mul_(0.2)  # pictures in about [-1, 1]
networks = {"G_ema": generator.state_dict(), "D": Discriminator(0, 256, channel_base=32768).state_dict()}
config = {**kwargs, "synthesis_kwargs": dict(channel_base=32768, channel_max=512, num_fp16_res=4)}
write_pytorch(Path(sys.argv[1]), networks, {"G_ema": config})
"""

# As train_rearranger.py, with the adversarial term from the first step on, which a run so short would not reach.
REARRANGE = """
import sys
from pathlib import Path
from sis_rearrange.training.pack_training import train_pack_rearranger
from sis_rearrange.training.rearranger import RearrangerConfig
config = RearrangerConfig(kimg=0.008, batch=4, own=1, adversarial_after=0.0, guide_samples=16)
print(train_pack_rearranger(sys.argv[1], Path(sys.argv[2]), config))
"""


def run(what: str, *command: str) -> None:
    """Run a command; print how long it took and its peak memory, and hold the latter to the limit."""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    gigabytes = usage.ru_maxrss * 1024 / 1e9
    print(f"\n{what}: {(time.monotonic() - started) / 60:.1f} min, peak {gigabytes:.1f} GB", flush=True)
    assert process.returncode == 0, command
    assert gigabytes < LIMIT_GB


def test_from_the_pickle_to_a_picture(tmp_path):
    pickle, pack, drawing = tmp_path / "config-f-256.pkl", tmp_path / "big", tmp_path / "drawing.png"
    python = (sys.executable, "-c")
    command = (*python, "from sis_rearrange.cli import main; main(prog_name='sis')")
    canvas = Image.new("L", (512, 512), 255)
    ImageDraw.Draw(canvas).ellipse([90, 60, 420, 460], outline=0, width=6)
    canvas.save(drawing)
    run("write the pickle", *python, WRITE, str(pickle))
    fit = ("--tap", str(TAP), "--clusters", "25", "--proxy-samples", "32")
    run("sis pack new", *command, "pack", "new", str(pack), "--generator", str(pickle), *fit)
    run("train the rearranger, 2 steps of 4", *python, REARRANGE, str(pack), str(tmp_path / "rearranger"))
    mapper = ("--condition", "sketch", "--cycle", "0", "--kimg", "0.032", "--batch", "8")
    script = str(ROOT / "train_mapper.py")
    run("train the sketch mapper, 4 steps of 8", sys.executable, script, str(pack), *mapper, "--run",
        str(tmp_path / "mapper"))  # fmt: skip
    pictures = ("--condition", "sketch", str(drawing), "--seeds", "0-1", "--out", str(tmp_path / "out"))
    run("sis synthesize, 2 pictures", *command, "synthesize", str(pack), *pictures)
    assert verify_pack(pack) == [] and load_pack(pack).proxy().resolution == TAP
    with Image.open(tmp_path / "out/drawing_seed1.png") as image:
        assert image.size == (256, 256) and len(set(image.convert("L").tobytes())) > 50
